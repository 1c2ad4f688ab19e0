//! A shell in a sandbox.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use tvix_sandbox::{Access, Ending, Engine, EngineOptions, Mount, Running, SandboxSpec, Scratch};

/// An engine with a temporary scratch directory.
pub struct Fixture {
    pub engine: Engine,
    pub directory: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::new(EngineOptions::new(directory.path().join("scratch"))).unwrap();
        Fixture { engine, directory }
    }

    /// A shell that runs `script`, with only the host's programs.
    pub fn shell(&self, script: &str) -> (SandboxSpec, Scratch) {
        self.shell_with(script, &[])
    }

    /// The same, with these inputs in its store directory.
    pub fn shell_with(&self, script: &str, inputs: &[PathBuf]) -> (SandboxSpec, Scratch) {
        let mut scratch = self.engine.scratch().unwrap();
        let mut spec = SandboxSpec::new("/bin/sh");
        spec.args = ["sh", "-c", script].map(Into::into).to_vec();
        spec.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
        spec.cwd = "/build".into();
        spec.host_ids = scratch.host_ids();
        for host in ["/bin", "/lib", "/lib64", "/usr"] {
            spec.mounts.push(Mount::Bind {
                source: host.into(),
                target: host.into(),
                access: Access::ReadOnly,
                optional: true,
            });
        }
        spec.mounts.push(Mount::file(
            "/etc/passwd",
            "root:x:0:0::/build:/noshell\nnixbld:x:1000:100::/build:/noshell\n",
        ));
        spec.mounts
            .extend(scratch.mounts(Path::new("/nix/store"), inputs).unwrap());
        (spec, scratch)
    }

    /// Runs a script to its end.
    pub async fn run(&self, script: &str) -> (Ending, String) {
        let (spec, scratch) = self.shell(script);
        let running = self.engine.spawn_holding(spec, scratch).await.unwrap();
        finish(running).await
    }
}

pub async fn finish(running: Running) -> (Ending, String) {
    let (ending, log) = running.output().await.unwrap();
    (ending, String::from_utf8_lossy(&log).into_owned())
}

/// Compiles a C program for a sandbox without libraries, at addresses that fit into 32 bits.
pub fn compile(directory: &Path, name: &str, source: &str) -> PathBuf {
    let file = directory.join(format!("{name}.c"));
    let program = directory.join(name);
    std::fs::write(&file, source).unwrap();
    let compiled = Command::new("cc")
        .args(["-static", "-no-pie", "-o"])
        .args([&program, &file])
        .status();
    assert!(compiled.expect("this test needs cc in PATH").success());
    program
}

/// A word that occurs in the arguments of no other process.
pub fn marker() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("marker-{}-{number}-x", std::process::id())
}

/// The ids of the processes with this word in their arguments.
pub fn processes_with(marker: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let matches = String::from_utf8_lossy(&arguments).contains(marker);
        if let (Some(pid), true) = (pid, matches) {
            found.push(pid);
        }
    }
    found
}

/// Waits until a condition holds; fails the test after ten seconds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not within ten seconds: {what}");
}
