//! Daemons behind a real `sshd` on this machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tvix_tests::local::find_in_path;
use tvix_tests::program::run;

use super::daemon::stopped;
use super::{build, tvix};
use tvix_test_support::nix_daemon::{NixDaemon, children, kill, prefix};

/// An `sshd` with keys and a configuration of its own.
pub struct Sshd {
    child: Child,
    port: u16,
    /// Options of `ssh` that keep this user's configuration out.
    options: String,
}

fn program() -> Option<PathBuf> {
    let given = std::env::var_os("TVIX_SSHD").map(PathBuf::from);
    let usual = Some(PathBuf::from("/usr/sbin/sshd"));
    let found = given.or_else(|| find_in_path("sshd")).or(usual);
    found.filter(|sshd| sshd.is_file())
}

impl Sshd {
    /// `None`, with a message, if there is no `sshd` on this machine.
    pub fn start(daemon: &NixDaemon) -> Option<Self> {
        let Some(sshd) = program() else {
            eprintln!("skipped: no sshd on this machine (Debian: openssh-server)");
            return None;
        };
        for key in ["host-key", "user-key"] {
            let mut generate = Command::new("ssh-keygen");
            let file = daemon.text(key);
            generate.args(["-q", "-t", "ed25519", "-N", "", "-f", &file]);
            assert!(generate.status().expect("these tests need ssh").success());
        }
        fs::copy(daemon.beside("user-key.pub"), daemon.beside("authorized")).unwrap();
        // What root's sshd separates its privileges with.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = daemon.text("");
        let directory = directory.trim_end_matches('/');
        let config = daemon.write(
            "sshd_config",
            &format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host-key\n\
                 AuthorizedKeysFile {directory}/authorized\nPidFile none\nStrictModes no\n\
                 UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 PermitRootLogin prohibit-password\nPermitUserEnvironment no\n\
                 SetEnv NIX_CONF_DIR={directory} HOME={directory}\nMaxStartups 100\nMaxSessions 100\n"
            ),
        );
        let log = fs::File::create(daemon.beside("sshd.log")).unwrap();
        let child = Command::new(sshd)
            .args(["-D", "-e", "-f", &config])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut sshd = Self {
            child,
            port,
            options: "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
                      -o LogLevel=ERROR -o BatchMode=yes"
                .to_owned(),
        };
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(sshd);
            }
            if sshd.child.try_wait().unwrap().is_some() {
                let log = fs::read_to_string(daemon.beside("sshd.log")).unwrap();
                panic!("sshd ends: {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("sshd does not listen");
    }

    pub fn uri(&self, daemon: &NixDaemon) -> String {
        let user = rustix::process::geteuid().as_raw();
        let user = Command::new("id").args(["-un", &user.to_string()]).output();
        let user = String::from_utf8(user.unwrap().stdout).unwrap();
        let program = prefix().into_iter().chain(["nix-daemon".to_owned()]);
        let program = program.collect::<Vec<_>>().join("%20");
        format!(
            "ssh-ng://{}@127.0.0.1:{}?remote-store={}&ssh-key={}&compress=true&remote-program={program}",
            user.trim(),
            self.port,
            daemon.text("root"),
            daemon.text("user-key"),
        )
    }

    pub fn options(&self) -> &str {
        &self.options
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        children(self.child.id()).into_iter().for_each(kill);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn copies_and_builds_over_a_real_sshd() {
    let daemon = stopped("");
    let Some(sshd) = Sshd::start(&daemon) else {
        return;
    };
    let uri = sshd.uri(&daemon);
    let with_ssh = |mut command: Command| {
        command.env("NIX_SSHOPTS", sshd.options());
        command
    };
    let local = daemon.text("local");
    let files: Vec<String> = (0..40)
        .map(|number| daemon.write(&format!("file-{number}"), &format!("contents {number}")))
        .collect();
    let mut add = tvix(&daemon);
    let paths = run(add.args(["store", "add", "--store", &local]).args(&files))
        .expect(0)
        .out;
    let mut copy = with_ssh(tvix(&daemon));
    copy.args(["store", "copy", "--from", &local, "--to", &uri]);
    assert_eq!(run(copy.args(&paths)).expect(0).out.len(), paths.len());
    daemon.verify();
    let back = daemon.text("back");
    let mut copy = with_ssh(tvix(&daemon));
    copy.args(["store", "copy", "--from", &uri, "--to", &back]);
    assert_eq!(run(copy.args(&paths)).expect(0).out.len(), paths.len());
    // Built here; there is nothing here to link to.
    let text = "derivation { name = \"x\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
                args = [ \"-c\" \"read line < ${./file-1}; echo $line > $out\" ]; }";
    let file = daemon.write("x.nix", text);
    let mut command = with_ssh(build(&daemon, &uri));
    let built = run(command.args(["-f", &file])).expect(0).out;
    assert!(!Path::new(&daemon.beside("work/result")).is_symlink());
    let name = built[0].strip_prefix("/nix/store/").unwrap();
    let contents = fs::read_to_string(daemon.beside("root/nix/store").join(name)).unwrap();
    assert_eq!(contents, "contents 1\n");
    daemon.verify();
    // A key that is not authorised is an error that names the store.
    let other = daemon.text("other-key");
    let mut generate = Command::new("ssh-keygen");
    generate.args(["-q", "-t", "ed25519", "-N", "", "-f", &other]);
    assert!(generate.status().unwrap().success());
    let refused = uri.replace(&daemon.text("user-key"), &other);
    let mut info = with_ssh(tvix(&daemon));
    info.args(["store", "path-info", "--store", &refused, &paths[0]]);
    run(&mut info).expect(1).says(&["ssh-ng://"]);
}
