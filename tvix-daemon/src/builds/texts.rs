//! Texts of results, as Nix writes them: scripts look for them.
//!
//! Newer clients get those of Nix 2.34, clients of protocol version 1.34 those of Nix 2.8. Escape sequences are a part of
//! them; clients remove them if they do not write to a terminal.

use std::fmt::Write as _;
use std::path::Path;

use bstr::ByteSlice as _;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::nixhash::NixHash;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::{BuildFailure, BuilderProfile, FailureKind, Requirements};
use tvix_coordinator::{CheckProblem, FailureCause};
use tvix_worker_protocol::{BuildStatus, Version};

const NORMAL: &str = "\x1b[0m";

/// A value within a message.
pub(super) fn value(text: impl std::fmt::Display) -> String {
    format!("\x1b[35;1m{text}{NORMAL}")
}

fn reason(text: impl std::fmt::Display) -> String {
    format!("\x1b[31;1m{text}{NORMAL}")
}

/// The version of Nix whose texts a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wording {
    /// Nix 2.8.
    Old,
    /// Nix 2.34.
    Current,
}

impl Wording {
    pub fn of(version: Version) -> Self {
        match version < Version::new(1, 35) {
            true => Self::Old,
            false => Self::Current,
        }
    }

    /// A file's path in quotes.
    pub fn file(self, path: &str) -> String {
        match self {
            Self::Old => format!("'{}'", value(path)),
            Self::Current => value(format!("\"{path}\"")),
        }
    }
}

/// An error as a line of the log, as it is shown if it does not end the operation.
pub(super) fn as_line(message: &str) -> String {
    let mut text = format!("\x1b[31;1merror:{NORMAL} ");
    for (index, line) in message.split('\n').enumerate() {
        if index > 0 {
            text.push('\n');
            if !line.is_empty() {
                text.push_str("       ");
            }
        }
        text.push_str(line);
    }
    text.push('\n');
    text
}

/// A result and its text.
pub(super) type Text = (BuildStatus, String);

/// The derivation that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub dir: &'a StoreDir,
    pub path: &'a StorePath,
    pub derivation: Option<&'a Derivation>,
    pub wording: Wording,
}

impl Subject<'_> {
    fn drv(&self) -> String {
        self.dir.path_text(self.path)
    }

    fn cannot_build(&self, why: &str, end: &str) -> String {
        format!(
            "Cannot build '{}'.\nReason: {}{end}",
            value(self.drv()),
            reason(why)
        )
    }

    fn output_paths(&self) -> String {
        let mut text = String::new();
        let paths = self
            .derivation
            .map(|it| it.output_paths(self.dir))
            .into_iter()
            .flatten();
        for path in paths.filter_map(|(_, path)| path) {
            let start = if text.is_empty() {
                "\nOutput paths:"
            } else {
                ""
            };
            let path = value(self.dir.path_text(&path));
            let _ = write!(text, "{start}\n  {path}");
        }
        text
    }

    /// `why` is the end of a sentence about the builder.
    fn builder_failed(&self, why: &str, tail: &[String]) -> String {
        let drv = self.drv();
        match self.wording {
            Wording::Old => {
                let mut text = format!("builder for '{}' {why}", value(&drv));
                let tail = &tail[tail.len().saturating_sub(10)..];
                if !tail.is_empty() {
                    let _ = write!(text, ";\nlast {} log lines:", tail.len());
                    tail.iter()
                        .for_each(|line| text.push_str(&format!("\n> {line}")));
                    let _ = write!(text, "\nFor full logs, run '\x1b[1mnix log {drv}{NORMAL}'.");
                }
                text
            }
            Wording::Current => {
                let mut text = self.cannot_build(&format!("builder {why}"), ".");
                text.push_str(&self.output_paths());
                if !tail.is_empty() {
                    let _ = write!(text, "\nLast {} log lines:", tail.len());
                    tail.iter()
                        .for_each(|line| text.push_str(&format!("\n> {line}")));
                    let _ = write!(
                        text,
                        "\nFor full logs, run:\n  \x1b[1mnix log {drv}{NORMAL}"
                    );
                }
                text
            }
        }
    }

    /// So many inputs failed.
    pub fn dependencies_failed(&self, count: usize) -> Text {
        let text = match self.wording {
            Wording::Old => format!(
                "{} dependencies of derivation '{}' failed to build",
                value(count),
                value(self.drv())
            ),
            Wording::Current => {
                let noun = if count == 1 {
                    "dependency"
                } else {
                    "dependencies"
                };
                let mut text = self.cannot_build(&format!("{count} {noun} failed"), ".");
                text.push_str(&self.output_paths());
                text
            }
        };
        (BuildStatus::DependencyFailed, text)
    }

    fn timed_out(&self, seconds: u64, silence: bool) -> Text {
        let text = match self.wording {
            Wording::Old => {
                let goal = format!("building of '{}!out' from .drv file", self.drv());
                let silence = if silence { " of silence" } else { "" };
                format!(
                    "{} timed out after {} seconds{silence}",
                    value(goal),
                    value(seconds)
                )
            }
            Wording::Current => format!("timed out after {} seconds", value(seconds)),
        };
        (BuildStatus::TimedOut, text)
    }

    /// A build that failed.
    pub fn build(&self, failure: &BuildFailure) -> Text {
        let fixed = self.derivation.is_some_and(Derivation::is_fixed_output);
        // What comes from the network may be there the next time.
        let failed = match fixed {
            true => BuildStatus::TransientFailure,
            false => BuildStatus::PermanentFailure,
        };
        let tail = || {
            let lines = failure.log_tail.iter();
            let lines = lines.filter(|line| !is_keeping(line.as_bytes()));
            lines.cloned().collect::<Vec<_>>()
        };
        let rejected = BuildStatus::OutputRejected;
        match &failure.kind {
            FailureKind::ExitCode { code } => {
                let why = format!("failed with exit code {code}");
                (failed, self.builder_failed(&why, &tail()))
            }
            FailureKind::Signal { signal } => {
                let why = format!(
                    "failed due to signal {signal} ({})",
                    signal_description(*signal)
                );
                (failed, self.builder_failed(&why, &tail()))
            }
            FailureKind::CannotRun { program, message } => {
                let line = cannot_run(program, message);
                (
                    failed,
                    self.builder_failed("failed with exit code 1", &[line]),
                )
            }
            FailureKind::TimedOut { limit } => self.timed_out(limit.as_secs(), false),
            FailureKind::Silent { limit } => self.timed_out(limit.as_secs(), true),
            FailureKind::LogLimit { limit } => {
                let text = format!(
                    "{} killed after writing more than {} bytes of log output",
                    value(format!("building of '{}'", self.drv())),
                    value(limit)
                );
                (BuildStatus::LogLimitExceeded, text)
            }
            FailureKind::MissingOutput { output, path } => {
                let text = format!(
                    "builder for '{}' failed to produce output path for output '{}' at {}",
                    value(self.drv()),
                    value(output),
                    self.wording.file(path)
                );
                (rejected, text)
            }
            FailureKind::HashMismatch { expected, actual } => {
                let text = format!(
                    "hash mismatch in fixed-output derivation '{}':\n  specified: {}\n     got:    {}",
                    value(self.drv()),
                    value(sri(expected)),
                    value(sri(actual))
                );
                (rejected, text)
            }
            FailureKind::ForbiddenReference { output, references } => {
                let mut paths = String::new();
                for path in references {
                    let _ = write!(paths, "\n  {}", self.dir.display(path));
                }
                let text = format!(
                    "output '{}' is not allowed to refer to the following paths:{}",
                    value(self.output(output)),
                    value(paths)
                );
                (rejected, text)
            }
            FailureKind::TooLarge {
                output,
                size,
                limit,
                closure,
            } => {
                let start = if *closure { "closure of path" } else { "path" };
                let text = format!(
                    "{start} '{}' is too large at {} bytes; limit is {} bytes",
                    value(self.output(output)),
                    value(size),
                    value(limit)
                );
                (rejected, text)
            }
            FailureKind::InvalidOutput { .. } | FailureKind::OutputsExceedDisk { .. } => {
                (rejected, failure.kind.to_string())
            }
            FailureKind::InvalidDerivation { message } => {
                (BuildStatus::InputRejected, message.clone())
            }
            FailureKind::Cancelled => {
                let text = "interrupted by the user".to_owned();
                (BuildStatus::MiscFailure, text)
            }
            other => (failed, self.builder_failed(&other.to_string(), &tail())),
        }
    }

    fn output(&self, output: &OutputName) -> String {
        let path = self
            .derivation
            .and_then(|it| it.output_path(self.dir, output));
        path.map_or_else(|| output.to_string(), |path| self.dir.path_text(&path))
    }

    /// A derivation that failed for any reason.
    pub fn cause(&self, cause: &FailureCause, builders: &[BuilderProfile]) -> Text {
        match cause {
            FailureCause::Build { failure } => self.build(failure),
            FailureCause::Unsuitable { message } => {
                let text = match (self.derivation, &builders.first()) {
                    (Some(derivation), Some(builder)) => self.unsuitable(derivation, builder),
                    (Some(_), None) => self.no_builder(),
                    _ => message.clone(),
                };
                (BuildStatus::InputRejected, text)
            }
            FailureCause::Builder { error } => {
                (BuildStatus::TransientFailure, error.message.clone())
            }
            FailureCause::Store { error } => (BuildStatus::MiscFailure, error.message.clone()),
            FailureCause::MissingInput { input } => {
                let text = format!(
                    "path '{}' is required, but there is no substituter that can build it",
                    value(self.dir.path_text(input))
                );
                (BuildStatus::MiscFailure, text)
            }
            other => (
                BuildStatus::MiscFailure,
                format!("cannot build '{}': {other}", self.drv()),
            ),
        }
    }

    fn unsuitable(&self, derivation: &Derivation, builder: &BuilderProfile) -> String {
        let required = Requirements::of(derivation);
        let system = required.system.to_str_lossy().into_owned();
        let features = |features: &mut dyn Iterator<Item = &String>| {
            let mut features: Vec<_> = features.map(String::as_str).collect();
            features.sort_unstable();
            features.join(", ")
        };
        let wanted = features(&mut required.features.iter());
        let available = features(&mut builder.features.iter());
        let this = tvix_build_api::this_system();
        let current = match builder.systems.contains(this) {
            true => this,
            false => builder.systems.first().map_or("", String::as_str),
        };
        if self.wording == Wording::Old {
            return format!(
                "a '{}' with features {{{}}} is required to build '{}', but I am a '{}' with features {{{}}}",
                value(system),
                value(wanted),
                value(self.drv()),
                value(current),
                value(available)
            );
        }
        let has_system = system == "builtin" || builder.systems.contains(&system);
        let mut text = String::new();
        if !has_system {
            text.push_str(&self.cannot_build("platform mismatch", ""));
            let _ = write!(
                text,
                "\nRequired system: '{}'\nCurrent system: '{}'",
                value(system),
                value(current)
            );
        }
        let mut missing = required.features.iter();
        if missing.any(|feature| !builder.features.contains(feature)) {
            match text.is_empty() {
                true => text = self.cannot_build("missing system features", ""),
                false => text.push('\n'),
            }
            let _ = write!(
                text,
                "\nRequired features: {{{wanted}}}\nAvailable features: {{{available}}}"
            );
        }
        text
    }

    /// Nothing can be built, as there is no builder.
    fn no_builder(&self) -> String {
        match self.wording {
            Wording::Old => {
                "unable to start any build; either increase '--max-jobs' or enable remote builds.\n\
                 https://nixos.org/manual/nix/stable/advanced-topics/distributed-builds.html"
                    .to_owned()
            }
            Wording::Current => self.cannot_build(
                "local builds are disabled",
                " (max-jobs = 0)\nHint: set 'max-jobs' to a non-zero value to enable local builds, or configure remote \
                 builders via 'builders'",
            ),
        }
    }

    /// The result of a check. `real` is where a path's files are.
    pub fn check(
        &self,
        problem: &CheckProblem,
        builders: &[BuilderProfile],
        real: &dyn Fn(&StorePath) -> String,
    ) -> Text {
        match problem {
            CheckProblem::Differs { differences } => {
                let Some(difference) = differences.first() else {
                    return (BuildStatus::NotDeterministic, problem.to_string());
                };
                let mut text = format!(
                    "derivation '{}' may not be deterministic: output {} differs",
                    value(self.drv()),
                    self.wording.file(&real(&difference.path))
                );
                if let Some(kept) = difference.kept.as_deref().map(Path::to_string_lossy) {
                    let _ = write!(text, " from {}", self.wording.file(&kept));
                }
                (BuildStatus::NotDeterministic, text)
            }
            CheckProblem::Failed { failure, .. } => self.build(failure),
            CheckProblem::NotValid { .. } => (BuildStatus::MiscFailure, self.not_valid()),
            CheckProblem::Impossible { reason } => self.cause(reason, builders),
            CheckProblem::Skipped { .. } => self.dependencies_failed(1),
            other => (BuildStatus::MiscFailure, other.to_string()),
        }
    }

    /// There is nothing to compare with.
    pub fn not_valid(&self) -> String {
        let hint = match self.wording {
            Wording::Old => "",
            Wording::Current => {
                "\nHint: --rebuild and --check error if the derivation was not previously built and cannot be \
                 substituted.\n      Remove it to perform a fresh build, or use --repair to rewrite missing or corrupted \
                 builds in the store."
            }
        };
        format!(
            "some outputs of '{}' are not valid, so checking is not possible{hint}",
            value(self.drv())
        )
    }

    /// Its outputs could not be fetched, although a substituter has them.
    pub fn substitutes_failed(&self) -> Text {
        let text = format!(
            "some substitutes for the outputs of derivation '{}' failed (usually happens due to networking issues); \
             try '--fallback' to build derivation from source ",
            value(self.drv())
        );
        (BuildStatus::TransientFailure, text)
    }

    /// It does not have these outputs.
    pub fn no_such_outputs(&self, outputs: &str) -> Text {
        let text = format!(
            "derivation '{}' does not have wanted outputs {}",
            value(self.drv()),
            value(outputs)
        );
        (BuildStatus::MiscFailure, text)
    }

    /// Its file is neither valid nor can it be fetched.
    pub fn missing(&self) -> Text {
        let text = match self.wording {
            Wording::Old => format!("cannot build missing derivation '{}'", value(self.drv())),
            Wording::Current => format!("failed to obtain derivation of '{}'", value(self.drv())),
        };
        (BuildStatus::MiscFailure, text)
    }
}

/// The only line of the log of a builder that does not exist.
pub(super) fn cannot_run(program: &str, message: &str) -> String {
    // The number of the error is Rust's addition.
    let message = message.split(" (os error ").next().unwrap_or(message);
    format!(
        "\x1b[31;1merror:{NORMAL} executing '{}': {}",
        value(program),
        value(message)
    )
}

/// Whether a line says where the files of a failed build are. It is no line of the builder.
pub(super) fn is_keeping(line: &[u8]) -> bool {
    line.starts_with(b"note: keeping build directory ")
        || line.starts_with(b"note: cannot keep the build directory")
}

/// Several requests of one operation failed.
pub(super) fn several_failed(paths: &[String]) -> String {
    let quoted: Vec<_> = paths.iter().map(|path| format!("'{path}'")).collect();
    format!("build of {} failed", value(quoted.join(", ")))
}

/// A path that nothing can make valid.
pub(super) fn no_substituter(dir: &StoreDir, path: &StorePath) -> Text {
    let text = format!(
        "path '{}' is required, but there is no substituter that can build it",
        value(dir.path_text(path))
    );
    (BuildStatus::NoSubstituters, text)
}

fn sri(hash: &NixHash) -> String {
    hash.to_string()
}

/// As `strsignal` describes it.
fn signal_description(signal: i32) -> String {
    let known = match signal {
        1 => "Hangup",
        2 => "Interrupt",
        3 => "Quit",
        4 => "Illegal instruction",
        5 => "Trace/breakpoint trap",
        6 => "Aborted",
        7 => "Bus error",
        8 => "Floating point exception",
        9 => "Killed",
        10 => "User defined signal 1",
        11 => "Segmentation fault",
        12 => "User defined signal 2",
        13 => "Broken pipe",
        14 => "Alarm clock",
        15 => "Terminated",
        24 => "CPU time limit exceeded",
        25 => "File size limit exceeded",
        31 => "Bad system call",
        other => return format!("Unknown signal {other}"),
    };
    known.to_owned()
}
