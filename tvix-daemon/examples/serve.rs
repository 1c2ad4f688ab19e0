//! Serves a local store to clients of Nix, with builds in a sandbox.
//!
//! ```sh
//! cargo run -p tvix-daemon --example serve -- ROOT SOCKET [SANDBOX_PATH…]
//! NIX_REMOTE="unix://SOCKET?root=ROOT" nix-build '<nixpkgs>' -A hello
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_coordinator::Coordinator;
use tvix_daemon::local::{LocalSettings, LocalStores};
use tvix_daemon::{Access, Builds, Daemon, DaemonOptions, bind};
use tvix_eval_api::drv::DrvEvaluator;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreError};

fn builds(store: LocalStore, paths: &[SandboxPath]) -> Result<Builds, StoreError> {
    let mut options = SandboxOptions::new("local")
        .with_sandbox_paths(paths.iter().cloned())
        .with_keep_failed(store.state_dir().join("tvix-failed"));
    let nix = ["benchmark", "big-parallel", "nixos-test"];
    options.features.extend(nix.map(str::to_owned));
    let logs = store.state_dir().join("../log/nix/drvs");
    let store = Arc::new(store);
    let builder = SandboxBuilder::new(options).map_err(|error| StoreError::Backend {
        store: store.uri().clone(),
        action: "prepare builds".into(),
        retryable: false,
        source: error.into(),
    })?;
    let builder = builder.with_local_store(store.clone());
    let evaluator = DrvEvaluator::new(store.store_dir().clone(), Vec::new());
    let coordinator = Coordinator::new(Arc::new(evaluator), store).with_builder(Arc::new(builder));
    Ok(Builds::new(coordinator).with_log_directory(logs, true))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tvix_build_api::sandbox::init();
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(socket)) = (args.next(), args.next()) else {
        return Err("usage: serve ROOT SOCKET [SANDBOX_PATH…]".into());
    };
    let paths = args
        .map(|path| path.parse())
        .collect::<Result<Vec<SandboxPath>, _>>()?;
    let options = LocalStoreOptions::new(PathBuf::from(root));
    let stores = LocalStores::open(options, LocalSettings::default()).await?;
    let stores = stores.with_builds(Arc::new(move |store| builds(store, &paths)));
    let trusted = Access::default().with_trusted(["*"]);
    let daemon = Daemon::new(
        Arc::new(stores),
        DaemonOptions::default().with_access(trusted),
    );
    daemon
        .listen(bind(&PathBuf::from(socket))?, CancellationToken::new())
        .await;
    Ok(())
}
