//! Plain lines, for files and pipes.

use std::collections::{HashMap, HashSet};

use nix_compat::store_path::StoreDir;
use tvix_coordinator::StoreErrorKind;
use tvix_coordinator::{BuildEvent, ComponentErrorKind};

use super::line::shown;
use super::{LOCAL, left_alone, restarted, short_name, waiting};
use crate::output::say;

/// Writes a line for each event that matters in a log.
pub struct Plain {
    dir: StoreDir,
    /// Names of the builds that run.
    names: HashMap<u64, String>,
    /// Builders with a warning.
    paused: HashSet<String>,
}

impl Plain {
    pub fn new(dir: StoreDir) -> Self {
        Self {
            dir,
            names: HashMap::new(),
            paused: HashSet::new(),
        }
    }

    pub fn event(&mut self, event: &BuildEvent) {
        if let BuildEvent::LogLine { build, text, .. } = event {
            let name = self.names.get(build).map_or("", String::as_str);
            for line in shown(&text.to_text()).log_lines() {
                say!("{name}> {line}");
            }
        } else if let Some(line) = self.line(event) {
            say!("{line}");
        }
    }

    fn line(&mut self, event: &BuildEvent) -> Option<String> {
        Some(match event {
            BuildEvent::BuildStarted {
                build,
                drv_path,
                builder,
            } => {
                self.names.insert(*build, short_name(drv_path).to_owned());
                let path = self.dir.display(drv_path);
                match &**builder {
                    LOCAL => format!("building '{path}'..."),
                    builder => format!("building '{path}' on '{builder}'..."),
                }
            }
            // Once: other builders build meanwhile.
            BuildEvent::BuilderPaused { builder, error, .. } => {
                if !self.paused.insert(builder.to_string()) {
                    return None;
                }
                left_alone(builder, error)
            }
            BuildEvent::CheckStarted {
                build, drv_path, ..
            } => {
                self.names.insert(*build, short_name(drv_path).to_owned());
                format!("checking outputs of '{}'...", self.dir.display(drv_path))
            }
            BuildEvent::CheckSucceeded { build, .. } => {
                self.names.remove(build);
                return None;
            }
            BuildEvent::CheckFailed { build, .. } => {
                build.map(|build| self.names.remove(&build));
                return None;
            }
            BuildEvent::BuildWaiting { lock, .. } => waiting(lock),
            BuildEvent::Restarted { message } => restarted(message),
            BuildEvent::BuildSucceeded {
                build,
                drv_path,
                duration,
                ..
            } => {
                self.names.remove(build);
                let seconds = duration.as_secs_f64();
                format!("built '{}' in {seconds:.1} s", self.dir.display(drv_path))
            }
            // The end of the session says why, once.
            BuildEvent::BuildFailed { build, .. } => {
                self.names.remove(build);
                return None;
            }
            BuildEvent::BuildRetried {
                drv_path,
                error,
                delay,
                ..
            } => {
                let (path, seconds) = (self.dir.display(drv_path), delay.as_secs_f64());
                format!("building '{path}' again in {seconds:.1} s: {error}")
            }
            BuildEvent::BuildCancelled { build, drv_path } => {
                self.names.remove(build);
                format!("cancelled '{}'", self.dir.display(drv_path))
            }
            BuildEvent::SubstitutionStarted { path, substituter } => {
                format!(
                    "fetching '{}' from '{substituter}'...",
                    self.dir.display(path)
                )
            }
            BuildEvent::SubstitutionFailed {
                path,
                substituter,
                error,
            } => {
                let path = self.dir.display(path);
                format!("warning: '{path}' is not taken from '{substituter}': {error}")
            }
            // It names the substituter.
            BuildEvent::SubstituterFailed { error, .. }
                if error.kind == ComponentErrorKind::Store(StoreErrorKind::Unreachable) =>
            {
                format!("warning: {error}")
            }
            BuildEvent::SubstituterFailed { substituter, error } => {
                format!("warning: substituter '{substituter}' does not answer: {error}")
            }
            BuildEvent::RealisationRefused {
                substituter,
                message,
            } => format!("warning: realisations of '{substituter}' are not used: {message}"),
            BuildEvent::Diagnostic { diagnostic } => diagnostic.message.clone(),
            _ => return None,
        })
    }
}
