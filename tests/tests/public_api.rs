//! The public items of the library crates, with all features, are those in `docs/public-api`. After an
//! intended change run `UPDATE_GOLDEN=1 cargo test --workspace --features tvix-tests/public-api --test
//! public_api` to write the files anew.
//!
//! Derived, automatic and blanket implementations are left out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages, and the names of their libraries.
const CRATES: [(&str, &str); 14] = [
    ("tvix-nix-compat", "nix_compat"),
    ("tvix-conformance", "tvix_conformance"),
    ("tvix-http", "tvix_http"),
    ("tvix-tree", "tvix_tree"),
    ("tvix-sandbox", "tvix_sandbox"),
    ("tvix-worker-protocol", "tvix_worker_protocol"),
    ("tvix-fetch", "tvix_fetch"),
    ("tvix-eval-api", "tvix_eval_api"),
    ("tvix-eval", "tvix_eval"),
    ("tvix-store-api", "tvix_store_api"),
    ("tvix-build-api", "tvix_build_api"),
    ("tvix-coordinator", "tvix_coordinator"),
    ("tvix-cache-server", "tvix_cache_server"),
    ("tvix-daemon", "tvix_daemon"),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Has rustdoc describe the crates as JSON, and returns the directory of the files.
fn describe() -> PathBuf {
    let root = workspace().canonicalize().unwrap();
    // The directory of this test's build, so that dependencies are compiled once.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    // The whole workspace, as its features of dependencies are those that are compiled already.
    cargo.args([
        "doc",
        "--quiet",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--lib",
    ]);
    let status = cargo
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTDOC", root.join(".ci/rustdoc-json"))
        .env("RUSTDOCFLAGS", "--cap-lints=allow")
        .status();
    assert!(status.unwrap().success(), "{cargo:?} failed");
    target.join("doc")
}

/// The public items in a file of rustdoc, one a line.
fn items(json: &Path) -> String {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_auto_derived_impls(true)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build();
    let api = api.unwrap_or_else(|error| {
        panic!(
            "{}: {error}. If the format of rustdoc's JSON has changed with the version of Rust, \
             `public-api` in tests/Cargo.toml needs the version that reads it.",
            json.display()
        )
    });
    let lines = api.items().map(|item| format!("{item}\n"));
    lines.collect()
}

#[test]
fn public_items_are_the_recorded_ones() {
    let described = describe();
    let goldens = workspace().join("docs/public-api");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut changes = String::new();
    for (package, library) in CRATES {
        let found = items(&described.join(format!("{library}.json")));
        assert!(found.lines().count() > 10, "{package}: {found}");
        let golden = goldens.join(format!("{package}.txt"));
        if update {
            fs::create_dir_all(&goldens).unwrap();
            fs::write(&golden, &found).unwrap();
            continue;
        }
        let recorded = fs::read_to_string(&golden).unwrap_or_default();
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            (recorded.lines().collect(), found.lines().collect());
        for line in old.difference(&new) {
            changes.push_str(&format!("{package}: -{line}\n"));
        }
        for line in new.difference(&old) {
            changes.push_str(&format!("{package}: +{line}\n"));
        }
    }
    assert!(
        changes.is_empty(),
        "the public items are not those in docs/public-api:\n{changes}\
         If that is intended, run: UPDATE_GOLDEN=1 cargo test --workspace \
         --features tvix-tests/public-api --test public_api"
    );
}
