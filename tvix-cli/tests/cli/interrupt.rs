//! Ctrl-C.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tvix_tests::local::{LocalWorld, instantiate, shell};

use super::build;

/// Processes with this word in their arguments.
fn processes_with(marker: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(marker)
        })
        .collect()
}

#[tokio::test]
async fn ctrl_c_ends_everything_in_order() {
    let world = LocalWorld::new().await;
    let done = instantiate(shell("done", "echo > $out"));
    let marker = format!("interrupted-{}", std::process::id());
    let script =
        format!(": {marker}; (sleep 1000 & sleep 1000) & echo running; sleep 1000; echo > $out");
    let endless = shell("endless", &script).input_env("done", &done, "out");
    let endless = instantiate(endless);
    let done_drv = world.write(&done).await;
    let drv = world.write(&endless).await;

    let mut command = build(&world);
    command.args([&done_drv, &drv]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "endless> running"));
    assert!(!processes_with(&marker).is_empty());
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{rest:#?}");
    assert!(
        rest.iter().any(|line| line.contains("cancelled")),
        "{rest:#?}"
    );

    // The kernel may take a moment to end what it was told to kill.
    for _ in 0..1000 {
        if processes_with(&marker).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(processes_with(&marker), [0u32; 0]);
    // What was built before stays.
    let valid = world.valid().await;
    assert!(valid.contains(&done.output_path("out").unwrap()));
    assert!(!valid.contains(&endless.output_path("out").unwrap()));
    world.expect_clean().await;
}
