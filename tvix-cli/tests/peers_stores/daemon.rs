//! Real daemons.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tvix_tests::local::make_writable;

/// A daemon with an empty store, and a directory for further files.
pub struct Daemon {
    directory: TempDir,
    child: Option<Child>,
}

/// The words before each program of Nix.
pub fn prefix() -> Vec<String> {
    let prefix = std::env::var("TVIX_NIX_PREFIX").unwrap_or_default();
    prefix.split_whitespace().map(str::to_owned).collect()
}

const CONFIG: &str = "build-users-group =\nsubstituters =\nsandbox = false\n";

impl Daemon {
    /// A daemon that listens.
    pub fn new(more: &str) -> Self {
        let mut daemon = Self::without_daemon(more);
        daemon.start();
        daemon
    }

    /// Only its store and configuration.
    pub fn without_daemon(more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("nix.conf"), format!("{CONFIG}{more}")).unwrap();
        Self {
            directory,
            child: None,
        }
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.beside(name).display().to_string()
    }

    /// Writes a file, and returns where.
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.beside(name), text).unwrap();
        self.text(name)
    }

    /// A program of Nix with the configuration of the daemon.
    pub fn nix(&self, program: &str) -> Command {
        let words: Vec<_> = prefix().into_iter().chain([program.to_owned()]).collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("NIX_CONF_DIR", self.directory.path())
            .env("HOME", self.directory.path())
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        let mut command = self.nix("nix-daemon");
        command
            .arg("--store")
            .arg(self.beside("root"))
            .env("NIX_DAEMON_SOCKET_PATH", self.beside("socket"))
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("these tests need nix-daemon"));
        for _ in 0..1000 {
            if std::os::unix::net::UnixStream::connect(self.beside("socket")).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nix-daemon does not listen");
    }

    /// Kills the processes of its connections.
    pub fn kill_connections(&self) {
        if let Some(child) = &self.child {
            kill_children(child.id());
        }
    }

    /// Kills it and the processes of its connections.
    pub fn stop(&mut self) {
        self.kill_connections();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.beside("socket"));
    }

    pub fn uri(&self) -> String {
        format!("unix://{}?root={}", self.text("socket"), self.text("root"))
    }

    /// Has real Nix verify the store, with contents.
    pub fn verify(&self) {
        let mut command = self.nix("nix-store");
        command
            .arg("--store")
            .arg(self.beside("root"))
            .args(["--verify", "--check-contents"]);
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !log.contains("error"), "{log}");
    }
}

/// Kills the children of a process.
pub fn kill_children(id: u32) {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        let mut kill = Command::new("kill");
        let _ = kill.args(["-KILL", child]).stderr(Stdio::null()).status();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        make_writable(self.directory.path());
    }
}
