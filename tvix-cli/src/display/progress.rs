//! A progress display for terminals: a line for the whole, and one for each build that runs.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tvix_coordinator::BuildEvent;

use super::line::shown;
use super::short_name;

/// Builds that get a line of their own; more are only counted.
const LINES: usize = 12;
const TICK: Duration = Duration::from_millis(120);

/// The display and what it counts.
pub struct Progress {
    bars: MultiProgress,
    whole: ProgressBar,
    builds: HashMap<u64, Build>,
    print_build_logs: bool,
    evaluating: bool,
    instantiated: u64,
    done: u64,
    fetching: u64,
    fetched: u64,
    failed: u64,
}

struct Build {
    name: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new(print_build_logs: bool) -> Self {
        let bars = MultiProgress::new();
        let whole = bars.add(ProgressBar::new_spinner());
        whole.set_style(style("{spinner} {msg}"));
        whole.enable_steady_tick(TICK);
        Self {
            bars,
            whole,
            builds: HashMap::new(),
            print_build_logs,
            evaluating: true,
            instantiated: 0,
            done: 0,
            fetching: 0,
            fetched: 0,
            failed: 0,
        }
    }

    pub fn event(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Instantiated { .. } => self.instantiated += 1,
            BuildEvent::EvaluationEnded => self.evaluating = false,
            BuildEvent::BuildStarted {
                build, drv_path, ..
            } => {
                let name = short_name(drv_path).to_owned();
                let bar = (self.builds.len() < LINES).then(|| self.add_bar(&name));
                self.builds.insert(*build, Build { name, bar });
            }
            BuildEvent::LogLine { build, text } => {
                let shown = shown(text);
                if let (Some(build), Some(text)) = (self.builds.get(build), shown.text()) {
                    if let Some(bar) = &build.bar {
                        bar.set_message(text.to_owned());
                    }
                    if self.print_build_logs && shown.is_log() {
                        self.print(&format!("{}> {text}", build.name));
                    }
                }
                return;
            }
            BuildEvent::BuildSucceeded { build, .. } => {
                self.done += 1;
                self.end(*build);
            }
            BuildEvent::BuildFailed { build, failure, .. } => {
                self.failed += 1;
                if let Some(name) = self.end(*build) {
                    self.print(&format!("{name}: {}", failure.kind));
                }
            }
            BuildEvent::BuildRetried { build, message, .. } => {
                if let Some(name) = self.end(*build) {
                    self.print(&format!("{name}: trying again: {message}"));
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
                message,
            } => {
                self.fetching = self.fetching.saturating_sub(1);
                self.print(&format!(
                    "{path} is not taken from {substituter}: {message}"
                ));
            }
            BuildEvent::SubstituterFailed {
                substituter,
                message,
            } => self.print(&format!("{substituter} does not answer: {message}")),
            BuildEvent::RealisationRefused {
                substituter,
                message,
            } => self.print(&format!(
                "warning: realisations of '{substituter}' are not used: {message}"
            )),
            BuildEvent::Diagnostic { diagnostic } => self.print(&diagnostic.message),
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
        let Build { name, bar } = self.builds.remove(&build)?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        Some(name)
    }

    fn print(&self, line: &str) {
        let _ = self.bars.println(line);
    }

    fn summary(&self) -> String {
        let evaluation = if self.evaluating { "evaluating, " } else { "" };
        let (known, running) = (self.instantiated, self.builds.len());
        let mut text = format!(
            "{evaluation}{known} derivations, {running} building, {} built",
            self.done
        );
        if self.fetching + self.fetched > 0 {
            let (fetching, fetched) = (self.fetching, self.fetched);
            text.push_str(&format!(", {fetching} fetching, {fetched} fetched"));
        }
        if self.failed > 0 {
            text.push_str(&format!(", {} failed", self.failed));
        }
        text
    }

    pub fn finish(self) {
        self.whole.finish_and_clear();
        let _ = self.bars.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
