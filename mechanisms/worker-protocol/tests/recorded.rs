//! Sessions of real Nix, recorded by `goldens/record.sh`, are decoded and encoded again: both directions,
//! whole, in small pieces, and cut off at every byte.
#![allow(clippy::unwrap_used)]

mod session;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use session::{Item, Session};
use tvix_worker_protocol::{Operation, Version};

/// The recordings of a version of Nix: name, bytes of the client, bytes of the daemon.
fn recordings(version: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(version);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    files.sort();
    let clients = files
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "client"));
    let read = clients.map(|client| {
        let daemon = fs::read(client.with_extension("daemon")).unwrap();
        let name = client.file_stem().unwrap().to_string_lossy().into_owned();
        (name, fs::read(client).unwrap(), daemon)
    });
    let read: Vec<_> = read.collect();
    assert!(read.len() > 20, "{version}: {} sessions", read.len());
    read
}

const VERSIONS: [(&str, Version); 2] = [
    ("2.8.0", Version::new(1, 34)),
    ("2.34.8", Version::new(1, 38)),
];

#[test]
fn sessions_are_decoded_and_encoded_again() {
    for (nix, version) in VERSIONS {
        for (name, client, daemon) in recordings(nix) {
            let session = Session::decode(&client, &daemon, usize::MAX)
                .unwrap_or_else(|error| panic!("{nix}/{name}: {error}"));
            assert_eq!(session.context.version(), version, "{nix}/{name}");
            assert_eq!(session.daemon_version, nix, "{nix}/{name}");
            let (sent, answered) = session.encode();
            assert!(sent == client, "{nix}/{name}: the client's bytes differ");
            assert!(
                answered == daemon,
                "{nix}/{name}: the daemon's bytes differ"
            );
        }
    }
}

#[test]
fn pieces_of_any_size_have_the_same_meaning() {
    for (nix, _) in VERSIONS {
        for (name, client, daemon) in recordings(nix) {
            let whole = Session::decode(&client, &daemon, usize::MAX).unwrap();
            for size in [1, 2, 3, 7, 8, 9, 64, 4096] {
                let pieces = Session::decode(&client, &daemon, size)
                    .unwrap_or_else(|error| panic!("{nix}/{name} by {size}: {error}"));
                assert_eq!(pieces.items, whole.items, "{nix}/{name} by {size}");
            }
        }
    }
}

/// Bytes that are missing are noticed, and are no other error.
#[test]
fn truncation_at_every_byte() {
    for (nix, _) in VERSIONS {
        for (name, client, daemon) in recordings(nix) {
            let step = (client.len() / 1000).max(1);
            for end in (0..client.len()).step_by(step) {
                let cut = Session::decode(&client[..end], &daemon, usize::MAX);
                let error = cut.err().unwrap_or_default();
                // A cut between requests leaves answers of the daemon.
                let expected = error == session::MORE || error.ends_with("bytes are left");
                assert!(expected, "{nix}/{name} to {end}: {error}");
            }
            let step = (daemon.len() / 1000).max(1);
            for end in (0..daemon.len()).step_by(step) {
                let cut = Session::decode(&client, &daemon[..end], usize::MAX);
                assert_eq!(
                    cut.err().as_deref(),
                    Some(session::MORE),
                    "{nix}/{name} to {end}"
                );
            }
        }
    }
}

/// The recordings contain the operations of real clients.
#[test]
fn recordings_cover_the_operations() {
    let mut seen = BTreeSet::new();
    for (nix, _) in VERSIONS {
        for (_, client, daemon) in recordings(nix) {
            for item in Session::decode(&client, &daemon, usize::MAX).unwrap().items {
                if let Item::Request(request) = item {
                    seen.insert(request.operation());
                }
            }
        }
    }
    for operation in [
        Operation::IsValidPath,
        Operation::QueryReferrers,
        Operation::AddToStore,
        Operation::BuildPaths,
        Operation::BuildPathsWithResults,
        Operation::EnsurePath,
        Operation::AddTempRoot,
        Operation::AddIndirectRoot,
        Operation::FindRoots,
        Operation::SetOptions,
        Operation::CollectGarbage,
        Operation::QueryAllValidPaths,
        Operation::QueryPathInfo,
        Operation::QueryValidPaths,
        Operation::OptimiseStore,
        Operation::VerifyStore,
        Operation::BuildDerivation,
        Operation::AddSignatures,
        Operation::NarFromPath,
        Operation::AddMultipleToStore,
        Operation::QueryMissing,
        Operation::QueryDerivationOutputMap,
    ] {
        assert!(
            seen.contains(&operation),
            "{operation} is in no recording; there are {seen:?}"
        );
    }
}
