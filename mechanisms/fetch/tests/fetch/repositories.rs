//! Repositories of Git.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs `git` as somebody at a fixed time.
pub fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .args(["-c", "protocol.file.allow=always"])
        .args(args);
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "somebody")
            .env(format!("GIT_{who}_EMAIL"), "somebody@example.org")
            .env(format!("GIT_{who}_DATE"), "1600000000 +0200");
    }
    let output = command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {said}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Makes a repository with a commit.
pub fn repository(path: &Path) -> String {
    fs::create_dir_all(path.join("sub")).unwrap();
    git(path, &["init", "--quiet", "--initial-branch=main"]);
    fs::write(path.join("default.nix"), "{ x = 42; }").unwrap();
    fs::write(path.join("sub/run"), "#!").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path.join("sub/run"), executable).unwrap();
    fs::write(path.join("sub/ignored"), "i").unwrap();
    fs::write(
        path.join(".gitattributes"),
        "sub/ignored export-ignore\n* text eol=crlf\n",
    )
    .unwrap();
    std::os::unix::fs::symlink("sub/run", path.join("link")).unwrap();
    git(path, &["add", "."]);
    git(path, &["commit", "--quiet", "--message", "one"]);
    git(path, &["rev-parse", "HEAD"])
}
