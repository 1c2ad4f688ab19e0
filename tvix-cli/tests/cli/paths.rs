//! Paths on the command line: links, channels, and copies from the store.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tvix_tests::local::{LocalWorld, sandbox_paths};
use tvix_tests::program::run;

/// The line that `tvix` with a subcommand prints in `folder`, on the world's store.
fn tvix(world: &LocalWorld, folder: &Path, args: &[&str]) -> String {
    let mut command = super::plain();
    command
        .arg(args[0])
        .arg("--store")
        .arg(world.root())
        .args(&args[1..])
        .current_dir(folder)
        .env("HOME", world.beside("home"))
        .env("NIX_STATE_DIR", world.beside("state"))
        .env_remove("NIX_PATH")
        .stdin(Stdio::null());
    if args[0] != "store" {
        for path in sandbox_paths() {
            command.arg("--sandbox-path").arg(path.to_string());
        }
    }
    run(&mut command).expect(0).out.join("\n")
}

fn folder(world: &LocalWorld) -> PathBuf {
    let folder = world.beside("work");
    fs::create_dir_all(folder.join("real/sub")).unwrap();
    fs::write(folder.join("real/sub/a.nix"), "import ../b.nix").unwrap();
    fs::write(folder.join("real/b.nix"), "\"beside the target\"").unwrap();
    fs::write(folder.join("b.nix"), "\"beside the link\"").unwrap();
    symlink("real/sub", folder.join("link")).unwrap();
    symlink("real/sub/a.nix", folder.join("a.nix")).unwrap();
    folder
}

#[tokio::test]
async fn a_file_argument_keeps_the_names_of_its_parents() {
    let world = LocalWorld::new().await;
    let folder = folder(&world);
    for (file, wanted) in [
        ("link/a.nix", "\"beside the link\""),
        ("./link/../link/a.nix", "\"beside the link\""),
        ("a.nix", "\"beside the target\""),
        ("real/sub/a.nix", "\"beside the target\""),
    ] {
        for args in [&["eval", file][..], &["eval", "-f", file]] {
            assert_eq!(tvix(&world, &folder, args), wanted, "{file}");
        }
    }
}

#[tokio::test]
async fn channels_are_searched_last() {
    let world = LocalWorld::new().await;
    let folder = folder(&world);
    let user = world.beside("home").join(".nix-defexpr/channels");
    let nix_path = |args: &[&str]| tvix(&world, &folder, &[&["eval", "--json"], args].concat());
    let show = "map (it: \"${it.prefix}=${it.path}\") builtins.nixPath";
    assert_eq!(nix_path(&["-E", show]), "[]");
    fs::create_dir_all(user.join("mine")).unwrap();
    fs::write(user.join("mine/default.nix"), "{ x = 7; }").unwrap();
    let root = world.beside("state").join("profiles/per-user/root");
    fs::create_dir_all(root.join("channels-1-link/nixpkgs")).unwrap();
    fs::write(
        root.join("channels-1-link/nixpkgs/default.nix"),
        "{ x = 8; }",
    )
    .unwrap();
    symlink("channels-1-link", root.join("channels")).unwrap();
    let (user, channels) = (user.display(), root.join("channels"));
    let channels = channels.display();
    assert_eq!(
        nix_path(&["-I", "a=/b", "-E", show]),
        format!("[\"a=/b\",\"={user}\",\"nixpkgs={channels}/nixpkgs\",\"={channels}\"]")
    );
    assert_eq!(nix_path(&["--restrict-eval", "-E", show]), "[]");
    assert_eq!(nix_path(&["--pure-eval", "-E", show]), "[]");
    assert_eq!(nix_path(&["-f", "<mine>", "-A", "x"]), "7");
    assert_eq!(nix_path(&["-f", "<nixpkgs>", "-A", "x"]), "8");
    let real = root.join("channels-1-link/nixpkgs");
    assert_eq!(
        nix_path(&["-E", "toString <nixpkgs>"]),
        format!("\"{}\"", real.display())
    );
}

#[tokio::test]
async fn copies_of_outputs_keep_their_references() {
    let world = LocalWorld::new().await;
    let folder = folder(&world);
    let expr = r#"
        let
          sh = name: script: derivation {
            inherit name;
            system = builtins.currentSystem;
            builder = "/bin/sh";
            args = [ "-euc" script ];
          };
          text = sh "text" "echo payload > $out";
          refers = sh "refers" "echo ${text} > $out";
          copy = builtins.path { path = "${refers}"; name = "copy"; };
          filtered = builtins.filterSource (path: type: true) "${refers}";
        in sh "reads" "read -r a < ${copy}; read -r b < $a; read -r c < ${filtered}; echo $b $c > $out"
    "#;
    let path = tvix(&world, &folder, &["build", "--no-out-link", "-E", expr]);
    let contents = fs::read_to_string(world.root().join(&path[1..])).unwrap();
    let (payload, text) = contents.trim_end().split_once(' ').unwrap();
    assert_eq!(payload, "payload");
    // A later evaluation asks the store: of a path that refers to another, what is read does too.
    let expr = format!(
        r#"builtins.attrNames (builtins.getContext (builtins.readFile (builtins.path {{ path = builtins.storePath "{path}"; name = "again"; }})))"#
    );
    let context = tvix(&world, &folder, &["eval", "--json", "-E", &expr]);
    assert_eq!(context, format!("[\"{text}\"]"));
}

#[tokio::test]
async fn links_to_derivations_are_built() {
    let world = LocalWorld::new().await;
    let folder = folder(&world);
    let expr = r#"derivation { name = "made"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }"#;
    let path = tvix(&world, &folder, &["instantiate", "-E", expr]);
    symlink(&path, folder.join("first")).unwrap();
    symlink("first", folder.join("second")).unwrap();
    symlink(world.root().join(&path[1..]), folder.join("third")).unwrap();
    for link in ["first", "./second", "third"] {
        let built = tvix(&world, &folder, &["build", "--no-out-link", link]);
        assert!(built.ends_with("-made"), "{link}");
    }
}
