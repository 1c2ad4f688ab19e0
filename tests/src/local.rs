//! A local store in a temporary directory, and builders for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::this_system;
use tvix_store_api::StoreExt as _;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
pub use tvix_test_support::directory::make_writable;

/// A local store, and a temporary directory for further files. Dropping it removes both.
#[derive(Debug)]
pub struct LocalWorld {
    directory: TempDir,
    /// The store.
    pub store: LocalStore,
}

impl LocalWorld {
    /// A world with an empty store.
    pub async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let options = LocalStoreOptions::new(directory.path().join("root"));
        Self {
            store: LocalStore::open(options).await.unwrap(),
            directory,
        }
    }

    /// A path next to the store.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The root of the store, for command lines.
    pub fn root(&self) -> PathBuf {
        self.beside("root")
    }

    /// A sandbox builder with a shell, which pushes outputs to the store.
    pub fn builder(&self) -> SandboxBuilder {
        self.streaming_builder().with_local_store(&self.store)
    }

    /// A sandbox builder with a shell, which knows no store and streams outputs.
    pub fn streaming_builder(&self) -> SandboxBuilder {
        let options = SandboxOptions::new("sandbox")
            .with_scratch(self.store.state_dir().join("tvix-builds"))
            .with_sandbox_paths(sandbox_paths());
        SandboxBuilder::new(options).unwrap()
    }

    /// Adds the `.drv` file to the store, as an evaluator does, and returns its path as text.
    pub async fn write(&self, made: &Instantiated) -> String {
        let contents = made.derivation.to_aterm(&made.store_dir);
        let name = made.path.name().clone();
        let references = made.derivation.references();
        let added = self.store.add_text(name, &contents, references).await;
        assert_eq!(added.unwrap(), made.path);
        absolute(&made.path)
    }

    /// All valid paths.
    pub async fn valid(&self) -> Vec<StorePath> {
        self.store.all_valid_paths().await.unwrap()
    }

    /// The contents of an output that is a file.
    pub fn read(&self, path: &StorePath) -> String {
        fs::read_to_string(self.store.real_path(path)).unwrap()
    }

    /// Checks the contents of all valid paths, and that there are no other files in the store
    /// directory or in the builders' directories.
    pub async fn expect_clean(&self) {
        let valid: BTreeSet<String> = self.valid().await.iter().map(ToString::to_string).collect();
        for path in self.valid().await {
            self.store.verify(&path).await.unwrap();
        }
        for name in names_in(self.store.real_store_dir()) {
            // Names that start with a dot are not store objects; `.links` belongs to Nix.
            assert!(
                name.starts_with('.') || valid.contains(&name),
                "'{name}' is left in the store"
            );
        }
        // The scratch directory of a build is removed in the background, and so a little later.
        let state = self.store.state_dir();
        let left = || -> Vec<PathBuf> {
            let folders = ["tvix-builds", "tmp-tvix"].into_iter();
            let files = folders.flat_map(|folder| files_below(&state.join(folder)));
            // Root directories of sandboxes, which a live builder keeps ready.
            files
                .filter(|file| !file.components().any(|part| part.as_os_str() == "roots"))
                .collect()
        };
        for _ in 0..1000 {
            if left().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("scratch is left: {:?}", left());
    }
}

impl Drop for LocalWorld {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}

/// A derivation that runs a shell script, which stops at the first error.
pub fn shell(name: &str, script: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, this_system(), "/bin/sh")
        .args(["-e", "-c", script])
        .env("PATH", "/usr/bin:/bin")
}

/// The derivation with paths in `/nix/store`.
pub fn instantiate(builder: DerivationBuilder) -> Instantiated {
    builder.instantiate(&StoreDir::default()).unwrap()
}

/// The absolute path in `/nix/store`.
pub fn absolute(path: &StorePath) -> String {
    StoreDir::default().display(path).to_string()
}

/// The paths that sandboxes need for `/bin/sh`: a static busybox if there is one, because it
/// includes all tools and needs no libraries; otherwise the programs and libraries of this machine.
pub fn sandbox_paths() -> Vec<SandboxPath> {
    match find_in_path("busybox") {
        Some(busybox) => vec![SandboxPath::new(busybox, "/bin/sh")],
        None => SandboxPath::host_toolchain(),
    }
}

/// The path of a program in `PATH`.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The names in a directory; empty if the directory does not exist.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// All non-empty files below a directory. Empty files are locks, and directories are kept for
/// reuse.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names_in(directory) {
        let path = directory.join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            found.extend(files_below(&path));
        } else if metadata.len() > 0 {
            found.push(path);
        }
    }
    found
}
