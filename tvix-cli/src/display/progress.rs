//! A progress display for terminals: a line for the whole, and one for each build that runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tvix_build_api::terminal::printable;
use tvix_coordinator::BuildEvent;

use super::line::shown;
use super::{LOCAL, left_alone, restarted, short_name, waiting};
use crate::output::{end_progress, say, start_progress};

/// Builds that get a line of their own; more are only counted.
const LINES: usize = 12;
const TICK: Duration = Duration::from_millis(120);

/// The display and its counters.
pub struct Progress {
    bars: MultiProgress,
    whole: ProgressBar,
    builds: HashMap<u64, Build>,
    /// Imports that have not been answered.
    imports: BTreeMap<u64, Import>,
    pub(super) print_build_logs: bool,
    evaluating: bool,
    instantiated: u64,
    done: u64,
    fetching: u64,
    fetched: u64,
    failed: u64,
    /// Builders with a warning.
    paused: HashSet<String>,
}

struct Import {
    /// The name of its first derivation.
    name: String,
    /// Evaluation does not wait for it yet.
    ahead: bool,
}

struct Build {
    name: String,
    bar: Option<ProgressBar>,
    waiting: bool,
}

impl Progress {
    pub fn new(print_build_logs: bool) -> Self {
        let bars = start_progress();
        let whole = bars.add(ProgressBar::new_spinner());
        whole.set_style(style("{spinner} {msg}"));
        whole.enable_steady_tick(TICK);
        Self {
            bars,
            whole,
            builds: HashMap::new(),
            imports: BTreeMap::new(),
            print_build_logs,
            evaluating: true,
            instantiated: 0,
            done: 0,
            fetching: 0,
            fetched: 0,
            failed: 0,
            paused: HashSet::new(),
        }
    }

    pub fn event(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Instantiated { .. } => self.instantiated += 1,
            BuildEvent::EvaluationEnded => {
                self.evaluating = false;
                self.imports.clear();
            }
            BuildEvent::ImportRequested {
                import,
                drv_paths,
                ahead,
            } => {
                let name = drv_paths.first().map_or("", short_name).to_owned();
                let requested = Import {
                    name,
                    ahead: *ahead,
                };
                self.imports.insert(*import, requested);
            }
            BuildEvent::ImportNeeded { import } => {
                if let Some(import) = self.imports.get_mut(import) {
                    import.ahead = false;
                }
            }
            BuildEvent::ImportAnswered { import, .. } | BuildEvent::ImportDropped { import } => {
                self.imports.remove(import);
            }
            BuildEvent::BuildStarted {
                build,
                drv_path,
                builder,
            }
            | BuildEvent::CheckStarted {
                build,
                drv_path,
                builder,
            } => {
                let name = match &**builder {
                    LOCAL => short_name(drv_path).to_owned(),
                    builder => format!("{} on {builder}", short_name(drv_path)),
                };
                let bar = (self.builds.len() < LINES).then(|| self.add_bar(&name));
                let started = Build {
                    name,
                    bar,
                    waiting: false,
                };
                self.builds.insert(*build, started);
            }
            BuildEvent::LogLine { build, text, .. } => {
                let text = text.to_text();
                let shown = shown(&text);
                let Some(build) = self.builds.get(build) else {
                    return;
                };
                if let (Some(bar), Some(status)) = (&build.bar, shown.status()) {
                    // The display measures it: control characters have no width.
                    bar.set_message(printable(status).into_owned());
                }
                if self.print_build_logs {
                    for line in shown.log_lines() {
                        say!("{}> {line}", build.name);
                    }
                }
                return;
            }
            BuildEvent::BuildWaiting { build, lock, .. } => {
                if let Some(build) = self.builds.get_mut(build) {
                    build.waiting = true;
                    if let Some(bar) = &build.bar {
                        bar.set_message(waiting(lock));
                    }
                }
            }
            BuildEvent::BuildResumed { build, .. } => {
                if let Some(build) = self.builds.get_mut(build) {
                    build.waiting = false;
                    if let Some(bar) = &build.bar {
                        bar.set_message("");
                    }
                }
            }
            BuildEvent::BuilderPaused { builder, error, .. } => {
                if self.paused.insert(builder.to_string()) {
                    say!("{}", left_alone(builder, error));
                }
            }
            BuildEvent::Restarted { message } => {
                (self.evaluating, self.instantiated) = (true, 0);
                self.imports.clear();
                say!("{}", restarted(message));
            }
            BuildEvent::BuildSucceeded { build, .. } => {
                self.done += 1;
                self.end(*build);
            }
            BuildEvent::CheckSucceeded { build, .. } => {
                self.end(*build);
            }
            BuildEvent::CheckFailed { build, .. } => {
                self.failed += 1;
                build.map(|build| self.end(build));
            }
            // The end of the session says why, once.
            BuildEvent::BuildFailed { build, .. } => {
                self.failed += 1;
                self.end(*build);
            }
            BuildEvent::BuildRetried { build, error, .. } => {
                if let Some(name) = self.end(*build) {
                    say!("warning: {name} is built again: {error}");
                }
            }
            BuildEvent::BuildCancelled { build, .. } => {
                self.end(*build);
            }
            BuildEvent::SubstitutionStarted { .. } => self.fetching += 1,
            BuildEvent::Substituted { .. } => {
                self.fetching = self.fetching.saturating_sub(1);
                self.fetched += 1;
            }
            BuildEvent::SubstitutionFailed {
                path,
                substituter,
                error,
            } => {
                self.fetching = self.fetching.saturating_sub(1);
                say!("warning: {path} is not taken from '{substituter}': {error}");
            }
            BuildEvent::SubstituterFailed { substituter, error } => {
                say!("warning: substituter '{substituter}' does not answer: {error}");
            }
            BuildEvent::RealisationRefused {
                substituter,
                message,
            } => say!("warning: realisations of '{substituter}' are not used: {message}"),
            BuildEvent::Diagnostic { diagnostic } => say!("{}", diagnostic.message),
            _ => return,
        }
        self.whole.set_message(self.summary());
    }

    fn add_bar(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("  {spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}"));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(TICK);
        bar
    }

    fn end(&mut self, build: u64) -> Option<String> {
        let Build { name, bar, .. } = self.builds.remove(&build)?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        Some(name)
    }

    fn summary(&self) -> String {
        let evaluation = self.evaluation();
        let waiting = self.builds.values().filter(|build| build.waiting).count();
        let (known, running) = (self.instantiated, self.builds.len() - waiting);
        let plural = if known == 1 { "" } else { "s" };
        let mut text = format!(
            "{evaluation}{known} derivation{plural}, {running} building, {} built",
            self.done
        );
        if self.fetching + self.fetched > 0 {
            let (fetching, fetched) = (self.fetching, self.fetched);
            text.push_str(&format!(", {fetching} fetching, {fetched} fetched"));
        }
        if waiting > 0 {
            text.push_str(&format!(", {waiting} waiting"));
        }
        if self.failed > 0 {
            text.push_str(&format!(", {} failed", self.failed));
        }
        text
    }

    /// Whether it evaluates, and the imports from derivations that it waits for.
    fn evaluation(&self) -> String {
        let mut waits = self.imports.values().filter(|import| !import.ahead);
        match (waits.next(), waits.count()) {
            _ if !self.evaluating => String::new(),
            (None, _) => "evaluating, ".to_owned(),
            (Some(import), 0) => format!("evaluation waits for {}, ", import.name),
            (Some(import), others) => {
                format!("evaluation waits for {} and {others} more, ", import.name)
            }
        }
    }

    pub fn finish(self) {
        self.whole.finish_and_clear();
        end_progress();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
