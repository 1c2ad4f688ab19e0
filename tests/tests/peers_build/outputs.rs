//! The outputs are equal.

use std::os::unix::fs::MetadataExt as _;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::StoreDir;
use tvix_build_api::BuildOutcome;

use crate::{Peers, instantiate, shell};

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
    // Modes set by the builder do not keep files secret or locked. The Nix of an ordinary user
    // cannot read files that its builder has locked.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        peers
            .expect_same(&instantiate(shell(
                "locked",
                "mkdir -p $out/dir/inner; echo x > $out/dir/inner/file; ln $out/dir/inner/file $out/link
                 chmod 000 $out/link $out/dir/inner $out/dir $out; mkdir locked; chmod 000 locked /build",
            )))
            .await;
    }
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

/// `impureEnvVars`: variables of the environment of the building process, for fixed-output
/// derivations only. Missing variables are empty, and these variables override those of the
/// derivation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixed_outputs_see_the_same_of_our_environment() {
    let peers = Peers::new().await;
    let script = "printf %s \"$PATH, ${NOT_SET-unset}, ${OTHER-unset}\" > $out";
    let impure = |name: &str| {
        shell(name, script)
            .env("impureEnvVars", "PATH NOT_SET")
            .env("PATH", "/own")
    };
    let ours = std::env::var("PATH").unwrap();
    let hash = NixHash::digest(HashAlgo::Sha256, format!("{ours}, , unset"));
    let fixed = impure("fixed").fixed(ContentAddressMethod::Flat, hash);
    peers.expect_same(&instantiate(fixed)).await;
    let plain = instantiate(impure("plain"));
    peers.expect_same(&plain).await;
    let path = plain.output_path("out").unwrap();
    let text = std::fs::read_to_string(peers.ours.real_path(&path)).unwrap();
    assert_eq!(text, "/own, unset, unset");
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
        ("writable-by-all", "mkdir $out; chmod 757 $out", false),
        ("writable-by-group", "echo x > $out; chmod 664 $out", false),
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

fn nar(contents: &[u8]) -> Vec<u8> {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(false, contents).unwrap();
    writer.finish().unwrap()
}
