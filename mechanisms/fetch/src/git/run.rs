//! Running `git`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{Cancel, FetchError};

/// How often a running `git` is looked at for whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);
/// How much of what `git` complains of is kept.
const MOST_LOG: u64 = 1 << 16;
/// How much `git` may say where it is kept in memory: names of files, never their contents.
const MOST_OUTPUT: u64 = 1 << 30;

/// What would make `git` look at another repository than the one that it is told
/// (`git rev-parse --local-env-vars`).
const UNSET: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Settings of the user or of a repository that would run programs, or change what is read.
const SETTINGS: &[&str] = &[
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "init.defaultBranch=none",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
];

/// A repository.
pub(super) enum Place {
    /// A bare one.
    Bare(PathBuf),
    /// One with a working tree.
    Worktree(PathBuf),
}

/// `git` in a repository.
pub(super) struct Git<'c> {
    pub(super) place: Place,
    pub(super) cancel: &'c Cancel,
}

impl<'c> Git<'c> {
    pub(super) fn bare(path: &Path, cancel: &'c Cancel) -> Self {
        let place = Place::Bare(path.to_owned());
        Self { place, cancel }
    }

    pub(super) fn worktree(path: &Path, cancel: &'c Cancel) -> Self {
        let place = Place::Worktree(path.to_owned());
        Self { place, cancel }
    }

    pub(super) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        match &self.place {
            Place::Bare(path) => {
                let mut flag = OsString::from("--git-dir=");
                flag.push(path);
                command.arg(flag);
            }
            Place::Worktree(path) => {
                command.arg("-C").arg(path);
            }
        }
        for variable in UNSET {
            command.env_remove(variable);
        }
        command
            .args(args)
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C");
        command
    }

    /// What `git` says with these arguments.
    pub(super) fn output<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Vec<u8>, FetchError> {
        self.said(self.command(args), None)
    }

    /// What a command says.
    pub(super) fn said(
        &self,
        command: Command,
        input: Option<File>,
    ) -> Result<Vec<u8>, FetchError> {
        self.run(command, input, |mut stdout| {
            let mut output = Vec::new();
            (&mut stdout)
                .take(MOST_OUTPUT + 1)
                .read_to_end(&mut output)?;
            match output.len() as u64 > MOST_OUTPUT {
                true => Err(io::Error::other("git says too much").into()),
                false => Ok(output),
            }
        })
    }

    /// The same as a line of text.
    pub(super) fn line<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, FetchError> {
        let output = self.output(args)?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// Runs `git`, with a file as its input, and works with what it says.
    pub(super) fn run<R>(
        &self,
        mut command: Command,
        input: Option<File>,
        work: impl FnOnce(&mut ChildStdout) -> Result<R, Problem>,
    ) -> Result<R, FetchError> {
        let input = input.map_or_else(Stdio::null, Stdio::from);
        let spawned = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| FetchError::local("running git", error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
            return Err(FetchError::git("git has no output"));
        };
        let child = Mutex::new(child);
        let (done, is_done) = mpsc::channel::<()>();
        let (result, log) = std::thread::scope(|scope| {
            scope.spawn(|| self.watch(&child, is_done));
            let log = scope.spawn(move || {
                let mut log = Vec::new();
                let _ = (&mut stderr).take(MOST_LOG).read_to_end(&mut log);
                // The rest too, or git waits for ever.
                let _ = io::copy(&mut stderr, &mut io::sink());
                log
            });
            let result = work(&mut stdout);
            if result.is_err() {
                kill(&child);
            }
            drop(stdout);
            let log = log.join().unwrap_or_default();
            drop(done);
            (result, log)
        });
        let status = child
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .wait()
            .map_err(|error| FetchError::local("waiting for git", error))?;
        if self.cancel.is_cancelled() {
            return Err(FetchError::Cancelled);
        }
        let result = result.map_err(|problem| match problem {
            Problem::Fetch(error) => error,
            Problem::Io(error) => FetchError::local("reading what git says", error),
        })?;
        if status.success() {
            return Ok(result);
        }
        let log = String::from_utf8_lossy(&log).trim_end().to_owned();
        let words: Vec<_> = command
            .get_args()
            .skip(2 * SETTINGS.len())
            .map(OsStr::to_string_lossy)
            .collect();
        let message = format!("program 'git' failed ({status}): git {}", words.join(" "));
        Err(FetchError::Git { message, log })
    }

    fn watch(&self, child: &Mutex<Child>, is_done: mpsc::Receiver<()>) {
        while is_done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if self.cancel.is_cancelled() {
                return kill(child);
            }
        }
    }

    /// Hands a file with these bytes to `git`.
    pub(super) fn input(bytes: &[u8]) -> Result<File, FetchError> {
        let write = || -> io::Result<File> {
            use std::io::Seek as _;
            let mut file = tempfile::tempfile()?;
            file.write_all(bytes)?;
            file.rewind()?;
            Ok(file)
        };
        write().map_err(|error| FetchError::local("writing a temporary file", error))
    }
}

fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = child.kill();
}

/// What went wrong with what `git` says.
pub(super) enum Problem {
    Io(io::Error),
    Fetch(FetchError),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}
