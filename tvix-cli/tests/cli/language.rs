//! Expressions on the command line.

use std::fs;
use std::process::{Command, Stdio};

use tvix_tests::local::{LocalWorld, sandbox_paths};
use tvix_tests::program::{Ended, run};

use super::build;

const PACKAGES: &str = r#"
{ greeting ? "hello", loud ? false }:
let
  sh = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-euc" script ];
  };
in {
  hello = sh "hello" "echo ${greeting}${if loud then "!" else ""} > $out";
  imported = sh (import (sh "name.nix" "echo '\"imported\"' > $out")) "echo > $out";
  reads = sh "reads" "read -r line < ${builtins.unsafeDiscardOutputDependency (sh "read" "echo > $out").drvPath} || :; echo $line > $out";
  deep = sh "deep" "read -r line < ${(sh "read" "echo > $out").drvPath} || :; echo $line > $out";
  broken = sh "broken" "echo so it goes; exit 3";
  bad = builtins.seq (builtins.readFile (sh "unbuilt" "echo why; exit 4")) (sh "x" "");
  many = derivation {
    name = "many"; system = builtins.currentSystem; builder = "/bin/sh"; outputs = [ "out" "dev" ];
    args = [ "-euc" "echo > $out; echo > $dev" ];
  };
}"#;

/// `tvix` with a subcommand, in a folder with a `default.nix`.
fn tvix(world: &LocalWorld, subcommand: &str) -> Command {
    let folder = world.beside("work");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("default.nix"), PACKAGES).unwrap();
    let mut command = super::plain();
    command
        .arg(subcommand)
        .arg("--store")
        .arg(world.root())
        .current_dir(folder)
        .env("HOME", world.beside("home"))
        .env_remove("NIX_PATH")
        .stdin(Stdio::null());
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    command
}

fn built(world: &LocalWorld, args: &[&str]) -> Ended {
    tvix(world, "build");
    run(build(world).env_remove("NIX_PATH").args(args))
}

fn contents(world: &LocalWorld, path: &str) -> String {
    let path = path.strip_prefix('/').unwrap();
    fs::read_to_string(world.root().join(path)).unwrap()
}

#[tokio::test]
async fn expressions_are_built() {
    let world = LocalWorld::new().await;
    let ended = built(&world, &["-A", "hello"]).expect(0);
    assert_eq!(contents(&world, &ended.out[0]), "hello\n");
    // The function is called with what was given, and what was built is not built again.
    let loud = [
        "-A", "hello", "--arg", "loud", "1 == 1", "--argstr", "greeting", "x y",
    ];
    let ended = built(&world, &loud).expect(0);
    assert_eq!(contents(&world, &ended.out[0]), "x y!\n");
    let both = built(&world, &["-A", "many.dev", "-A", "imported"]).expect(0);
    assert!(both.out[0].ends_with("-many-dev"), "{both:#?}");
    assert!(both.out[1].ends_with("-imported"), "{both:#?}");
    let second = fs::read_link(world.beside("work/result-2")).unwrap();
    assert!(second.ends_with(both.out[1].trim_start_matches('/')));
    let again = built(&world, &["-A", "imported", "-E", "import ./default.nix {}"]).expect(0);
    assert_eq!(again.out, both.out[1..]);
    assert!(!again.err.contains("building"), "{again:#?}");
    let link = fs::read_link(world.beside("work/result")).unwrap();
    assert!(link.ends_with(again.out[0].trim_start_matches('/')));
    world.expect_clean().await;
}

/// With and without their outputs.
#[tokio::test]
async fn files_of_derivations_are_read() {
    let world = LocalWorld::new().await;
    for attribute in ["reads", "deep"] {
        let ended = built(&world, &["-A", attribute]).expect(0);
        let line = contents(&world, &ended.out[0]);
        assert!(line.starts_with("Derive(["), "{attribute}: {line}");
    }
}

#[tokio::test]
async fn files_need_no_option() {
    let world = LocalWorld::new().await;
    let ended = built(&world, &["default.nix", "-A", "hello"]).expect(0);
    assert_eq!(contents(&world, &ended.out[0]), "hello\n");
    let found = run(tvix(&world, "instantiate").args(["default.nix", "-A", "hello"])).expect(0);
    let derivation = found.out[0].as_str();
    built(&world, &[derivation, "-A", "hello"])
        .expect(1)
        .says(&[derivation, "--attr"]);
    let both = built(&world, &[derivation, "default.nix", "-A", "many"]).expect(0);
    assert_eq!(both.out[0], ended.out[0]);
    assert!(both.out[1].ends_with("-many"), "{both:#?}");
    built(&world, &["nowhere"])
        .expect(1)
        .says(&["nowhere' does not exist"]);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let world = LocalWorld::new().await;
    built(&world, &["-A", "broken"])
        .expect(100)
        .says(&["broken", "so it goes"]);
    built(&world, &["-A", "nothing"])
        .expect(1)
        .says(&["error: attribute 'nothing' in selection path 'nothing' not found"]);
    built(&world, &["-A", "bad", "-k"]).expect(100).says(&[
        "> why",
        "default.nix:",
        "while calling the 'readFile' builtin",
    ]);
    built(&world, &["-E", "1 +"])
        .expect(1)
        .says(&["syntax error", "«string»"]);
    built(&world, &["-E", "throw \"no\""])
        .expect(1)
        .says(&["error: no"]);
    world.expect_clean().await;
}

#[tokio::test]
async fn derivations_are_instantiated() {
    let world = LocalWorld::new().await;
    let args = ["-A", "hello", "-A", "many.dev"];
    let ended = run(tvix(&world, "instantiate").args(args)).expect(0);
    assert!(ended.out[0].ends_with("-hello.drv"), "{ended:#?}");
    assert!(ended.out[1].ends_with("-many.drv!dev"), "{ended:#?}");
    // Their files are in the store, and nothing else.
    assert_eq!(world.valid().await.len(), 2);
    world.expect_clean().await;
    let outputs = run(build(&world).arg(&ended.out[0])).expect(0);
    assert_eq!(contents(&world, &outputs.out[0]), "hello\n");
}

#[tokio::test]
async fn values_are_printed() {
    let world = LocalWorld::new().await;
    let eval = |args: &[&str]| run(tvix(&world, "eval").args(args));
    let printed = |args: &[&str], text: &str| {
        assert_eq!(eval(args).expect(0).out, [text], "{args:?}");
    };
    printed(&["-E", "1 + 1"], "2");
    printed(
        &["-E", "{ a = 1 + 1; b = [ ]; }"],
        "{ a = <CODE>; b = [ ]; }",
    );
    printed(&["--strict", "-E", "{ a = 1 + 1; }"], "{ a = 2; }");
    printed(
        &["--json", "-E", "{ a = [ 1.5 null ]; }"],
        r#"{"a":[1.5,null]}"#,
    );
    let raw = eval(&["--raw", "-E", "\"a\\nb\" + \"c\""]).expect(0);
    assert_eq!(raw.out, ["a", "bc"]);
    printed(&["-A", "hello.name"], "\"hello\"");
    printed(&["-E", "{ x }: x", "--argstr", "x", "a\"b"], r#""a\"b""#);
    printed(&["-E", "[ { a.\"b.c\" = 3; } ]", "-A", "0.a.\"b.c\""], "3");
    let xml = eval(&["--xml", "--strict", "--no-location", "-E", "{ a = true; }"]).expect(0);
    assert!(
        xml.out
            .iter()
            .any(|line| line.trim() == "<bool value=\"true\" />"),
        "{xml:#?}"
    );
    printed(&["default.nix", "-A", "hello.name"], "\"hello\"");
    // An import is built.
    printed(&["-A", "imported.name"], "\"imported\"");
    eval(&["-A", "bad.name"])
        .expect(100)
        .says(&["> why", "readFile"]);
    let thrown = eval(&["-E", "builtins.trace \"seen\" (throw \"no\")"]).expect(1);
    thrown.says(&["trace: seen", "error:", "no"]);
}

/// As C++ Nix 2.34.8 prints it.
#[tokio::test]
async fn traces_are_short_unless_they_are_asked_for() {
    let world = LocalWorld::new().await;
    let expr = "let f = n: if n == 0 then throw \"deep\" else 1 + f (n - 1); in f 1";
    let short = run(tvix(&world, "eval").args(["-E", expr]));
    assert_eq!(short.code, Some(1));
    let thrown = r#"
       … while calling the 'throw' builtin
         at «string»:1:27:
            1| let f = n: if n == 0 then throw "deep" else 1 + f (n - 1); in f 1
             |                           ^

       error: deep
"#;
    assert_eq!(short.err, format!("error:{thrown}"));
    let calls = r#"
       … from call site
         at «string»:1:63:
            1| let f = n: if n == 0 then throw "deep" else 1 + f (n - 1); in f 1
             |                                                               ^

       … while calling 'f'
         at «string»:1:9:
            1| let f = n: if n == 0 then throw "deep" else 1 + f (n - 1); in f 1
             |         ^

       … from call site
         at «string»:1:49:
            1| let f = n: if n == 0 then throw "deep" else 1 + f (n - 1); in f 1
             |                                                 ^

       … while calling 'f'
         at «string»:1:9:
            1| let f = n: if n == 0 then throw "deep" else 1 + f (n - 1); in f 1
             |         ^

"#;
    let long = run(tvix(&world, "eval").args(["--show-trace", "-E", expr]));
    assert_eq!(long.err, format!("error:{calls}{}", &thrown[1..]));
}

#[tokio::test]
async fn warnings_can_be_errors_and_colours_need_a_terminal() {
    let world = LocalWorld::new().await;
    let expr = "builtins.warn \"\u{1b}[1;35mcolour\u{1b}[0m\" 1";
    let warned = run(tvix(&world, "eval").args(["-E", expr])).expect(0);
    assert_eq!(warned.err, "evaluation warning: colour\n");
    let aborted = run(tvix(&world, "eval").args(["--abort-on-warn", "-E", expr])).expect(1);
    aborted.says(&["evaluation warning: colour", "as abort-on-warn is set"]);
    let caught = format!("builtins.tryEval ({expr})");
    run(tvix(&world, "eval").args(["--abort-on-warn", "-E", &caught])).expect(1);
}

#[tokio::test]
async fn the_search_path() {
    let world = LocalWorld::new().await;
    let folder = world.beside("entries/sub");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("default.nix"), "\"sub\"").unwrap();
    let entries = world.beside("entries");
    let here = format!("name={}", folder.display());
    let ended = run(tvix(&world, "eval").args(["-I", &here, "-f", "<name>"])).expect(0);
    assert_eq!(ended.out, ["\"sub\""]);
    let ended = run(tvix(&world, "eval")
        .env("NIX_PATH", format!("x=/nowhere:{}", entries.display()))
        .args(["-E", "import <sub>"]))
    .expect(0);
    assert_eq!(ended.out, ["\"sub\""]);
    run(tvix(&world, "eval").args(["-E", "<nothing>"]))
        .expect(1)
        .says(&["'nothing' was not found in the Nix search path"]);
}

#[tokio::test]
async fn fetched_sources_are_built_with() {
    let world = LocalWorld::new().await;
    let folder = world.beside("upstream");
    fs::create_dir_all(folder.join("top")).unwrap();
    fs::write(folder.join("top/default.nix"), "{ greeting = \"hi\"; }\n").unwrap();
    let packed = Command::new("tar")
        .args(["-czf", "upstream.tar.gz", "top"])
        .current_dir(&folder)
        .status();
    assert!(packed.unwrap().success());
    let url = format!("file://{}/upstream.tar.gz", folder.display());
    let text = r#"
        { url }:
        let
          tree = fetchTarball url;
          file = builtins.fetchurl { inherit url; name = "archive"; };
        in derivation {
          name = (import tree).greeting;
          system = builtins.currentSystem;
          builder = "/bin/sh";
          args = [ "-euc" "test -s ${file}; read -r line < ${tree}/default.nix; echo \"$line\" > $out" ];
        }"#;
    let cache = world.beside("cache");
    let build_it = |extra: &[&str]| {
        let mut command = build(&world);
        command
            .env_remove("NIX_PATH")
            .env("XDG_CACHE_HOME", &cache)
            .args(["--no-out-link", "-E", text, "--argstr", "url", &url])
            .args(extra);
        run(&mut command)
    };
    let ended = build_it(&[]).expect(0);
    assert!(ended.out[0].ends_with("-hi"), "{ended:#?}");
    let out = contents(&world, &ended.out[0]);
    assert_eq!(out, "{ greeting = \"hi\"; }\n");
    let refused = build_it(&["--restrict-eval"]).expect(1);
    assert!(
        refused.err.contains("is forbidden in restricted mode"),
        "{refused:#?}"
    );
    let uris = "https://example.org file:";
    let allowed = build_it(&["--restrict-eval", "--allowed-uris", uris]).expect(0);
    assert_eq!(allowed.out, ended.out);
    let pure = tvix(&world, "eval")
        .args(["--pure-eval", "-E", &format!("fetchTarball \"{url}\"")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&pure.stderr);
    assert!(
        said.contains("'fetchTarball' requires a 'sha256' argument"),
        "{said}"
    );

    let searched = format!("up={url}");
    for args in [
        ["-I", &searched, "-E", "(import <up>).greeting"],
        ["-f", &url, "-A", "greeting"],
    ] {
        let mut command = tvix(&world, "eval");
        command.env("XDG_CACHE_HOME", &cache).args(args);
        assert_eq!(run(&mut command).expect(0).out, ["\"hi\""]);
    }
}
