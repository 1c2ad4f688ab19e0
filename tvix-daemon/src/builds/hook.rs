//! Nix's `post-build-hook`: a program that is run after each build.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;

use super::history::{History, Line, Origin};

/// Longest line of a hook that is passed on whole, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// The program that is run after each build, with the derivation in `DRV_PATH` and the outputs, separated by spaces,
/// in `OUT_PATHS`.
///
/// A hook that fails ends the operation of the client, although the outputs are valid. It ends with the build if nobody waits for the build
/// any more.
#[derive(Debug, Clone)]
pub struct PostBuildHook {
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl PostBuildHook {
    /// Runs `program`, without arguments, in the environment of the process.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            environment: Vec::new(),
        }
    }

    /// Sets another variable of its environment, such as `NIX_CONFIG`.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs it. Its output goes to `log`. The error is what it failed with, to be put behind its name.
    pub(super) async fn run(
        &self,
        drv_path: &str,
        outputs: &[String],
        log: &History,
    ) -> Result<(), String> {
        let program = self.program.display();
        let note = |origin, text: String| Line {
            text: text.into(),
            partial: false,
            origin,
        };
        log.push(note(Origin::HookStarted, program.to_string()))
            .await;
        let result = self.run_program(drv_path, outputs, log).await;
        log.push(note(Origin::HookEnded, String::new())).await;
        result
    }

    async fn run_program(
        &self,
        drv_path: &str,
        outputs: &[String],
        log: &History,
    ) -> Result<(), String> {
        let mut child = Command::new(&self.program)
            .env("DRV_PATH", drv_path)
            .env("OUT_PATHS", outputs.join(" "))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot be run: {error}"))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (status, (), ()) = tokio::join!(child.wait(), lines(out, log), lines(err, log));
        let status = status.map_err(|error| format!("is lost: {error}"))?;
        match (status.success(), status.code()) {
            (true, _) => Ok(()),
            (false, Some(code)) => Err(format!("failed with exit code {code}")),
            (false, None) => Err(format!("ended by {status}")),
        }
    }
}

async fn lines(output: Option<impl AsyncRead + Unpin>, log: &History) {
    use tokio::io::AsyncReadExt as _;
    let Some(output) = output else {
        return;
    };
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match (&mut output)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        log.push(Line {
            text: line.into(),
            partial: false,
            origin: Origin::Hook,
        })
        .await;
    }
}
