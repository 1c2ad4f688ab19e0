//! Simulated substituters: each has some outputs, may lie, be in trouble or be dead.

use std::collections::{BTreeMap, BTreeSet};

use nix_compat::store_path::StorePath;
use tvix_coordinator::machine::{Input, ProbeId, Probed, SubstitutionId};
use tvix_coordinator::{BuildPolicy, Trouble, TroubleKind};
use tvix_store_api::StoreErrorKind;

use super::{Pending, World};

/// What the world knows of what is under way.
#[derive(Debug, Default)]
pub(super) struct Substituting {
    /// Paths on their way.
    fetching: BTreeMap<SubstitutionId, StorePath>,
    /// From which substituters each was fetched.
    tried: BTreeSet<(usize, StorePath)>,
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
                self.valid.contains(reference),
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

    /// Something that is asked for or fetched belongs to something that is.
    fn expect_a_reason(&self, path: &StorePath) {
        // References that no derivation knows of may be of anything.
        let Some(owner) = self.plan.owner(path).filter(|_| !self.plan.lies) else {
            return;
        };
        let policy = self.plan.options.policy;
        if policy == BuildPolicy::Demand && self.plan.classes[owner] == owner {
            assert!(
                self.needed.contains(&owner) || self.is_twin_of_needed(owner),
                "{path}: nothing needs it"
            );
        }
    }

    /// Floating twins resolve to the same derivation, which is known by either.
    fn is_twin_of_needed(&self, owner: usize) -> bool {
        let class = self.plan.classes[owner];
        let mut needed = self.needed.iter();
        needed.any(|other| self.plan.classes[*other] == class)
    }

    fn in_trouble(&mut self, substituter: usize) -> Option<Trouble> {
        let faults = self.plan.substituters[substituter].trouble;
        if !self.random.percent(faults) {
            return None;
        }
        self.tally.substituter_troubles += 1;
        let kind = TroubleKind::Store(StoreErrorKind::Unreachable);
        let retryable = self.random.percent(50);
        Some(Trouble::new(kind, "no answer").retryable(retryable))
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
                            error: Trouble::new(
                                TroubleKind::Store(StoreErrorKind::Untrusted),
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

    /// Whether outputs may come from a substituter, if all goes well.
    pub(super) fn may_be_substituted(&self, path: &StorePath) -> bool {
        let mut substituters = self.plan.substituters.iter();
        substituters.any(|it| it.has.contains_key(path))
    }
}
