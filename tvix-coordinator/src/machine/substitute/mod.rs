//! Outputs that substituters have.
//!
//! When outputs are missing in the store, substituters are asked for them, in order and in batches,
//! before anything else is done (`nodes.rs`). A path that one has is fetched once something needs
//! it; until then it counts as available, and is not built eagerly either. To fetch a path, all its
//! references must be valid: others are looked up in the store, asked for and fetched in the same
//! way, level by level (`goals.rs` has the state of each path). Outputs that no substituter has are
//! built.
//!
//! Substituters never make a session fail. A substituter that fails is passed over, and after a few
//! failures not used any more; the next one is asked for a path that cannot be fetched.

mod goals;
mod nodes;
mod realise;

use nix_compat::store_path::StorePath;

use self::goals::GoalState;
pub(super) use self::goals::{GoalId, Substitutions};
pub(super) use self::realise::Realised;
use super::lookup::Subject;
use super::sources::SourceState;
use super::{Action, ComponentError, Machine, NodeId, ProbeId, Probed, SubstitutionId, Work};
use crate::event::BuildEvent;

impl Machine {
    /// The next question to a substituter, or path to fetch.
    pub(super) fn next_substitution(&mut self) -> Option<Action> {
        if !self.substitutions.any() {
            return None;
        }
        if let Some((probe, substituter, paths)) = self.substitutions.next_probe() {
            return Some(Action::QuerySubstituter {
                probe,
                substituter,
                paths,
            });
        }
        if let Some(action) = self.next_realisations() {
            return Some(action);
        }
        let (substitution, goal) = self.substitutions.next_fetch(self.now)?;
        let goal = &self.substitutions[goal];
        let (path, substituter) = (goal.path.clone(), goal.at);
        self.emit(BuildEvent::SubstitutionStarted {
            path: path.clone(),
            substituter: self.substitutions.name(substituter),
        });
        self.actions.push_back(Action::Substitute {
            substitution,
            substituter,
            path,
        });
        self.actions.pop_front()
    }

    /// If paths wait for each other in a circle, which a store never has and a lying substituter
    /// may say, one of them is given up. True if one was.
    pub(super) fn break_circle(&mut self) -> bool {
        if !self.substitutions.any() || !self.substitutions.is_idle() {
            return false;
        }
        let Some(goal) = self.substitutions.first_waiting() else {
            return false;
        };
        self.ask_next(goal);
        self.do_work();
        true
    }

    pub(super) fn substituter_queried(
        &mut self,
        probe: ProbeId,
        result: Result<Vec<Probed>, ComponentError>,
    ) {
        let answered = self.substitutions.probed(probe, result.is_ok());
        let Some((substituter, goals)) = answered else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let answers = match result {
            Ok(answers) => answers,
            Err(trouble) => {
                // Further failures in a row have the same cause.
                if self.substitutions.troubles(substituter) == 1 {
                    self.emit(BuildEvent::SubstituterFailed {
                        substituter: self.substitutions.name(substituter),
                        error: trouble,
                    });
                }
                let more = self.substitutions.given_up(substituter);
                for goal in goals.into_iter().chain(more) {
                    self.not_at(goal, substituter);
                }
                return;
            }
        };
        let mut answers = answers.into_iter();
        for goal in goals {
            let answer = answers.next().unwrap_or(Probed::Absent);
            let is_asked = self.is_asked_at(goal, substituter);
            match answer {
                _ if !is_asked => {}
                Probed::Offered { references } => self.offered(goal, references),
                Probed::Absent => self.not_at(goal, substituter),
                Probed::Refused { error } => {
                    self.emit(BuildEvent::SubstitutionFailed {
                        path: self.substitutions.path(goal).clone(),
                        substituter: self.substitutions.name(substituter),
                        error,
                    });
                    self.not_at(goal, substituter);
                }
            }
        }
    }

    fn is_asked_at(&self, goal: GoalId, substituter: usize) -> bool {
        let goal = &self.substitutions[goal];
        goal.state == GoalState::Asking && goal.at == substituter
    }

    /// A substituter that was asked for it does not have it.
    fn not_at(&mut self, goal: GoalId, substituter: usize) {
        if self.is_asked_at(goal, substituter) {
            self.ask_next(goal);
        }
    }

    /// It cannot be had from the substituter where it is sought: the next one is asked.
    fn ask_next(&mut self, goal: GoalId) {
        self.substitutions[goal].at += 1;
        self.ask(goal);
    }

    fn ask(&mut self, goal: GoalId) {
        self.substitutions[goal].epoch += 1;
        if !self.substitutions.ask(goal) {
            self.substitutions.set(goal, GoalState::Impossible);
            self.work.push(Work::GoalSettled(goal));
        }
    }

    fn offered(&mut self, id: GoalId, references: Vec<StorePath>) {
        let goal = &mut self.substitutions[id];
        let path = &goal.path;
        goal.references = references.into_iter().filter(|it| it != path).collect();
        let wanted = goal.wanted;
        self.substitutions.set(id, GoalState::Offered);
        match wanted {
            true => self.work.push(Work::Fetch(id)),
            false => self.work.push(Work::GoalSettled(id)),
        }
    }

    /// Whether the store has a path was found out.
    pub(super) fn goal_looked_up(&mut self, id: GoalId, is_valid: bool) {
        let substitutions = &mut self.substitutions;
        substitutions.looking = substitutions.looking.saturating_sub(1);
        if substitutions[id].state != GoalState::Looking {
            return;
        }
        match is_valid {
            true => self.goal_valid(id),
            // Nothing waits for the answer any more.
            false if !self.substitutions[id].wanted && self.substitutions[id].nodes.is_empty() => {
                self.substitutions.set(id, GoalState::Idle);
            }
            false => self.ask(id),
        }
    }

    /// Something needs a path.
    pub(super) fn want_goal(&mut self, id: GoalId, urgent: bool) {
        let goal = &mut self.substitutions[id];
        let newly_urgent = urgent && !goal.urgent;
        if goal.wanted && !newly_urgent {
            return;
        }
        goal.wanted = true;
        goal.urgent |= urgent;
        match goal.state {
            GoalState::Idle => self.ask(id),
            GoalState::Offered => self.work.push(Work::Fetch(id)),
            GoalState::Queued => self.substitutions.enqueue(id),
            GoalState::Waiting { .. } => {
                for path in &self.substitutions[id].references {
                    if let Some(goal) = self.substitutions.find(path) {
                        self.work.push(Work::WantGoal { goal, urgent });
                    }
                }
            }
            GoalState::Looking
            | GoalState::Asking
            | GoalState::Fetching
            | GoalState::Valid
            | GoalState::Impossible => {}
        }
    }

    /// Has a path fetched that a substituter has, once all that it refers to is valid.
    pub(super) fn fetch(&mut self, id: GoalId) {
        let goal = &mut self.substitutions[id];
        if goal.state != GoalState::Offered || !goal.wanted {
            return;
        }
        goal.epoch += 1;
        let (epoch, urgent) = (goal.epoch, goal.urgent);
        let mut unmet = 0;
        for path in goal.references.clone() {
            let reference = self.reference(&path);
            match self.substitutions[reference].state {
                GoalState::Valid => {}
                GoalState::Impossible => return self.ask_next(id),
                _ => {
                    unmet += 1;
                    self.substitutions[reference].referrers.push((id, epoch));
                    self.work.push(Work::WantGoal {
                        goal: reference,
                        urgent,
                    });
                }
            }
        }
        match unmet {
            0 => self.substitutions.enqueue(id),
            _ => self.substitutions.set(id, GoalState::Waiting { unmet }),
        }
    }

    /// A path of which nobody knows whether the store has it.
    fn reference(&mut self, path: &StorePath) -> GoalId {
        let (id, is_new) = self.substitutions.intern(path);
        if !is_new {
            return id;
        }
        let source = self.sources.find(path);
        let known = source.is_some_and(|source| self.sources[source].state == SourceState::Valid)
            || self.is_valid_output(path);
        if known {
            self.substitutions.set(id, GoalState::Valid);
        } else {
            self.substitutions.set(id, GoalState::Looking);
            self.substitutions.looking += 1;
            self.look_ups.queue(Subject::Goal(id));
        }
        id
    }

    pub(super) fn substituted(&mut self, id: SubstitutionId, result: Result<(), ComponentError>) {
        let Some(fetch) = self.substitutions.fetched(id) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let path = self.substitutions.path(fetch.goal).clone();
        let substituter = self.substitutions.name(fetch.substituter);
        match result {
            Ok(()) => {
                self.counts.substituted += 1;
                self.emit(BuildEvent::Substituted {
                    path,
                    substituter,
                    duration: self.now.saturating_sub(fetch.started),
                });
                self.goal_valid(fetch.goal);
            }
            Err(trouble) => {
                self.emit(BuildEvent::SubstitutionFailed {
                    path,
                    substituter,
                    error: trouble,
                });
                // It may have been built meanwhile.
                if self.substitutions[fetch.goal].state == GoalState::Fetching {
                    self.ask_next(fetch.goal);
                }
            }
        }
    }

    /// A path is valid.
    pub(super) fn goal_valid(&mut self, id: GoalId) {
        if self.substitutions[id].state != GoalState::Valid {
            self.substitutions.set(id, GoalState::Valid);
            self.work.push(Work::GoalSettled(id));
            self.work.push(Work::OutputValid(id));
        }
    }

    /// A path is known to be available, valid or unavailable.
    pub(super) fn goal_settled(&mut self, id: GoalId) {
        let state = self.substitutions[id].state;
        if matches!(state, GoalState::Valid | GoalState::Impossible) {
            for (referrer, epoch) in std::mem::take(&mut self.substitutions[id].referrers) {
                let goal = &self.substitutions[referrer];
                let GoalState::Waiting { unmet } = goal.state else {
                    continue;
                };
                if goal.epoch != epoch {
                    continue;
                }
                if state == GoalState::Impossible {
                    self.ask_next(referrer);
                } else if unmet > 1 {
                    let unmet = unmet - 1;
                    self.substitutions
                        .set(referrer, GoalState::Waiting { unmet });
                } else {
                    self.substitutions.enqueue(referrer);
                }
            }
        }
        for node in self.substitutions[id].nodes.clone() {
            if self.stop.is_some() {
                return;
            }
            self.substitution_progressed(node);
        }
    }
}
