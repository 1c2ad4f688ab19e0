//! Builds that fail.

use std::fs;
use std::path::PathBuf;

use tvix_tests::local::{LocalWorld, absolute, instantiate, shell};
use tvix_tests::program::run;

use super::build;
use super::terminal::{on_terminal, without_display};

#[tokio::test]
async fn a_failed_build_shows_the_end_of_its_log_and_where_the_rest_is() {
    let world = LocalWorld::new().await;
    let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exit 7";
    let drv = world.write(&instantiate(shell("talker", script))).await;
    let ended = run(build(&world).arg(&drv)).expect(100);
    assert_eq!(ended.out, [""; 0]);
    let (log, shown) = ended.err.split_once("error: ").unwrap();
    assert!(
        shown.contains(&drv) && shown.contains("exit code 7"),
        "{shown}"
    );
    // Without a terminal the whole log was shown already; with one, its end is.
    for number in 0..500 {
        let line = format!("talker> line {number}\n");
        assert_eq!(log.matches(&line).count(), 1, "{log}");
    }
    assert!(!shown.contains("line 499"), "{shown}");
    let (shown_on_terminal, _) = on_terminal(build(&world).arg(&drv));
    let text = without_display(&shown_on_terminal);
    let (_, end) = text.split_once("error: ").unwrap();
    for number in 490..500 {
        assert!(end.contains(&format!("> line {number}\n")), "{end}");
    }
    assert!(!end.contains("> line 489\n"), "{end}");

    let (_, rest) = shown.split_once("the whole log is in '").unwrap();
    let file = PathBuf::from(rest.split_once('\'').unwrap().0);
    let expected: String = (0..500).map(|number| format!("line {number}\n")).collect();
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    world.expect_clean().await;
}

#[tokio::test]
async fn what_does_not_need_a_failure_goes_on_if_asked_to() {
    let world = LocalWorld::new().await;
    let bad = instantiate(shell("bad", "exit 1"));
    let needs_bad = instantiate(shell("needs-bad", "echo > $out").input_env("bad", &bad, "out"));
    let input = instantiate(shell("input", "echo > $out"));
    let good = instantiate(shell("good", "echo > $out").input_env("input", &input, "out"));
    world.write(&bad).await;
    world.write(&input).await;
    let (first, second) = (world.write(&needs_bad).await, world.write(&good).await);
    let before = world.valid().await;

    // The bad one is known first, by itself, so that what stops is not a matter of luck.
    run(build(&world).args(["--max-jobs", "1", &first])).expect(100);
    assert_eq!(world.valid().await, before);

    let ended = run(build(&world).args(["--keep-going", &first, &second])).expect(100);
    assert_eq!(ended.out, [absolute(&good.output_path("out").unwrap())]);
    ended.says(&[
        &format!("build of '{}' failed", absolute(&bad.path)),
        &format!(
            "'{first}' was not built, because '{}' failed",
            absolute(&bad.path)
        ),
    ]);
    world.expect_clean().await;
}

#[tokio::test]
async fn what_failed_can_be_built_once_it_is_right() {
    let world = LocalWorld::new().await;
    let gate = world.beside("gate");
    let made = instantiate(shell("gated", "cat /gate > $out"));
    let drv = world.write(&made).await;
    let path = format!("/gate={}?", gate.display());
    run(build(&world).args(["--sandbox-path", &path, &drv])).expect(100);
    fs::write(&gate, "open\n").unwrap();
    run(build(&world).args(["--sandbox-path", &path, &drv])).expect(0);
    assert_eq!(world.read(&made.output_path("out").unwrap()), "open\n");
}
