//! Connections that builds run on.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use tvix_store_api::daemon::{CallError, DaemonConnection, DaemonOptions};
use tvix_worker_protocol::{Feature, Obsolete, SetOptions, Verbosity, VerbosityLevel};

use crate::BuildRequest;

/// Idle connections of a builder. Their daemons keep the outputs that were built on them.
#[derive(Debug)]
pub(super) struct Connections {
    idle: Mutex<Vec<Open>>,
    most: usize,
}

/// A connection, and the settings that were sent on it.
#[derive(Debug)]
struct Open {
    connection: DaemonConnection,
    settings: Settings,
}

/// The settings of a build that its daemon is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Settings {
    timeout: u64,
    silence: u64,
    log_bytes: u64,
    cores: u64,
}

impl Settings {
    fn of(request: &BuildRequest) -> Self {
        // The limits are enforced here too, so that those of the daemon may be later.
        let seconds = |limit: Option<std::time::Duration>| limit.map_or(0, |it| it.as_secs() + 2);
        Self {
            timeout: seconds(request.limits.wall_time),
            silence: seconds(request.limits.silence),
            log_bytes: request.limits.log_bytes.unwrap_or(0),
            cores: request.cores as u64,
        }
    }

    fn request(self, jobs: usize, substitute: bool) -> SetOptions {
        let overrides = [
            ("timeout", self.timeout),
            ("max-build-log-size", self.log_bytes),
        ];
        let overrides = overrides.into_iter().filter(|(_, value)| *value > 0);
        SetOptions {
            keep_failed: false,
            keep_going: false,
            try_fallback: true,
            verbosity: VerbosityLevel(Verbosity::Info),
            max_build_jobs: jobs as u64,
            max_silent_time: self.silence,
            use_build_hook: Obsolete,
            verbose_build: VerbosityLevel(Verbosity::Error),
            log_type: Obsolete,
            print_build_trace: Obsolete,
            build_cores: self.cores,
            use_substitutes: substitute,
            overrides: overrides
                .map(|(name, value)| (name.into(), value.to_string().into()))
                .collect(),
        }
    }
}

/// A connection for one build. It is kept if all is answered, and closed otherwise.
#[derive(Debug)]
pub(super) struct Lent<'c> {
    connections: &'c Connections,
    /// `None` only while it is dropped.
    open: Option<Open>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self {
            idle: Mutex::default(),
            most,
        }
    }

    /// A connection with the settings of a build, perhaps a new one.
    ///
    /// A connection on which nothing was set has the settings of the daemon's machine, which are
    /// better than defaults of ours: they are only replaced if the build has limits or a number of
    /// cores.
    pub async fn lend(
        &self,
        daemon: &DaemonOptions,
        request: &BuildRequest,
        use_substitutes: bool,
    ) -> Result<Lent<'_>, CallError> {
        let mut open = match self.take_idle() {
            Some(open) => open,
            None => Open {
                connection: DaemonConnection::open(daemon).await?,
                settings: Settings::default(),
            },
        };
        let settings = Settings::of(request);
        let may_set = !open
            .connection
            .features()
            .contains(Feature::DisableSetOptions);
        if may_set && open.settings != settings {
            let call = settings.request(self.most, use_substitutes);
            open.connection.call(&call).await?;
            open.settings = settings;
        }
        Ok(Lent {
            connections: self,
            open: Some(open),
        })
    }

    fn take_idle(&self) -> Option<Open> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut open) = idle.pop() {
            if open.connection.is_reusable() {
                return Some(open);
            }
        }
        None
    }
}

impl Deref for Lent<'_> {
    type Target = DaemonConnection;

    fn deref(&self) -> &DaemonConnection {
        match &self.open {
            Some(open) => &open.connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut DaemonConnection {
        match &mut self.open {
            Some(open) => &mut open.connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(mut open) = self.open.take()
            && open.connection.is_reusable()
        {
            let idle = self.connections.idle.lock();
            let mut idle = idle.unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.connections.most {
                idle.push(open);
            }
        }
    }
}
