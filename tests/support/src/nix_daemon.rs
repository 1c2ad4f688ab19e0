//! Programs of a real Nix, and daemons of it. TVIX_NIX_PREFIX is put before each program, to test with a Nix in another
//! root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::directory::make_writable;

/// The words before each program of Nix.
pub fn prefix() -> Vec<String> {
    let prefix = std::env::var("TVIX_NIX_PREFIX").unwrap_or_default();
    prefix.split_whitespace().map(str::to_owned).collect()
}

/// A program of Nix.
pub fn nix(program: &str) -> Command {
    let words: Vec<_> = prefix().into_iter().chain([program.to_owned()]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Verifies the store at `root`, with contents, by real Nix with the configuration in `configuration`.
pub fn verify(root: &Path, configuration: &Path) {
    let mut command = nix("nix-store");
    command.arg("--store").arg(root);
    command.args(["--verify", "--check-contents"]);
    command
        .env("NIX_CONF_DIR", configuration)
        .env_remove("NIX_REMOTE");
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !log.contains("error"), "{log}");
}

/// The children of a process.
pub fn children(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let children = children.unwrap_or_default();
    let ids = children.split_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// Kills a process.
pub fn kill(id: u32) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-KILL", &id.to_string()]);
    let _ = kill.stderr(Stdio::null()).status();
}

/// A daemon of Nix with an empty store, in a directory for further files. It ends when it is dropped.
pub struct NixDaemon {
    directory: PathBuf,
    child: Option<Child>,
    _temporary: Option<TempDir>,
}

const CONFIG: &str = "build-users-group =\nsubstituters =\n";

impl NixDaemon {
    /// A daemon in a temporary directory, with these lines in its nix.conf, which is not started.
    pub fn new(config: &str) -> Self {
        let temporary = TempDir::new().unwrap();
        let mut daemon = Self::within(temporary.path(), config);
        daemon._temporary = Some(temporary);
        daemon
    }

    /// A daemon in a given directory, which is not started.
    pub fn within(directory: &Path, config: &str) -> Self {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("nix.conf"), format!("{CONFIG}{config}")).unwrap();
        Self {
            directory: directory.to_owned(),
            child: None,
            _temporary: None,
        }
    }

    /// Gives its builds `/bin/busybox` as `/bin/sh`. A copy, as the daemon may be in another root.
    #[must_use]
    pub fn with_shell(self) -> Self {
        let shell = self.beside("busybox");
        fs::copy("/bin/busybox", &shell).unwrap();
        let file = self.beside("nix.conf");
        let config = fs::read_to_string(&file).unwrap();
        let line = format!("sandbox-paths = /bin/sh={}\n", shell.display());
        fs::write(file, config + &line).unwrap();
        self
    }

    /// Starts it.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// The directory of its configuration.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file in its directory: the store is `root`.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The path of a file in its directory, as text.
    pub fn text(&self, name: &str) -> String {
        self.beside(name).display().to_string()
    }

    /// Writes a file in its directory, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.beside(name), text).unwrap();
        self.text(name)
    }

    /// The URI of the store.
    pub fn uri(&self) -> String {
        format!("unix://{}?root={}", self.text("socket"), self.text("root"))
    }

    /// A program of Nix with the configuration of the daemon.
    pub fn nix(&self, program: &str) -> Command {
        let mut command = nix(program);
        command
            .env("NIX_CONF_DIR", &self.directory)
            .env("HOME", &self.directory)
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null());
        command
    }

    /// Starts it, and waits until it listens.
    pub fn start(&mut self) {
        let mut command = self.nix("nix-daemon");
        command
            .arg("--store")
            .arg(self.beside("root"))
            .env("NIX_DAEMON_SOCKET_PATH", self.beside("socket"))
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("these tests need nix-daemon"));
        for _ in 0..1000 {
            if UnixStream::connect(self.beside("socket")).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nix-daemon does not listen");
    }

    /// Kills the processes of its connections.
    pub fn kill_connections(&self) {
        let children = self.child.iter().flat_map(|child| children(child.id()));
        children.for_each(kill);
    }

    /// Kills it and the processes of its connections.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let children = children(child.id());
            let _ = child.kill();
            children.into_iter().for_each(kill);
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.beside("socket"));
    }

    /// Writes a stand-in for `ssh` that runs the command on this machine.
    pub fn install_ssh(&self) -> PathBuf {
        let ssh = self.beside("ssh");
        let conf = self.directory.display();
        let prefix = prefix().join(" ");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n\
             export NIX_CONF_DIR={conf} HOME={conf}\nunset NIX_REMOTE\neval exec {prefix} \"$@\"\n"
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        ssh
    }

    /// Verifies its store, with contents, by real Nix.
    pub fn verify(&self) {
        verify(&self.beside("root"), &self.directory);
    }
}

impl Drop for NixDaemon {
    fn drop(&mut self) {
        self.stop();
        make_writable(&self.directory);
    }
}
