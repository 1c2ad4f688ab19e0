//! Whether a back end blocks the thread that polls its futures.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::fixtures::Object;
use super::{CaseResult, Context as Case, Failure, cases};

cases!(polls_do_not_block);

/// A poll that takes at least this long and gave up its processor meanwhile has blocked.
const LONG: Duration = Duration::from_millis(20);

/// A machine that is busy may delay a poll that waits for a lock for a moment: a back end that
/// blocks does so each time.
const ATTEMPTS: usize = 5;

/// A future, and the longest of its polls that blocked its thread: that took long without using
/// the processor, as in a system call that waits. Known on Linux only; elsewhere no poll blocks.
///
/// For suites of other traits, too.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Polls<F> {
    future: Pin<Box<F>>,
    blocked: Option<Duration>,
}

impl<F: Future> Polls<F> {
    /// Watches the polls of a future.
    pub fn of(future: F) -> Self {
        Self {
            future: Box::pin(future),
            blocked: None,
        }
    }
}

impl<F: Future> Future for Polls<F> {
    type Output = (F::Output, Option<Duration>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (before, began) = (waits(), Instant::now());
        let polled = self.future.as_mut().poll(cx);
        let took = began.elapsed();
        if took >= LONG && waits() > before {
            self.blocked = self.blocked.max(Some(took));
        }
        polled.map(|output| (output, self.blocked))
    }
}

/// How often this thread has given up its processor to wait.
fn waits() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count?.trim().parse().ok()
}

async fn polls_do_not_block(context: Case) -> CaseResult {
    let store = &*context.store;
    let mut longest = None;
    for _ in 0..ATTEMPTS {
        let Object { info, nar } = Object::small("polls");
        let path = info.path.clone();
        let work = async {
            store.path_info(&path).await?;
            store.add(info, stream::iter([Ok(nar)]).boxed()).await?;
            store.valid_paths(std::slice::from_ref(&path)).await?;
            store.find(path.digest()).await?;
            store.on_disk(&path).await?;
            let nar = store.nar(&path).await?;
            nar.try_for_each(|_| std::future::ready(Ok(()))).await
        };
        let (done, blocked) = Polls::of(work).await;
        done?;
        if blocked.is_none() {
            return Ok(());
        }
        longest = longest.max(blocked);
    }
    let longest = longest.unwrap_or_default();
    Err(Failure::new(format!(
        "a poll blocked its thread for {longest:?}"
    )))
}
