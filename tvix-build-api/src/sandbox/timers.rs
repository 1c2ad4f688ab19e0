//! The time limits of a build, which apply while its process runs and while its outputs are read.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::trouble::Trouble;
use crate::{BuildLimits, FailureKind};

/// The deadline of a build.
pub(super) struct Timers {
    wall: Option<(Instant, Duration)>,
    silence: Option<Duration>,
}

impl Timers {
    /// Starts the timers.
    pub fn start(limits: &BuildLimits) -> Self {
        let now = Instant::now();
        Self {
            // A deadline beyond the range of the clock means no limit.
            wall: limits
                .wall_time
                .and_then(|limit| Some((now.checked_add(limit)?, limit))),
            silence: limits.silence,
        }
    }

    /// Waits until the build exceeds its time limit; forever if there is none.
    pub async fn too_long(&self) -> FailureKind {
        match self.wall {
            Some((deadline, limit)) => {
                sleep_until(deadline).await;
                FailureKind::TimedOut { limit }
            }
            None => std::future::pending().await,
        }
    }

    /// Runs a part of the build that writes no log, unless the build is cancelled or exceeds its
    /// time limit.
    pub async fn within<T>(
        &self,
        cancel: &CancellationToken,
        part: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let silent = async {
            match self.silence {
                Some(limit) => {
                    sleep(limit).await;
                    FailureKind::Silent { limit }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(FailureKind::Cancelled.into()),
            result = part => result,
            kind = self.too_long() => Err(kind.into()),
            kind = silent => Err(kind.into()),
        }
    }
}
