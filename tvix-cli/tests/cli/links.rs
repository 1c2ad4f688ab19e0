//! Links to what was built.

use std::fs;
use std::path::PathBuf;

use nix_compat::derivation::Instantiated;
use tvix_tests::local::{LocalWorld, absolute, instantiate, names_in, shell};
use tvix_tests::program::run;

use super::build;

fn two_outputs(name: &str) -> Instantiated {
    instantiate(shell(name, "echo > $out; echo > $dev").outputs(["out", "dev"]))
}

/// The links and what they lead to.
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
