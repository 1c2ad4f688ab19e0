//! A store with its daemon, and clients of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tvix_test_support::directory::make_writable;
use tvix_test_support::nix_daemon::{nix, prefix};

pub enum Server {
    Nix,
    Tvix,
}

pub struct World {
    directory: TempDir,
    /// NIX_REMOTE of clients.
    pub remote: String,
}

/// A daemon that runs.
pub struct Running {
    child: Child,
    socket: PathBuf,
}

const CONFIG: &str =
    "build-users-group =\nsubstituters =\nsandbox = false\nexperimental-features = nix-command\n";

impl World {
    pub fn new(more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let world = Self {
            directory,
            remote: "daemon".to_owned(),
        };
        let root = world.root();
        fs::write(root.join("nix.conf"), format!("{CONFIG}{more}")).unwrap();
        let source = root.join("src");
        fs::create_dir_all(source.join("directory")).unwrap();
        fs::write(source.join("file"), "hello\n").unwrap();
        std::os::unix::fs::symlink("file", source.join("link")).unwrap();
        fs::write(source.join("directory/other"), "other\n").unwrap();
        let expression = "derivation { name = \"test\"; system = builtins.currentSystem; builder = \"/bin/sh\"; src = ./src;\n\
             args = [ \"-c\" \"echo building it; echo built > $out\" ]; }";
        fs::write(root.join("test.nix"), expression).unwrap();
        world.clear();
        world
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.root().join("socket")
    }

    /// Deletes the store. Nix takes a state directory that does not exist for one of another user.
    pub fn clear(&self) {
        for name in ["store", "var", "log", "cache"] {
            let directory = self.root().join(name);
            make_writable(&directory);
            let _ = fs::remove_dir_all(&directory);
        }
        fs::create_dir_all(self.root().join("var")).unwrap();
        fs::create_dir_all(self.root().join("store")).unwrap();
    }

    fn environment(&self, command: &mut Command) {
        let root = self.root();
        command
            .env("NIX_CONF_DIR", root)
            .env("NIX_STORE_DIR", root.join("store"))
            .env("NIX_STATE_DIR", root.join("var"))
            .env("NIX_LOG_DIR", root.join("log"))
            .env("NIX_DAEMON_SOCKET_PATH", self.socket())
            .env("HOME", root)
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null());
    }

    pub fn serve(&self, server: Server) -> Running {
        let mut command = match server {
            Server::Nix => nix("nix-daemon"),
            Server::Tvix => {
                let mut tvix = Command::new(env!("CARGO_BIN_EXE_tvix"));
                tvix.arg("daemon");
                tvix
            }
        };
        self.environment(&mut command);
        command.env_remove("NIX_REMOTE").stderr(Stdio::null());
        let child = command.spawn().expect("these tests need nix-daemon");
        let socket = self.socket();
        let running = Running { child, socket };
        for _ in 0..2000 {
            if std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                return running;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the daemon does not listen");
    }

    /// A command line of a client, in the words of a shell. ROOT, SRC and EXPR stand for places.
    pub fn command(&self, line: &str) -> Command {
        let root = self.root().display().to_string();
        let line = line
            .replace("SRC", &format!("{root}/src"))
            .replace("EXPR", &format!("{root}/test.nix"))
            .replace("ROOT", &root);
        let line = format!("exec {} {line}", prefix().join(" "));
        let mut command = Command::new("/bin/sh");
        self.environment(command.args(["-c", &line]));
        command.env("NIX_REMOTE", &self.remote);
        command
    }

    /// What a client prints, and its exit code; and what it prints to its standard output.
    pub fn shown(&self, line: &str) -> (String, String) {
        let output = self.command(line).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().unwrap_or(-1);
        (format!("{out}{errors}= {code}"), out)
    }

    /// The output of a client that succeeds.
    pub fn output(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}

impl Running {
    pub fn terminate(&mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nix's daemon has a process for each connection, which end with their clients.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
