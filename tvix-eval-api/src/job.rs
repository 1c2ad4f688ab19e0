//! Jobs: roots of a job set, with the details that a list of jobs shows.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::Derivation;

/// How a job set is evaluated.
///
/// In a job set, each attribute path is a root of its own, even if its derivation is that of another
/// root. Attributes of any name are searched, and functions that need no further arguments are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobOptions {
    /// Whether to evaluate the attribute `meta` of each job.
    pub meta: bool,
    /// Whether to search all attribute sets, as if `recurseForDerivations` was true in each.
    pub force_recurse: bool,
}

impl JobOptions {
    /// Sets [`meta`](Self::meta).
    #[must_use]
    pub fn with_meta(mut self, meta: bool) -> Self {
        self.meta = meta;
        self
    }

    /// Sets [`force_recurse`](Self::force_recurse).
    #[must_use]
    pub fn with_force_recurse(mut self, force: bool) -> Self {
        self.force_recurse = force;
        self
    }
}

/// A job, beside its name and path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobDetails {
    /// The name of the package, with its version.
    pub name: String,
    /// Names of attributes and numbers of list elements from the source to the job.
    pub attr_path: Vec<String>,
    /// The derivation of the job.
    pub derivation: Arc<Derivation>,
    /// The attribute `meta` as JSON, if it was requested. Values without a JSON form are omitted.
    pub meta: Option<String>,
    /// The cost of the evaluation of this job.
    pub cost: EvalCost,
}

impl JobDetails {
    /// Details of a job without `meta`.
    pub fn new(
        name: impl Into<String>,
        attr_path: Vec<String>,
        derivation: Arc<Derivation>,
    ) -> Self {
        Self {
            name: name.into(),
            attr_path,
            derivation,
            meta: None,
            cost: EvalCost::default(),
        }
    }

    /// Sets the attribute `meta`.
    #[must_use]
    pub fn with_meta(mut self, meta: Option<String>) -> Self {
        self.meta = meta;
        self
    }

    /// Sets the cost of the evaluation.
    #[must_use]
    pub fn with_cost(mut self, cost: EvalCost) -> Self {
        self.cost = cost;
        self
    }
}

/// The cost of the evaluation of one root. Work that several roots share counts for the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvalCost {
    /// The time from the start of the evaluation to its end, with the time in which it waited.
    pub time: Duration,
    /// Memory that was allocated meanwhile, in bytes.
    pub bytes: u64,
}

impl EvalCost {
    /// A cost.
    pub fn new(time: Duration, bytes: u64) -> Self {
        Self { time, bytes }
    }
}
