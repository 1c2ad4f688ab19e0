//! The layers of the workspace, as `docs/ARCHITECTURE.md` shows them: `nix-compat` is small and pure, and
//! the crates in `mechanisms/` do not depend on the ones above them. Inside a crate, modules of one
//! directory do not depend on each other in a cycle (`modules.rs`).
#![allow(clippy::unwrap_used)]

#[path = "layers/modules.rs"]
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(workspace())
        // Features of other members must not count.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The packages that are compiled for `package` without default features.
fn compiled_for(package: &str) -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--package",
        package,
        "--no-default-features",
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}",
    ]);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn nix_compat_without_features_compiles_few_crates_and_no_c() {
    let crates = compiled_for("tvix-nix-compat");
    assert!(crates.contains("thiserror"), "{crates:?}");
    assert!(crates.len() <= 20, "{} crates: {crates:?}", crates.len());
    for unwanted in ["cc", "cmake", "ring", "serde", "serde_json", "tokio"] {
        assert!(!crates.contains(unwanted), "{unwanted}: {crates:?}");
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn nix_compat_touches_no_file_and_starts_no_thread() {
    let mut files = Vec::new();
    sources(&workspace().join("nix-compat/src"), &mut files);
    assert!(files.len() > 30, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for unwanted in [
            "std::fs",
            "std::thread",
            "std::process",
            "std::net",
            "rustix",
            "libc::",
        ] {
            assert!(!text.contains(unwanted), "{}: {unwanted}", file.display());
        }
    }
}

/// The members of the workspace among the dependencies of one, dependencies of tests left out.
fn members_below(package: &str) -> BTreeSet<String> {
    let metadata = cargo(&["metadata", "--offline", "--no-deps", "--format-version=1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|it| it["name"] == package).unwrap();
    let dependencies = package["dependencies"].as_array().unwrap();
    let ours = dependencies
        .iter()
        .filter(|it| it["path"].is_string() && it["kind"] != "dev");
    ours.map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn mechanisms_know_nothing_above_them() {
    for (package, allowed) in [
        ("tvix-nix-compat", &[][..]),
        ("tvix-conformance", &[]),
        ("tvix-http", &[]),
        ("tvix-sandbox", &[]),
        ("tvix-tree", &["tvix-nix-compat"]),
        ("tvix-worker-protocol", &["tvix-nix-compat"]),
    ] {
        let below: Vec<_> = members_below(package).into_iter().collect();
        assert_eq!(below, allowed, "{package}");
    }
}

/// Cycles that are left, each as the crate, the parent module and the modules of the cycle.
const CYCLES: &[(&str, &str, &[&str])] = &[
    // The formats refer to each other: the address of a path has a hash and an output's name.
    (
        "nix-compat",
        "crate",
        &[
            "content_address",
            "derivation",
            "nixhash",
            "realisation",
            "store_path",
        ],
    ),
    // The state of an evaluation: a builtin is a value with a Rust function of the interpreter, and
    // the interpreter starts the collector, which follows its values.
    (
        "tvix-eval",
        "crate",
        &["collect", "interp", "ir", "syntax", "value", "world"],
    ),
    // A recursive-descent parser: strings and attribute sets contain expressions.
    (
        "tvix-eval",
        "crate::syntax",
        &["attrs", "operators", "parser", "strings"],
    ),
    // The trait's default methods are those of its extension.
    ("tvix-store-api", "crate", &["blocking", "ext", "store"]),
];

#[test]
fn modules_form_no_further_cycles() {
    let mut found = Vec::new();
    for directory in [
        "nix-compat",
        "tvix-eval-api",
        "tvix-eval",
        "tvix-store-api",
        "tvix-build-api",
        "tvix-coordinator",
        "tvix-cache-server",
        "tvix-daemon",
        "tvix-cli",
        "mechanisms/conformance",
        "mechanisms/http",
        "mechanisms/sandbox",
        "mechanisms/tree",
        "mechanisms/worker-protocol",
        "mechanisms/fetch",
    ] {
        for cycle in modules::cycles(&workspace().join(directory).join("src")) {
            found.push((directory, cycle));
        }
    }
    let known: Vec<_> = CYCLES
        .iter()
        .map(|(directory, parent, modules)| {
            let modules = modules.iter().map(|it| (*it).to_owned()).collect();
            (*directory, (String::from(*parent), modules))
        })
        .collect();
    let new: Vec<_> = found.iter().filter(|it| !known.contains(it)).collect();
    assert!(new.is_empty(), "new cycles: {new:#?}");
    let gone: Vec<_> = known.iter().filter(|it| !found.contains(it)).collect();
    assert!(gone.is_empty(), "no longer cycles: {gone:#?}");
}
