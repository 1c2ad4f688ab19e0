//! The derivations of the package set, compared with those of the installed Nix.
#![allow(clippy::unwrap_used)]

#[path = "packages/set.rs"]
mod set;

use set::{ATTRS, derivations, folder};

#[tokio::test]
async fn every_derivation_is_that_of_the_installed_nix() {
    let root = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("nix-instantiate");
    command
        .arg("--store")
        .arg(root.path())
        .arg(folder().join("release.nix"));
    for attr in ATTRS {
        command.args(["-A", attr]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut theirs: Vec<String> = std::fs::read_dir(root.path().join("nix/store"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".drv"))
        .collect();
    theirs.sort();
    let ours: Vec<String> = derivations(None).await.into_keys().collect();
    assert_eq!(ours, theirs);
}
