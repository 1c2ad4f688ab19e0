//! The same derivations, built by real Nix and by the sandbox builder: what comes out is the same,
//! and so is what a builder program sees.
//!
//! `cargo test -p tvix-tests --features peers --test peers_build`; needs `nix-store` and a
//! statically linked `busybox`.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::{BuildContext, BuildOutcome, BuildRequest, Builder, this_system};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreExt as _};
use tvix_tests::local::make_writable;

/// Two stores with the same derivations and inputs: one for Nix and one for us.
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
            SandboxOptions::for_store(&ours).sandbox_paths([SandboxPath::new(&busybox, "/bin/sh")]);
        let builder = SandboxBuilder::new(options).unwrap();
        Self {
            builder: builder.knows_local(ours.clone()),
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

    /// Builds with Nix; the log if it fails.
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
                     build-users-group =\ncores = 3\nsystem-features =\nsandbox-paths = /bin/sh={}\n\
                     experimental-features = ca-derivations",
                    self.busybox.display()
                ),
            )
            .env("HOME", self.directory.path())
            .arg("--store")
            .arg(self.directory.path().join("theirs"))
            .arg("--realise")
            .arg(made.store_dir.display(&made.path).to_string());
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

    /// Builds with both and compares all outputs.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_the_same() {
    let peers = Peers::new().await;
    let source = peers.add_text("source", "what a source holds\n").await;

    peers
        .expect_same(&instantiate(shell("file", "echo hello > $out")))
        .await;
    peers
        .expect_same(&instantiate(shell(
            "tree",
            "umask 077; mkdir -p $out/bin $out/empty; cd $out/bin
             printf '#!/bin/sh\\n' > run; chmod 700 run
             if chmod u+s run 2>&-; then exit 1; fi
             ln -s run link; ln -s /nowhere dangling; ln run hard
             echo secret > data; chmod 000 data; touch -d @1000000 data; chmod 500 $out/empty",
        )))
        .await;
    let several = instantiate(
        shell(
            "several",
            "mkdir $out $dev; echo $dev > $out/dev; echo $out > $out/self
             cat $source > $dev/source; echo $source > $lib",
        )
        .outputs(["out", "dev", "lib"])
        .env("source", StoreDir::default().display(&source).to_string())
        .source(&source),
    );
    let infos = peers.expect_same(&several).await;
    let references: usize = infos.iter().map(|info| info.references.len()).sum();
    assert_eq!(references, 3);

    peers
        .expect_same(&instantiate(
            shell(
                "user",
                "mkdir $out; cat $several/dev > $out/dev; echo $lib >> $out/uses",
            )
            .input_env("several", &several, "out")
            .input_env("lib", &several, "lib"),
        ))
        .await;
    peers
        .expect_same(&instantiate(
            shell(
                "as-file",
                "cat $textPath $bigPath > $out; echo ${text-unset} >> $out",
            )
            .env("passAsFile", "text big")
            .env("text", "some text")
            .env("big", "x".repeat(200_000)),
        ))
        .await;
    for (method, bytes) in [
        (ContentAddressMethod::Flat, b"known".to_vec()),
        (ContentAddressMethod::NixArchive, nar(b"known")),
    ] {
        for algo in [HashAlgo::Sha256, HashAlgo::Sha1] {
            let hash = NixHash::digest(algo, &bytes);
            let name = format!("fixed-{}-{algo}", method.name());
            let made = instantiate(shell(&name, "printf known > $out").fixed(method, hash));
            peers.expect_same(&made).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floating_outputs_are_the_same() {
    let peers = Peers::new().await;
    for (name, script) in [
        ("plain", "echo hello > $out; echo lib > $lib"),
        ("other", "echo $lib > $out; echo lib > $lib"),
        (
            "own",
            "mkdir $out; echo $out > $out/self; ln -s $out/self $out/link; echo $lib >> $out/x; echo $lib $lib > $lib",
        ),
    ] {
        let made = instantiate(
            shell(name, script)
                .outputs(["out", "lib"])
                .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256),
        );
        peers.expect_same(&made).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_the_same() {
    let peers = Peers::new().await;
    let hash = NixHash::digest(HashAlgo::Sha256, b"other");
    for (name, script, fixed) in [
        ("exit", "exit 3", false),
        ("missing", "true", false),
        ("fifo", "mkfifo $out", false),
        ("socket-in-tree", "mkdir $out; mkfifo $out/fifo", false),
        ("wrong-hash", "echo x > $out", true),
        ("executable", "printf other > $out; chmod +x $out", true),
        ("input-changed", "echo x > $source", false),
    ] {
        let source = peers.add_text("source", "text").await;
        let mut builder = shell(name, script)
            .source(&source)
            .env("source", StoreDir::default().display(&source).to_string());
        if fixed {
            builder = builder.fixed(ContentAddressMethod::Flat, hash.clone());
        }
        let made = instantiate(builder);
        let outcome = peers.build_ours(&made).await;
        assert!(
            matches!(outcome, BuildOutcome::Failure(_)),
            "{name}: {outcome:?}"
        );
        assert!(peers.build_theirs(&made).await.is_err(), "{name}");
    }
}

/// What a builder program can look at, and why it finds something else than with Nix.
const WORLD: &[(&str, &str, Option<&str>)] = &[
    ("environment", "env | sort > $out", None),
    (
        "arguments",
        "tr '\\0' '\\n' < /proc/$$/cmdline > $out; echo $0 >> $out",
        None,
    ),
    (
        "ids",
        "(id; id -u; pwd; umask; uname -n; uname -s; echo $$; hostname) > $out",
        None,
    ),
    (
        "etc",
        "for file in /etc/*; do echo \"== $file\"; cat $file; done > $out",
        None,
    ),
    (
        "build",
        "for file in /build /build/.[a-z]*; do stat -c '%n %a %u:%g %s' $file; done > $out",
        None,
    ),
    (
        "dev",
        "ls /dev > $out; ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr \
         | sed 's/.* \\(.dev\\)/\\1/' >> $out",
        None,
    ),
    ("root", "ls / > $out", None),
    ("store", "ls $NIX_STORE > $out", None),
    (
        "modes",
        "for dir in /build /tmp /dev /dev/shm /etc /nix/store; do
           stat -c '%n %a' $dir; done > $out",
        None,
    ),
    (
        "owners",
        "for dir in / /dev /etc /nix/store; do stat -c '%n %u' $dir; done > $out",
        Some(
            "what is not the builder's to change belongs to nobody, as with Nix's build users; \
             Nix without them makes everything the builder's",
        ),
    ),
    ("input", "stat -c '%a %Y' $source > $out", None),
    (
        "limits",
        "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status > $out; ulimit -a >> $out",
        None,
    ),
    (
        "network",
        "tail -n +3 /proc/net/dev | cut -d: -f1 > $out",
        None,
    ),
    (
        "descriptors",
        "for fd in /proc/$$/fd/[012]; do readlink $fd | sed 's/[[0-9].*//'; done > $out",
        Some("the log is a pipe; Nix has a pseudo-terminal, so that programs write whole lines"),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_world_is_the_same() {
    let peers = Peers::new().await;
    let source = peers.add_text("source", "text").await;
    for (name, script, difference) in WORLD {
        let made = instantiate(
            shell(name, script)
                .source(&source)
                .env("passAsFile", "text")
                .env("text", "some text")
                .env("PATH", "/overridden")
                .env("TMPDIR", "/overridden")
                .env("source", StoreDir::default().display(&source).to_string()),
        );
        let outcome = peers.build_ours(&made).await;
        let BuildOutcome::Success(success) = outcome else {
            panic!("{name}: {outcome:?}");
        };
        peers.build_theirs(&made).await.unwrap();
        let path = success.delivery.outputs()[0].1.path.clone();
        let read = |store: &LocalStore| fs::read_to_string(store.real_path(&path)).unwrap();
        let (ours, theirs) = (read(&peers.ours), read(&peers.theirs));
        match difference {
            None => assert_eq!(ours, theirs, "{name}"),
            Some(reason) => assert_ne!(ours, theirs, "{name} is the same by now, though {reason}"),
        }
    }
}

fn nar(contents: &[u8]) -> Vec<u8> {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(false, contents).unwrap();
    writer.finish().unwrap()
}
