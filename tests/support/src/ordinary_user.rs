//! Test suites that root runs again as an unprivileged user.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tempfile::TempDir;

/// The user and the group.
const NOBODY: u32 = 65534;

/// The name of the copy of the test program.
const SUITE: &str = "suite";

/// Runs this test program again as an unprivileged user, if it runs as root. Returns the names that
/// the tests have left in their temporary directory.
///
/// # Panics
///
/// If the tests fail.
pub fn run_again() -> Vec<OsString> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Vec::new();
    }
    let directory = TempDir::new().unwrap();
    let program = directory.path().join(SUITE);
    // Copied by another program: a process that another test starts at this moment could inherit
    // the copy open for writing, and then the copy could not be executed.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new(program)
        .env("TMPDIR", directory.path())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != SUITE).collect()
}
