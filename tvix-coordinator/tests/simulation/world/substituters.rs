//! Simulated substituters: each has some outputs, and may be wrong, fail or be down.

use std::collections::{BTreeMap, BTreeSet};

use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use tvix_coordinator::machine::{
    FoundRealisation, Input, OutputKeys, ProbeId, Probed, RealisationConflict, SubstitutionId,
};
use tvix_coordinator::{BuildPolicy, ComponentError, ComponentErrorKind, StoreErrorKind};

use super::{Pending, World};

/// Substitutions in progress.
#[derive(Debug, Default)]
pub(super) struct Substituting {
    /// Paths being fetched.
    fetching: BTreeMap<SubstitutionId, StorePath>,
    /// The substituters that each path was fetched from.
    tried: BTreeSet<(usize, StorePath)>,
    /// For each floating output, the place that was asked last: the store, then each substituter.
    searched: BTreeMap<DrvOutput, Option<usize>>,
}

impl World {
    pub(super) fn probe(&mut self, probe: ProbeId, substituter: usize, paths: Vec<StorePath>) {
        assert!(!self.stopped, "a question after everything ended");
        assert!(substituter < self.plan.substituters.len());
        assert!(!paths.is_empty());
        let different: BTreeSet<&StorePath> = paths.iter().collect();
        assert_eq!(different.len(), paths.len(), "a path twice in a question");
        for path in &paths {
            self.expect_a_reason(path);
        }
        self.pending.push(Pending::Probe(probe, substituter, paths));
    }

    pub(super) fn substitute(&mut self, id: SubstitutionId, substituter: usize, path: StorePath) {
        assert!(!self.stopped, "{path}: fetched after everything ended");
        self.tally.fetches += 1;
        self.tally.realised += u64::from(self.plan.is_offered(&path));
        let has = &self.plan.substituters[substituter].has;
        let references = has.get(&path).expect("it is not there");
        for reference in references.iter().filter(|it| **it != path) {
            assert!(
                self.is_valid_or_vanished(reference),
                "{path}: fetched before {reference} is valid"
            );
        }
        let is_source = self.plan.sources.contains(&path);
        assert!(
            is_source || !self.valid.contains(&path),
            "{path}: fetched although it is there"
        );
        let on_its_way = &mut self.substituting.fetching;
        assert!(
            on_its_way.values().all(|other| *other != path),
            "{path}: fetched twice at once"
        );
        on_its_way.insert(id, path.clone());
        let most = self.plan.options.max_substitutions.unwrap_or(usize::MAX);
        assert!(on_its_way.len() <= most, "more paths than allowed");
        let first = self.substituting.tried.insert((substituter, path.clone()));
        assert!(first, "{path}: fetched from {substituter} again");
        self.expect_a_reason(&path);
        self.pending.push(Pending::Fetch(id, substituter, path));
    }

    /// The store is asked for realisations first, then the substituters in order.
    pub(super) fn find(&mut self, probe: ProbeId, place: Option<usize>, outputs: Vec<OutputKeys>) {
        assert!(!self.stopped, "a question after everything ended");
        assert!(place.is_none_or(|it| it < self.plan.substituters.len()));
        assert!(!outputs.is_empty());
        for id in outputs.iter().flat_map(OutputKeys::ids) {
            let last = self.substituting.searched.insert(id.clone(), place);
            match last {
                // A search may begin anew.
                None => assert_eq!(place, None, "{id}: the store was not asked"),
                Some(last) => assert!(place.is_none() || last < place, "{id}: asked in disorder"),
            }
        }
        self.pending.push(Pending::Find(probe, place, outputs));
    }

    pub(super) fn answer_find(
        &mut self,
        probe: ProbeId,
        place: Option<usize>,
        outputs: Vec<OutputKeys>,
    ) {
        let mut answers = Vec::new();
        for output in &outputs {
            let path = output.ids().find_map(|id| match place {
                None => self.realisations.get(&id).cloned(),
                Some(place) => self.plan.offered_by(place, &id).cloned(),
            });
            let refused = place.is_some() && self.random.percent(10);
            answers.push(match path {
                _ if refused => match self.random.below(3) {
                    0 => FoundRealisation::Refused {
                        message: "not signed".to_owned(),
                    },
                    1 => {
                        let kind = ComponentErrorKind::Store(StoreErrorKind::Unreachable);
                        let trouble = ComponentError::new(kind, "no answer");
                        FoundRealisation::Failed(trouble.retryable(true))
                    }
                    _ => self.conflicting(output),
                },
                Some(path) => FoundRealisation::Known {
                    path,
                    conflicts: Vec::new(),
                },
                None => FoundRealisation::Absent,
            });
        }
        self.tally.searches += u64::from(place > Some(0));
        let again = answers.clone();
        self.tell(Input::RealisationsFound { probe, answers });
        if self.duplicate() {
            let answers = again;
            self.tell(Input::RealisationsFound { probe, answers });
        }
    }

    /// A realisation made with other inputs, which nothing may use.
    fn conflicting(&self, output: &OutputKeys) -> FoundRealisation {
        let id = output.ids().next().unwrap();
        let path = |digest| StorePath::new([digest; 20], "conflicting".parse().unwrap());
        FoundRealisation::Known {
            path: path(250),
            conflicts: vec![RealisationConflict::new(
                id.clone(),
                id,
                path(251),
                path(252),
            )],
        }
    }

    /// A queried or fetched path must belong to a needed derivation.
    fn expect_a_reason(&self, path: &StorePath) {
        // References that no derivation accounts for may belong to anything.
        let Some(owner) = self.plan.owner(path).filter(|_| !self.plan.lies) else {
            return;
        };
        let policy = self.plan.options.policy;
        if policy == BuildPolicy::Demand && self.plan.classes[owner] == owner {
            assert!(
                self.requested.contains(&owner) || self.is_twin_of_needed(owner),
                "{path}: nothing needs it"
            );
        }
    }

    /// Floating twins resolve to the same derivation, so either may be reported.
    fn is_twin_of_needed(&self, owner: usize) -> bool {
        let class = self.plan.classes[owner];
        let mut needed = self.requested.iter();
        needed.any(|other| self.plan.classes[*other] == class)
    }

    fn in_trouble(&mut self, substituter: usize) -> Option<ComponentError> {
        let faults = self.plan.substituters[substituter].trouble;
        if !self.random.percent(faults) {
            return None;
        }
        self.tally.substituter_troubles += 1;
        let kind = ComponentErrorKind::Store(StoreErrorKind::Unreachable);
        let retryable = self.random.percent(50);
        Some(ComponentError::new(kind, "no answer").retryable(retryable))
    }

    pub(super) fn answer_probe(
        &mut self,
        probe: ProbeId,
        substituter: usize,
        paths: Vec<StorePath>,
    ) {
        let result = match self.in_trouble(substituter) {
            Some(trouble) => Err(trouble),
            None => {
                let has = self.plan.substituters[substituter].has.clone();
                let mut answers = Vec::new();
                for path in &paths {
                    let refused = self.random.percent(2);
                    answers.push(match has.get(path) {
                        _ if refused => Probed::Refused {
                            error: ComponentError::new(
                                ComponentErrorKind::Store(StoreErrorKind::Untrusted),
                                "not signed",
                            ),
                        },
                        Some(references) => Probed::Offered {
                            references: references.clone(),
                        },
                        None => Probed::Absent,
                    });
                }
                Ok(answers)
            }
        };
        self.tell(Input::SubstituterQueried { probe, result });
    }

    pub(super) fn answer_fetch(
        &mut self,
        substitution: SubstitutionId,
        substituter: usize,
        path: StorePath,
    ) {
        self.substituting.fetching.remove(&substitution);
        let result = match self.in_trouble(substituter) {
            Some(trouble) => Err(trouble),
            None => {
                self.valid.insert(path);
                Ok(())
            }
        };
        self.tell(Input::Substituted {
            substitution,
            result: result.clone(),
        });
        if self.duplicate() {
            self.tell(Input::Substituted {
                substitution,
                result,
            });
        }
    }

    /// Whether outputs may come from a substituter, if nothing fails.
    pub(super) fn may_be_substituted(&self, path: &StorePath) -> bool {
        let mut substituters = self.plan.substituters.iter();
        substituters.any(|it| it.has.contains_key(path))
    }
}
