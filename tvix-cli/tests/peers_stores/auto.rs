//! The default store of an ordinary user.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tvix_tests::program::{Ended, run};

use super::daemon::daemon;
use super::tvix;

/// A command as a user that owns no store: nobody, if the tests run as root.
fn ordinary(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

#[test]
fn the_daemon_if_there_is_one_and_a_store_of_ones_own_otherwise() {
    use std::os::unix::fs::PermissionsExt as _;
    let daemon = daemon("");
    let system = std::path::Path::new("/nix/var/nix/db");
    if rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok()
        && !rustix::process::geteuid().is_root()
    {
        eprintln!("skipped: the system's store belongs to this user");
        return;
    }
    let home = daemon.beside("home");
    std::fs::create_dir_all(&home).unwrap();
    for open in [daemon.beside(""), home.clone()] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    }
    let file = daemon.write("file", "contents");
    let add = |socket: &str| -> Ended {
        let mut command = tvix(&daemon);
        command
            .args(["store", "add", &file])
            .env("NIX_DAEMON_SOCKET_PATH", socket);
        run(ordinary(&mut command)).expect(0)
    };
    let own = home.join(".local/share/nix/root");
    let first = add("/nonexistent/socket");
    assert!(own.join("nix/store").is_dir());
    assert!(first.err.contains(&own.display().to_string()), "{first:?}");
    // It is said once.
    let second = add("/nonexistent/socket");
    assert_eq!((second.err.as_str(), &second.out), ("", &first.out));
    // The daemon's files are elsewhere, which it does not say.
    let by_daemon = add(&daemon.text("socket"));
    assert_eq!((by_daemon.err.as_str(), &by_daemon.out), ("", &first.out));
    let name = by_daemon.out[0].strip_prefix("/nix/store/").unwrap();
    assert!(daemon.beside("root/nix/store").join(name).is_file());
}
