//! Derivations with outputs that may be substituted.

use nix_compat::store_path::StorePath;

use super::goals::GoalState;
use super::{GoalId, Machine, Work};
use crate::machine::graph::{NodeId, OutputMask, State, Urgency, bit};

/// The bit that outputs from the 32nd on share.
const SHARED: OutputMask = bit(31);

impl Machine {
    /// Takes note of where the outputs of a new derivation will be.
    pub(in crate::machine) fn index_outputs(&mut self, id: NodeId) {
        if self.substitutions.any() {
            let outputs = self.graph.outputs(id, &self.dir);
            let outputs = outputs.filter_map(|(_, path)| Some((path?, id)));
            self.substitutions.outputs.extend(outputs);
        }
    }

    /// Gets outputs that are missing: from a substituter, or else by building.
    pub(in crate::machine) fn obtain(&mut self, id: NodeId) {
        let known = matches!(
            self.graph[id].state,
            State::Present | State::Unneeded | State::Offered | State::Asking | State::Fetching
        );
        if !known {
            return;
        }
        if !self.may_be_substituted(id) {
            return self.wait_for_inputs(id);
        }
        if self.pruned && !self.graph[id].needed {
            self.graph[id].state = State::Unneeded;
            return;
        }
        self.graph[id].state = State::Asking;
        let floating = self.graph[id].floating;
        if floating && !self.is_realised(id) {
            return;
        }
        for (mask, path) in self.missing_outputs(id) {
            // The store was asked before, and does not have it; but of outputs that share a bit it
            // may have some, and it was not asked for what a cache says.
            let goal = match mask == SHARED || floating {
                true => self.reference(&path),
                false => self.substitutions.intern(&path).0,
            };
            let nodes = &mut self.substitutions[goal].nodes;
            if !nodes.contains(&id) {
                nodes.push(id);
            }
            if self.substitutions[goal].state == GoalState::Idle {
                self.ask(goal);
            }
        }
        self.substitution_progressed(id);
    }

    fn may_be_substituted(&self, id: NodeId) -> bool {
        let node = &self.graph[id];
        if !self.substitutions.any() || node.refused {
            return false;
        }
        // Of floating outputs somebody has to know where they are.
        if node.floating && self.drv_outputs(id).is_empty() {
            return false;
        }
        // Derivations that opt out (Nix manual, "Advanced attributes").
        let wants_build = |it: &nix_compat::derivation::Derivation| {
            it.env_var("allowSubstitutes")
                .is_some_and(|it| it.is_empty())
        };
        node.derivation().is_some_and(|it| !wants_build(it))
    }

    /// The outputs that are wanted and not valid, or all that are not valid if none is wanted.
    fn missing_outputs(&self, id: NodeId) -> Vec<(OutputMask, StorePath)> {
        let node = &self.graph[id];
        if node.floating {
            return self.realised_outputs(id);
        }
        let mask = match node.wanted {
            0 => !node.valid,
            wanted => wanted & !node.valid,
        };
        let outputs = self.graph.outputs(id, &self.dir).enumerate();
        let missing = outputs.filter(|(index, _)| mask & bit(*index) != 0);
        missing
            .filter_map(|(index, (_, path))| Some((bit(index), path?)))
            .collect()
    }

    /// Something is known of outputs that a derivation waits for.
    pub(super) fn substitution_progressed(&mut self, id: NodeId) {
        if !matches!(self.graph[id].state, State::Asking | State::Fetching) {
            return;
        }
        if self.graph[id].floating && !self.is_realised(id) {
            return;
        }
        let missing = self.missing_outputs(id);
        let mut goals: Vec<GoalId> = Vec::with_capacity(missing.len());
        for (_, path) in &missing {
            match self.substitutions.find(path) {
                Some(goal) if self.substitutions[goal].state != GoalState::Idle => goals.push(goal),
                // More is wanted than before.
                _ => return self.work.push(Work::Build(id)),
            }
        }
        let state_of = |goal: &GoalId| self.substitutions[*goal].state;
        let all_valid = goals.iter().all(|it| state_of(it) == GoalState::Valid);
        if all_valid {
            let mask = missing.iter().fold(0, |mask, (bit, _)| mask | bit);
            return self.substituted_outputs(id, mask);
        }
        let impossible = |goal: &GoalId| state_of(goal) == GoalState::Impossible;
        if self.graph[id].wanted == 0 {
            // If there is a part of it, nobody may want the rest.
            if goals.iter().all(impossible) {
                self.refuse(id);
            } else if !goals.iter().any(|it| self.is_open(*it)) {
                self.graph[id].state = State::Offered;
            }
            return;
        }
        if goals.iter().any(impossible) {
            return self.refuse(id);
        }
        if self.graph[id].state == State::Asking {
            if goals.iter().any(|it| self.is_open(*it)) {
                return;
            }
            self.graph[id].state = State::Fetching;
        }
        self.fetch_outputs(id, goals);
    }

    /// Whether nobody has said yet that it is there.
    fn is_open(&self, goal: GoalId) -> bool {
        matches!(
            self.substitutions[goal].state,
            GoalState::Looking | GoalState::Asking
        )
    }

    fn fetch_outputs(&mut self, id: NodeId, goals: Vec<GoalId>) {
        let urgent = self.graph[id].urgency == Urgency::Stalled;
        for goal in goals {
            self.work.push(Work::WantGoal { goal, urgent });
        }
    }

    /// No substituter has the wanted outputs.
    pub(super) fn refuse(&mut self, id: NodeId) {
        self.graph[id].refused = true;
        self.graph[id].state = State::Present;
        self.wait_for_inputs(id);
    }

    fn substituted_outputs(&mut self, id: NodeId, mask: OutputMask) {
        if self.graph[id].floating {
            return self.realised_valid(id);
        }
        self.graph[id].state = State::Present;
        self.now_valid(id, mask);
        let node = &self.graph[id];
        if node.valid == node.all_outputs() {
            self.graph.shrink(id, &self.dir);
        }
    }

    /// Whether a path is an output of a derivation, and valid.
    pub(super) fn is_valid_output(&self, path: &StorePath) -> bool {
        let Some(id) = self.substitutions.outputs.get(path) else {
            return false;
        };
        self.output_bit(*id, path)
            .is_some_and(|bit| self.graph[*id].has(bit))
    }

    /// The bit of an output that shares it with no other.
    fn output_bit(&self, id: NodeId, path: &StorePath) -> Option<OutputMask> {
        let mut outputs = self.graph.outputs(id, &self.dir);
        let index = outputs.position(|(_, it)| it.as_ref() == Some(path))?;
        Some(bit(index)).filter(|bit| *bit != SHARED)
    }

    /// A path became valid: if it is an output of a derivation that did not wait for it, that need
    /// not be built for it.
    pub(in crate::machine) fn output_valid(&mut self, goal: GoalId) {
        let path = self.substitutions.path(goal).clone();
        let Some(id) = self.substitutions.outputs.get(&path).copied() else {
            return;
        };
        let Some(bit) = self.output_bit(id, &path) else {
            return;
        };
        if self.graph[id].has(bit) {
            return;
        }
        self.now_valid(id, bit);
        let node = &mut self.graph[id];
        match node.state {
            State::Waiting { .. } | State::Ready if node.has(node.wanted) => {
                node.state = State::Present;
            }
            State::Asking | State::Fetching | State::Offered => self.work.push(Work::Build(id)),
            _ => {}
        }
    }

    /// Outputs were built: nobody need fetch them.
    pub(in crate::machine) fn built_outputs_valid(&mut self, id: NodeId) {
        if !self.substitutions.any() {
            return;
        }
        let outputs = self.graph.outputs(id, &self.dir);
        let goals: Vec<GoalId> = outputs
            .filter_map(|(_, path)| self.substitutions.find(&path?))
            .collect();
        for goal in goals {
            self.goal_valid(goal);
        }
    }

    /// Evaluation has ended: paths that nothing needs are not fetched.
    pub(in crate::machine) fn prune_substitutions(&mut self) {
        if !self.substitutions.any() {
            return;
        }
        let graph = &self.graph;
        let asking = |id| matches!(graph[id].state, State::Asking | State::Fetching);
        self.substitutions.forget_wants(asking);
        for id in self.graph.ids() {
            if matches!(self.graph[id].state, State::Asking | State::Fetching) {
                self.work.push(Work::Build(id));
            }
        }
    }
}
