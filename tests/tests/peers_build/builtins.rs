//! Built-in builders have the same results.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::DerivationBuilder;
use nix_compat::nixhash::{HashAlgo, NixHash};
use tvix_build_api::{BuildOutcome, FailureKind};

use crate::{Peers, instantiate, shell};

/// Serves these files on the loopback interface until the test program ends.
fn server(files: Vec<(&'static str, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else {
                continue;
            };
            lines
                .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                .for_each(drop);
            let path = first.split(' ').nth(1).unwrap();
            let file = files.iter().find(|(name, _)| *name == path);
            let (status, body) = match file {
                Some((_, contents)) => ("200 OK", contents.as_slice()),
                None => ("404 Not Found", &b""[..]),
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            let _ = stream.write_all(body);
        }
    });
    format!("http://{address}")
}

fn builtin(name: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, "builtin", format!("builtin:{name}"))
}

fn archive(contents: &[u8]) -> Vec<u8> {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(true, contents).unwrap();
    writer.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_is_the_same() {
    let peers = Peers::new().await;
    let url = server(vec![
        ("/file", b"known".to_vec()),
        ("/x.nar", archive(b"known")),
    ]);
    let sha256 = |bytes: &[u8]| NixHash::digest(HashAlgo::Sha256, bytes);
    let fetch = |path: &str| builtin("fetchurl").env("url", format!("{url}{path}"));
    let (flat, nar) = (ContentAddressMethod::Flat, ContentAddressMethod::NixArchive);
    for made in [
        fetch("/file").fixed(flat, sha256(b"known")),
        fetch("/file").fixed(flat, NixHash::digest(HashAlgo::Sha1, b"known")),
        fetch("/file")
            .env("executable", "1")
            .fixed(nar, sha256(&archive(b"known"))),
        fetch("/x.nar")
            .env("unpack", "1")
            .fixed(nar, sha256(&archive(b"known"))),
    ] {
        peers.expect_same(&instantiate(made)).await;
    }
    // Errors of a hash mismatch have the same text.
    let made = instantiate(fetch("/file").fixed(flat, sha256(b"other")));
    let theirs = peers.build_theirs(&made).await.unwrap_err();
    let BuildOutcome::Failure(ours) = peers.build_ours(&made).await else {
        panic!("another hash");
    };
    assert!(
        matches!(ours.kind, FailureKind::HashMismatch { .. }),
        "{ours}"
    );
    let text = ours.to_string();
    for line in text.lines().skip(1) {
        assert!(theirs.contains(line.trim()), "'{line}' in: {theirs}");
    }
    let gone = instantiate(fetch("/gone").fixed(flat, sha256(b"x")));
    peers.build_theirs(&gone).await.unwrap_err();
    assert!(matches!(
        peers.build_ours(&gone).await,
        BuildOutcome::Failure(_)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_profiles_are_the_same() {
    let peers = Peers::new().await;
    let channel = instantiate(shell(
        "channel",
        "mkdir -p top/sub; echo x > top/file; chmod +x top/file; ln -s file top/link
         echo y > top/sub/y; files='top/file top/link top/sub/y'
         touch -h -d @1 $files; tar -cf - $files | gzip > $out",
    ));
    peers.expect_same(&channel).await;
    let unpacked = builtin("unpack-channel")
        .env("channelName", "nixpkgs")
        .input_env("src", &channel, "out");
    peers.expect_same(&instantiate(unpacked)).await;

    let package = |name: &str, script: &str| {
        instantiate(shell(name, &format!("mkdir $out; cd $out; {script}")))
    };
    let wanted = package(
        "wanted",
        "mkdir bin; echo wanted > bin/wanted; echo w > bin/one",
    );
    peers.expect_same(&wanted).await;
    let one = shell(
        "one",
        "mkdir -p $out/bin $out/share/doc $out/nix-support $out/lib/deep/er; cd $out
         echo one > bin/one; echo one > bin/both; echo > share/doc/one; ln -s /nowhere share/dangling
         echo > lib/deep/er/x; echo > .hidden; mkdir log; echo > manifest.nix
         echo $wanted > nix-support/propagated-user-env-packages",
    );
    let one = instantiate(one.input_env("wanted", &wanted, "out"));
    peers.expect_same(&one).await;
    let two = package(
        "two",
        "mkdir -p bin lib/deep/er share; echo two > bin/two; echo two > bin/both; echo > lib/deep/er/y",
    );
    peers.expect_same(&two).await;
    let [a, b] = [&one, &two].map(|made| made.output_reference("out").unwrap());
    let profile = |derivations: &str| {
        instantiate(
            builtin("buildenv")
                .env("derivations", derivations)
                .env("manifest", &*a)
                .input(&one, "out")
                .input(&two, "out")
                .input(&wanted, "out"),
        )
    };
    peers
        .expect_same(&profile(&format!("true 5 1 {a} true 6 1 {b}")))
        .await;
    peers
        .expect_same(&profile(&format!("true 6 1 {a} true 5 1 {b}")))
        .await;
    peers
        .expect_same(&profile(&format!("false 5 1 {a} true 5 1 {b}")))
        .await;
    let collision = profile(&format!("true 5 1 {a} true 5 1 {b}"));
    peers.build_theirs(&collision).await.unwrap_err();
    assert!(matches!(
        peers.build_ours(&collision).await,
        BuildOutcome::Failure(_)
    ));
}
