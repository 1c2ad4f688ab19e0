//! Building on a Nix daemon, over a socket or SSH.
//!
//! ```no_run
//! use tvix_build_api::BuilderProfile;
//! use tvix_build_api::daemon::{DaemonBuilder, DaemonBuilderOptions};
//! use tvix_store_api::daemon::DaemonOptions;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let daemon = DaemonOptions::new("ssh-ng://builder.example".parse()?)?;
//! let profile = BuilderProfile::new("builder.example", "x86_64-linux", 4);
//! let builder = DaemonBuilder::new(DaemonBuilderOptions::new(daemon, profile));
//! # let _ = builder;
//! # Ok(())
//! # }
//! ```

mod connections;
mod deliver;
mod inputs;
mod options;
mod outcome;
mod run;
mod text;
mod untrusted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tvix_store_api::StoreError;
use tvix_store_api::daemon::{CallError, DaemonStore};

pub use self::options::DaemonBuilderOptions;

use self::connections::Connections;
use self::inputs::Inputs;
use crate::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile,
    FailureKind,
};

/// A builder on a Nix daemon: that of this machine, or one that `ssh` reaches.
///
/// - Nothing is connected to before the first build. Connections are kept for further builds, one for
///   each build at a time, beside those of a [`DaemonStore`] for inputs and outputs.
/// - Inputs that the daemon lacks are sent once, however many builds wait for them, or substituted by
///   the daemon ([`DaemonBuilderOptions::with_use_substitutes`]).
/// - A daemon that trusts the client builds the derivation of the request. Another one gets the
///   derivation as a `.drv` file with its closure, and the inputs that it accepts: those with a content
///   address or a signature that it trusts. It builds the others itself.
/// - Outputs are [pushed](crate::Delivery::Pushed) if the requested store is the daemon's own or was
///   given by [`with_store`](DaemonBuilderOptions::with_store), and [streamed](crate::Delivery::Streamed)
///   otherwise. In either case the daemon keeps them until its garbage collector runs.
/// - Limits are the daemon's to enforce, and are enforced here beside it. A cancelled build ends because
///   its connection is closed.
/// - The peak memory in [`ResourceUsage`](crate::ResourceUsage) is 0, as daemons do not measure it.
///
/// `build` must be called on a tokio runtime with I/O and time enabled. Clones share all state.
#[derive(Debug, Clone)]
pub struct DaemonBuilder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: DaemonBuilderOptions,
    store: OnceCell<DaemonStore>,
    connections: Connections,
    inputs: Inputs,
    /// Whether the daemon has refused to build input-addressed derivations.
    untrusted: AtomicBool,
}

/// Why there is no successful build.
#[derive(Debug)]
enum Trouble {
    /// The derivation is at fault.
    Failure(FailureKind),
    Builder(BuilderError),
}

impl From<BuilderError> for Trouble {
    fn from(error: BuilderError) -> Self {
        Self::Builder(error)
    }
}

impl From<FailureKind> for Trouble {
    fn from(kind: FailureKind) -> Self {
        Self::Failure(kind)
    }
}

impl DaemonBuilder {
    /// A builder on the daemon of `options`. Does not connect to it.
    pub fn new(options: DaemonBuilderOptions) -> Self {
        Self(Arc::new(Inner {
            connections: Connections::new(options.profile.max_jobs),
            store: OnceCell::new(),
            inputs: Inputs::default(),
            untrusted: AtomicBool::new(false),
            options,
        }))
    }

    fn name(&self) -> String {
        self.0.options.profile.name.clone()
    }

    /// The daemon as a store, connected to by the first call.
    async fn store(&self) -> Result<&DaemonStore, BuilderError> {
        let open = || DaemonStore::open(self.0.options.daemon.clone());
        let opened = self.0.store.get_or_try_init(open).await;
        opened.map_err(|error| self.store_failed("connect to its daemon", error))
    }

    /// An error of the daemon's store. It is the builder's, not that of the caller's store.
    fn store_failed(&self, action: &str, error: StoreError) -> BuilderError {
        match error {
            error @ StoreError::Unreachable { .. } => BuilderError::Unreachable {
                builder: self.name(),
                source: error.into(),
            },
            error => BuilderError::Backend {
                builder: self.name(),
                action: action.to_owned(),
                retryable: error.is_retryable(),
                source: error.into(),
            },
        }
    }

    fn call_failed(&self, action: &str, error: CallError) -> BuilderError {
        match error {
            error @ CallError::Connect(_) => BuilderError::Unreachable {
                builder: self.name(),
                source: error.into(),
            },
            error => BuilderError::Backend {
                builder: self.name(),
                action: action.to_owned(),
                retryable: matches!(error, CallError::Io(_)),
                source: error.into(),
            },
        }
    }

    fn backend(&self, action: &str, retryable: bool, message: impl Into<String>) -> BuilderError {
        BuilderError::Backend {
            builder: self.name(),
            action: action.to_owned(),
            retryable,
            source: message.into().into(),
        }
    }

    fn is_untrusted(&self) -> bool {
        self.0.untrusted.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Builder for DaemonBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.0.options.profile
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        if let Some(message) = self.profile().unmet(&request.requirements()) {
            let builder = self.name();
            return Err(BuilderError::Unsupported { builder, message });
        }
        let began = Instant::now();
        let cancelled = context.cancel.clone();
        let mut log = run::Log::new(&request, &context);
        let built = tokio::select! {
            biased;
            () = cancelled.cancelled() => Err(FailureKind::Cancelled.into()),
            built = self.run(&request, &context, &mut log) => built,
        };
        match built {
            Ok(success) => Ok(BuildOutcome::Success(success)),
            Err(Trouble::Builder(error)) => Err(error),
            Err(Trouble::Failure(kind)) => {
                let failure = BuildFailure::new(kind, began.elapsed());
                let usage = log.usage;
                let failure = failure.with_log_tail(log.into_tail()).with_usage(usage);
                Ok(BuildOutcome::Failure(failure))
            }
        }
    }
}
