//! Machines that cannot run sandboxes.

use std::process::Command;

use tvix_tests::local::{instantiate, sandbox_paths, shell};
use tvix_tests::program::{run, tvix};

use super::Before;

/// In a user namespace in which no further namespace can be created. Not even root can run
/// sandboxes there.
#[tokio::test]
async fn without_namespaces() {
    let mut before = Before::new().await;
    let drv = before
        .write(&instantiate(shell("needs-a-sandbox", "echo > $out")))
        .await;
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"")
        .arg("sh")
        .arg(tvix())
        .args(["build", "--no-out-link", "--store"])
        .arg(before.world.root());
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    let ended = run(command.arg(&drv)).expect(1);
    assert_eq!(ended.out, [""; 0]);
    // The error names the missing feature, the remedy, and the option to build without a sandbox.
    ended.says(&[
        "cannot sandbox builds",
        "user namespaces",
        "user.max_user_namespaces",
        "--no-sandbox",
    ]);
    before.expect_unchanged().await;
}
