//! Links to build outputs.

use std::fs;
use std::path::PathBuf;

use nix_compat::derivation::Instantiated;
use tvix_store_api::Store as _;
use tvix_tests::local::{LocalWorld, absolute, instantiate, names_in, shell};
use tvix_tests::program::run;

use super::build;

fn two_outputs(name: &str) -> Instantiated {
    instantiate(shell(name, "echo > $out; echo > $dev").outputs(["out", "dev"]))
}

/// The links and their targets.
fn links(world: &LocalWorld) -> Vec<(String, PathBuf)> {
    let folder = world.beside("work");
    let names = names_in(&folder).into_iter();
    names
        .map(|name| {
            let target = fs::read_link(folder.join(&name)).unwrap();
            (name, target)
        })
        .collect()
}

fn target(world: &LocalWorld, made: &Instantiated, output: &str) -> PathBuf {
    world.store.real_path(&made.output_path(output).unwrap())
}

#[tokio::test]
async fn each_output_gets_a_link() {
    let world = LocalWorld::new().await;
    let (a, b) = (two_outputs("a"), two_outputs("b"));
    let (drv_a, drv_b) = (world.write(&a).await, world.write(&b).await);
    run(build(&world).args([&drv_a, &drv_b])).expect(0);
    let expected = [
        ("result".to_owned(), target(&world, &a, "out")),
        ("result-2".to_owned(), target(&world, &b, "out")),
        ("result-2-dev".to_owned(), target(&world, &b, "dev")),
        ("result-dev".to_owned(), target(&world, &a, "dev")),
    ];
    assert_eq!(links(&world), expected);
    for (_, target) in links(&world) {
        assert!(target.exists(), "{target:?}");
    }
}

/// The second stays the second, though the first was not built or cannot even be read.
#[tokio::test]
async fn links_are_numbered_as_on_the_command_line() {
    let world = LocalWorld::new().await;
    let (bad, good) = (instantiate(shell("bad", "exit 1")), two_outputs("good"));
    let (drv_bad, drv_good) = (world.write(&bad).await, world.write(&good).await);
    let missing = format!("{drv_bad}-not.drv");
    let arguments = ["--keep-going", &drv_bad, &missing, &drv_good];
    run(build(&world).args(arguments)).expect(100);
    let expected = [
        ("result-3".to_owned(), target(&world, &good, "out")),
        ("result-3-dev".to_owned(), target(&world, &good, "dev")),
    ];
    assert_eq!(links(&world), expected);
}

/// A link to a derivation is built as the derivation, under any name.
#[tokio::test]
async fn links_to_derivations_are_built() {
    let world = LocalWorld::new().await;
    let made = two_outputs("a");
    let drv = world.write(&made).await;
    let base = drv.rsplit('/').next().unwrap();
    let real = world.store.real_store_dir().join(base);
    for (number, (name, goal)) in [
        ("x.drv", PathBuf::from(&drv)),
        ("x", real),
        ("chain", PathBuf::from("x")),
    ]
    .into_iter()
    .enumerate()
    {
        let link = world.beside(name);
        std::os::unix::fs::symlink(goal, &link).unwrap();
        let link = format!("{}!out", link.display());
        let out = format!("of-{number}");
        let built = run(build(&world).args(["--out-link", &out, &link])).expect(0);
        let path = made.output_path("out").unwrap();
        assert_eq!(
            built.out,
            [world.store.store_dir().path_text(&path)],
            "{name}"
        );
    }
}

#[tokio::test]
async fn links_are_named_and_replaced() {
    let world = LocalWorld::new().await;
    let (a, b) = (two_outputs("a"), two_outputs("b"));
    let (drv_a, drv_b) = (world.write(&a).await, world.write(&b).await);
    for (drv, made) in [(&drv_a, &a), (&drv_b, &b)] {
        run(build(&world).args(["--out-link", "mine", &format!("{drv}!out")])).expect(0);
        assert_eq!(
            links(&world),
            [("mine".to_owned(), target(&world, made, "out"))]
        );
    }
}

#[tokio::test]
async fn no_links_if_none_are_wanted() {
    let world = LocalWorld::new().await;
    let drv = world.write(&two_outputs("a")).await;
    let ended = run(build(&world).args(["--no-out-link", &drv])).expect(0);
    assert_eq!(ended.out.len(), 2);
    assert_eq!(links(&world), []);
}

#[tokio::test]
async fn what_is_no_link_is_not_replaced() {
    let world = LocalWorld::new().await;
    let made = two_outputs("a");
    let drv = world.write(&made).await;
    let mut command = build(&world);
    let file = world.beside("work/result");
    fs::write(&file, "precious").unwrap();
    let ended = run(command.arg(format!("{drv}!out"))).expect(1);
    // What was built is told all the same.
    assert_eq!(ended.out, [absolute(&made.output_path("out").unwrap())]);
    ended.says(&["result", "not a link"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(names_in(&world.beside("work")), ["result"]);
    assert!(target(&world, &made, "out").exists());
}

#[tokio::test]
async fn links_that_cannot_be_created_are_named_once() {
    let world = LocalWorld::new().await;
    let drv = world.write(&two_outputs("a")).await;
    let mut command = build(&world);
    let ended =
        run(command.args(["--out-link", "/proc/missing/result", &format!("{drv}!out")])).expect(1);
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.starts_with("error: cannot create the link '/proc/missing/result': "),
        "{last}"
    );
    assert!(!last.contains("store '"), "{last}");
}

/// The names behind the hashes of store paths.
fn names(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let name = |path: &str| path.rsplit_once('/').unwrap().1[33..].to_owned();
    paths.into_iter().map(|path| name(path.as_ref())).collect()
}

/// What `nix-build` of 2.34.8 prints and links for the same file.
#[tokio::test]
async fn links_are_numbered_in_the_order_of_the_expression() {
    let world = LocalWorld::new().await;
    let text = r#"
        let
          sh = name: outputs: derivation {
            inherit name outputs;
            system = builtins.currentSystem;
            builder = "/bin/sh";
            args = [ "-euc" "for o in $outputs; do eval p=\\$$o; echo > $p; done" ];
          };
          many = sh "many" [ "out" "dev" ];
        in {
          z = sh "z" [ "out" ];
          a = { recurseForDerivations = true; q = sh "q" [ "out" ]; p = many; };
          l = sh "z" [ "out" ];
          m = [ many.dev ];
          n = many.dev;
        }"#;
    let whole = ["many", "q", "z", "many-dev", "z"];
    let asked = ["many-dev", "many", "q", "z", "many-dev"];
    for (args, printed) in [
        (&[][..], whole),
        (&["-A", "m", "-A", "a", "-A", "z", "-A", "n"], asked),
    ] {
        let mut command = build(&world);
        let folder = world.beside("work");
        for name in names_in(&folder) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        let ended = run(command.args(["-E", text]).args(args)).expect(0);
        assert_eq!(names(&ended.out), printed, "{args:?}");
        let links = links(&world).into_iter();
        let links: Vec<_> = links
            .map(|(link, target)| (link, names([target.to_str().unwrap()]).remove(0)))
            .collect();
        let expected = [
            ("result", "many"),
            ("result-2", "q"),
            ("result-3", "z"),
            ("result-dev", "many-dev"),
        ];
        assert_eq!(links, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
