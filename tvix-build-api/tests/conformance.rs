//! The builders of this crate keep the contract of `Builder`, also through pointers.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

#[cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
mod common;

use std::sync::Arc;

use nix_compat::store_path::StoreDir;
use tvix_build_api::Builder;
use tvix_build_api::conformance::{Capabilities, Subject, run_all};
use tvix_store_api::{MemoryStore, Store};

fn memory_store(dir: &str) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreDir::new(dir).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    let capabilities = Capabilities::default().with_floating(true);
    let factory = || async { Subject::in_memory() };
    run_all(factory, capabilities).await.assert_all();
    let through_pointers = || async {
        Subject::in_memory_with(memory_store("/other/dir"), |builder| {
            let boxed: Box<dyn Builder> = Box::new(Arc::new(builder));
            boxed
        })
    };
    run_all(through_pointers, capabilities).await.assert_all();
}

#[cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
mod sandbox {
    use nix_compat::derivation::DerivationBuilder;
    use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
    use tvix_build_api::this_system;
    use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};

    use super::*;
    use crate::common::{Directory, again_as_an_ordinary_user, busybox};

    /// The processes with this word in their arguments.
    fn processes_with(word: &str) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let arguments = processes
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|arguments| String::from_utf8_lossy(&arguments).into_owned());
        arguments.filter(|text| text.contains(word)).collect()
    }

    fn subject(
        builder: SandboxBuilder,
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
    ) -> Subject {
        let dir = store.store_dir().clone();
        let builder: Arc<dyn Builder> = Arc::new(builder);
        Subject::new(builder, store, move |name, script| {
            // The name is in the arguments, so that the process can be found.
            let script = format!(": {name}\n{}", script.to_shell(&dir));
            DerivationBuilder::new(name, this_system(), "/bin/sh").args(["-c", &script])
        })
        .leftovers(move |name| {
            let _keep = &directory;
            processes_with(name)
        })
    }

    fn options(options: SandboxOptions) -> SandboxOptions {
        options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn beside_a_local_store() {
        for dir in ["/nix/store", "/other/place", "/tmp/place/store"] {
            let factory = || async {
                let directory = Arc::new(Directory::new());
                let root = directory.path().join("root");
                let store_options =
                    LocalStoreOptions::new(root).with_store_dir(StoreDir::new(dir).unwrap());
                let store = LocalStore::open(store_options).await.unwrap();
                let builder = SandboxBuilder::new(options(SandboxOptions::new("beside")));
                let builder = builder.unwrap().with_local_store(&store);
                subject(builder, Arc::new(store), directory)
            };
            let capabilities = Capabilities::default()
                .with_floating(true)
                .with_log_limits(true);
            run_all(factory, capabilities).await.assert_all();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_a_store_elsewhere() {
        let factory = || async {
            let directory = Arc::new(Directory::new());
            let store = memory_store("/nix/store");
            let scratch = directory.path().join("scratch");
            let builder = SandboxBuilder::new(options(
                SandboxOptions::new("elsewhere").with_scratch(scratch),
            ));
            let builder = builder.unwrap().with_store(store.clone());
            subject(builder, store, directory)
        };
        let capabilities = Capabilities::default()
            .with_floating(true)
            .with_log_limits(true);
        run_all(factory, capabilities).await.assert_all();
    }

    #[test]
    fn as_an_ordinary_user() {
        again_as_an_ordinary_user();
    }
}
