//! Runs Nix with build users without changing the users of this machine: the test program runs
//! again in a mount namespace of its own, in which `/etc/passwd` and `/etc/group` have additional
//! entries.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use tempfile::TempDir;

/// Set for the second run: the group of the build users.
const GROUP: &str = "PEERS_BUILD_USERS_GROUP";

/// Set for the second run: the directory in which Nix keeps the locks of its build users.
/// Concurrent runs must share it.
const STATE: &str = "PEERS_BUILD_USERS_STATE";

/// Far from the range of real accounts, because Nix kills all processes of these users.
const FIRST_ID: u32 = 799_990_000;

/// Maximum number of concurrent builds.
const USERS: u32 = 8;

/// The group of the build users for Nix, in the second run.
pub fn group() -> Option<String> {
    std::env::var(GROUP).ok()
}

/// Configures a program of Nix to use the build users, in the second run.
pub fn configure(command: &mut Command) {
    if let Some(directory) = std::env::var_os(STATE) {
        command.env("NIX_STATE_DIR", directory);
    }
}

/// Runs this test program again with build users for Nix, if it runs as root. Requires `unshare`.
pub fn again_with_build_users() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 || group().is_some() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let name = "peers-builders";
    let users = || (1..=USERS).map(|number| format!("{name}-{number}"));
    let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
    for (number, user) in users().enumerate() {
        let uid = FIRST_ID + 1 + number as u32;
        passwd += &format!("{user}:x:{uid}:{FIRST_ID}::/var/empty:/usr/sbin/nologin\n");
    }
    let mut groups = fs::read_to_string("/etc/group").unwrap();
    let members: Vec<_> = users().collect();
    groups += &format!("{name}:x:{FIRST_ID}:{}\n", members.join(","));
    let files = [("passwd", passwd), ("group", groups)];
    for (file, text) in files {
        fs::write(directory.path().join(file), text).unwrap();
    }
    let script = "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/group\" /etc/group \
                  && exec \"$2\"";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .env(GROUP, name)
        .env(STATE, directory.path().join("state"))
        .output()
        .expect("these tests need unshare in PATH");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
