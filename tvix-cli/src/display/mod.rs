//! The display of events on standard error.

mod line;
mod plain;
mod progress;

use std::path::PathBuf;

use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::terminal::after_carriage_return;
use tvix_coordinator::{
    BuildEvent, CheckProblem, CheckReport, ComponentError, Failure, FailureCause, Report,
};

use plain::Plain;
use progress::Progress;

use crate::error::after;
use crate::output::shows_progress;

/// Lines of a failed build's log that are shown, at most.
const TAIL: usize = 10;

/// Shows events as they come.
pub enum Display {
    Plain(Plain),
    Progress(Progress),
}

impl Display {
    /// A progress display on a terminal, plain lines elsewhere.
    pub fn new(dir: StoreDir, print_build_logs: bool) -> Self {
        if shows_progress() {
            Self::Progress(Progress::new(print_build_logs))
        } else {
            Self::Plain(Plain::new(dir))
        }
    }

    pub fn event(&mut self, event: &BuildEvent) {
        match self {
            Self::Plain(plain) => plain.event(event),
            Self::Progress(progress) => progress.event(event),
        }
    }

    /// Whether the logs of builds are printed as they are written.
    pub fn shows_logs(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Progress(progress) => progress.print_build_logs,
        }
    }

    /// Removes the progress bars.
    pub fn finish(self) {
        if let Self::Progress(progress) = self {
            progress.finish();
        }
    }
}

/// The name of a derivation without `.drv`.
pub fn short_name(drv_path: &StorePath) -> &str {
    let name = drv_path.name().as_str();
    name.strip_suffix(".drv").unwrap_or(name)
}

/// The message for a build that waits for another process.
fn waiting(lock: &str) -> String {
    format!("waiting for the lock on '{lock}'...")
}

/// The name of the builder of this machine.
pub const LOCAL: &str = "local";

/// The warning about a builder that is left alone, as Nix's.
fn left_alone(builder: &str, error: &ComponentError) -> String {
    // It names the builder already.
    let causes = error.causes.get(1..).filter(|causes| !causes.is_empty());
    let why = causes.map_or_else(|| error.message.clone(), |causes| causes.join(": "));
    format!("warning: cannot build on '{builder}': {why}")
}

/// The message for a session that starts again.
fn restarted(message: &str) -> String {
    format!("warning: starting again, as garbage was collected meanwhile: {message}")
}

/// Adds a line for each difference that a check found, or one for another problem of it.
fn show_check(text: &mut String, dir: &StoreDir, drv_path: &StorePath, problem: &CheckProblem) {
    use std::fmt::Write as _;
    let shown = dir.display(drv_path);
    let CheckProblem::Differs { differences } = problem else {
        let _ = writeln!(text, "error: cannot check '{shown}': {problem}");
        return;
    };
    for difference in differences {
        let path = dir.display(&difference.path);
        let _ = write!(
            text,
            "error: derivation '{shown}' may not be deterministic: output '{path}' differs"
        );
        let _ = match &difference.kept {
            Some(kept) => writeln!(text, " from '{}'", kept.display()),
            None => writeln!(text),
        };
    }
}

/// Tells what failed and why, with the end of the log, unless all of it was shown, and where the rest of it is.
pub fn show_failures(
    report: &Report,
    dir: &StoreDir,
    log_shown: bool,
    log_file: impl Fn(&StorePath) -> PathBuf,
) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for Failure {
        drv_path, cause, ..
    } in report.failures.iter().filter(|it| it.needed)
    {
        let shown = dir.display(drv_path);
        let _ = match cause {
            FailureCause::Build { failure } => {
                writeln!(text, "error: build of '{shown}' failed: {}", failure.kind)
            }
            other => writeln!(text, "error: cannot build '{shown}': {other}"),
        };
        let FailureCause::Build { failure } = cause else {
            continue;
        };
        let lines = &failure.log_tail[failure.log_tail.len().saturating_sub(TAIL)..];
        if lines.is_empty() {
            continue;
        }
        if !log_shown {
            let _ = writeln!(text, "       last {} log lines:", lines.len());
            for line in lines {
                let _ = writeln!(text, "       > {}", after_carriage_return(line));
            }
        }
        let file = log_file(drv_path);
        if file.exists() {
            let _ = writeln!(text, "       the whole log is in '{}'", file.display());
        }
    }
    for CheckReport {
        drv_path, problem, ..
    } in &report.checks
    {
        if let Some(problem) = problem {
            show_check(&mut text, dir, drv_path, problem);
        }
    }
    if let [first, ..] = &report.skipped[..] {
        let cause = dir.display(&first.root_cause);
        let (count, path) = (report.skipped.len(), dir.display(&first.drv_path));
        let _ = match count {
            1 => writeln!(
                text,
                "error: '{path}' was not built, because '{cause}' failed"
            ),
            _ => writeln!(
                text,
                "error: {count} derivations were not built, because what they need failed; \
                 one of them is '{path}', because of '{cause}'"
            ),
        };
    }
    for error in &report.errors {
        let _ = writeln!(text, "{}", after("error", &error.to_string()));
    }
    text
}
