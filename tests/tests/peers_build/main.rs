//! The same derivations, built by C++ Nix and by the sandbox builder: the outputs are equal, and so
//! is the environment that a builder program sees.
//!
//! `cargo test -p tvix-tests --test peers_build`; needs `nix-store` and a
//! statically linked `busybox`.
#![allow(clippy::unwrap_used)]

tvix_build_api::sandbox::init_before_main!();

mod attributes;
mod builtins;
mod outputs;
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::{BuildContext, BuildOutcome, BuildRequest, Builder, this_system};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreExt as _};
use tvix_test_support::ordinary_user;
use tvix_tests::build_users;
use tvix_tests::local::make_writable;

/// Two stores with the same derivations and inputs: one for Nix and one for this project.
struct Peers {
    directory: TempDir,
    theirs: LocalStore,
    ours: LocalStore,
    builder: SandboxBuilder,
    busybox: PathBuf,
}

impl Peers {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let open = |name| LocalStore::open(LocalStoreOptions::new(directory.path().join(name)));
        let (theirs, ours) = (open("theirs").await.unwrap(), open("ours").await.unwrap());
        let busybox = find("busybox");
        let options =
            SandboxOptions::new("ours").with_sandbox_paths([SandboxPath::new(&busybox, "/bin/sh")]);
        let builder = SandboxBuilder::new(options).unwrap();
        Self {
            builder: builder.with_local_store(&ours),
            directory,
            theirs,
            ours,
            busybox,
        }
    }

    async fn add_text(&self, name: &str, text: &str) -> StorePath {
        for store in [&self.theirs, &self.ours] {
            let added = store.add_text(name.parse().unwrap(), text.as_bytes(), [].into());
            added.await.unwrap();
        }
        let info = self.ours.all_valid_paths().await.unwrap();
        let mut named = info.into_iter().filter(|path| path.name().as_str() == name);
        named.next().unwrap()
    }

    /// Builds with Nix. Returns the log of a failure.
    async fn build_theirs(&self, made: &Instantiated) -> Result<(), String> {
        let (path, contents) = made.derivation.path_and_aterm(&made.store_dir).unwrap();
        let added =
            self.theirs
                .add_text(path.name().clone(), &contents, made.derivation.references());
        assert_eq!(added.await.unwrap(), made.path);
        let mut command = Command::new("nix-store");
        command
            .env("NIX_REMOTE", "")
            .env("NIX_CONF_DIR", self.directory.path())
            .env(
                "NIX_CONFIG",
                format!(
                    "substituters =\nsandbox = true\nsandbox-fallback = false\n\
                     build-users-group = {}\ncores = 3\nsystem-features =\n\
                     sandbox-paths = /bin/sh={}\nexperimental-features = ca-derivations",
                    build_users::group().unwrap_or_default(),
                    self.busybox.display()
                ),
            )
            .env("HOME", self.directory.path())
            .arg("--store")
            .arg(self.directory.path().join("theirs"))
            .arg("--realise")
            .arg(made.store_dir.display(&made.path).to_string());
        build_users::configure(&mut command);
        let output = command
            .output()
            .expect("these tests need nix-store in PATH");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    async fn build_ours(&self, made: &Instantiated) -> BuildOutcome {
        let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        request.cores = 3;
        let mut roots: Vec<StorePath> = made.derivation.input_srcs.iter().cloned().collect();
        for (drv, outputs) in made.derivation.input_drvs.iter() {
            let prefix = drv.name().as_str().trim_end_matches(".drv");
            for path in self.ours.all_valid_paths().await.unwrap() {
                let wanted = outputs.iter().any(|output| {
                    let name = match output.as_str() {
                        "out" => prefix.to_owned(),
                        other => format!("{prefix}-{other}"),
                    };
                    path.name().as_str() == name
                });
                if wanted {
                    roots.push(path);
                }
            }
        }
        request.inputs = self.ours.closure(&roots).await.unwrap();
        request.store = Some(self.ours.uri().clone());
        let context = BuildContext::new(Arc::new(self.ours.clone()));
        self.builder.build(request, context).await.unwrap()
    }

    /// Builds with both, and compares all outputs.
    async fn expect_same(&self, made: &Instantiated) -> Vec<Arc<PathInfo>> {
        let outcome = self.build_ours(made).await;
        let BuildOutcome::Success(success) = outcome else {
            panic!("{}: {outcome:?}", made.path);
        };
        self.build_theirs(made).await.unwrap();
        let mut infos = Vec::new();
        for (name, info) in success.delivery.outputs() {
            let theirs = self.theirs.require(&info.path).await.unwrap();
            let ours = self.ours.require(&info.path).await.unwrap();
            let of = |info: &PathInfo| {
                let PathInfo {
                    nar_hash,
                    nar_size,
                    references,
                    ca,
                    ..
                } = info.clone();
                (nar_hash, nar_size, references, ca, info.deriver.clone())
            };
            if of(&ours) != of(&theirs) {
                let text = |store: &LocalStore| {
                    fs::read_to_string(store.real_path(&info.path)).unwrap_or_default()
                };
                panic!(
                    "'{name}' of '{}'\nours: {ours:?}\ntheirs: {theirs:?}\n\
                     ours:\n{}\ntheirs:\n{}",
                    made.path,
                    text(&self.ours),
                    text(&self.theirs)
                );
            }
            infos.push(ours);
        }
        infos
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}

fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join(name));
    found
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("these tests need {name} in PATH"))
}

fn shell(name: &str, script: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, this_system(), "/bin/sh").args(["-e", "-c", script])
}

fn instantiate(builder: DerivationBuilder) -> Instantiated {
    builder.instantiate(&StoreDir::default()).unwrap()
}

/// Runs the same tests as an unprivileged user, if this program runs as root: both Nix and this
/// project set up sandboxes differently then.
#[test]
fn as_an_ordinary_user() {
    if build_users::group().is_none() {
        ordinary_user::run_again();
    }
}

/// Runs the same tests as root, compared with a Nix that has build users, as a system-wide
/// installation has.
#[test]
fn beside_nix_with_build_users() {
    build_users::again_with_build_users();
}
