//! What an attribute evaluates to.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;

use super::graph::Node;
use crate::{EvalError, RealisedOutput, SourceAddition};

/// What an attribute evaluates to: roots, and perhaps an import that will tell more.
///
/// The derivations that roots need come along with [`Evaluated::derivation`], unless the
/// evaluator was given them. Those that nothing needs are not yielded.
#[derive(Clone, Default)]
pub struct Evaluated {
    pub(super) nodes: Vec<Node>,
    pub(super) roots: Vec<RootSpec>,
    pub(super) import: Option<Import>,
}

#[derive(Clone)]
pub(super) struct RootSpec {
    /// What follows the attribute's name.
    pub(super) child: Option<String>,
    pub(super) wanted: WantedSpec,
}

/// Outputs as the user named them: whether the derivation has them is for the evaluation to say.
#[derive(Clone)]
pub(super) struct WantedSpec {
    pub(super) drv_path: StorePath,
    /// `None` for all of them.
    pub(super) outputs: Option<Vec<String>>,
}

#[derive(Clone)]
pub(super) struct Import {
    pub(super) wanted: Vec<WantedSpec>,
    pub(super) hook: Hook,
}

type Outcome = Result<Evaluated, EvalError>;

#[derive(Clone)]
pub(super) enum Hook {
    Blocking(Arc<dyn Fn(Vec<RealisedOutput>) -> Outcome + Send + Sync>),
    Async(Arc<dyn Fn(Vec<RealisedOutput>) -> BoxFuture<'static, Outcome> + Send + Sync>),
}

impl Evaluated {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a derivation that roots or imports need.
    #[must_use]
    pub fn derivation(mut self, derivation: &Instantiated) -> Self {
        self.nodes.push(node(derivation));
        self
    }

    /// Adds derivations that roots or imports need, in any order.
    #[must_use]
    pub fn derivations<'a>(
        mut self,
        derivations: impl IntoIterator<Item = &'a Instantiated>,
    ) -> Self {
        self.nodes.extend(derivations.into_iter().map(node));
        self
    }

    /// Adds a source. It is yielded before the first derivation that uses it.
    #[must_use]
    pub fn source(mut self, source: SourceAddition) -> Self {
        self.nodes.push(Node::Source(Arc::new(source)));
        self
    }

    /// The attribute is all outputs of `derivation`.
    #[must_use]
    pub fn root(self, derivation: &Instantiated) -> Self {
        self.with_root(None, derivation, None)
    }

    /// The attribute is these outputs of `derivation`.
    #[must_use]
    pub fn root_outputs<O: AsRef<str>>(
        self,
        derivation: &Instantiated,
        outputs: impl IntoIterator<Item = O>,
    ) -> Self {
        self.with_root(None, derivation, Some(names(outputs)))
    }

    /// The attribute is a set, in which `name` is all outputs of `derivation`.
    #[must_use]
    pub fn child(self, name: impl Into<String>, derivation: &Instantiated) -> Self {
        self.with_root(Some(name.into()), derivation, None)
    }

    /// The rest is known once these outputs have been built. `hook` is then called with them, in
    /// the order in which they are named here, and may read them. It runs where it may block
    /// ([`tokio::task::spawn_blocking`], so within a runtime of Tokio); a stream that is dropped
    /// does not wait for one that runs.
    ///
    /// A second call replaces the first: a further import is for the hook to return.
    #[must_use]
    pub fn import<'a, O, N>(
        self,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: impl Fn(Vec<RealisedOutput>) -> Outcome + Send + Sync + 'static,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
    {
        self.with_import(wanted, Hook::Blocking(Arc::new(hook)))
    }

    /// As [`Evaluated::import`], with a hook that does not block. Dropping the stream drops its
    /// future.
    #[must_use]
    pub fn import_async<'a, O, N, F>(
        self,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: impl Fn(Vec<RealisedOutput>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let hook = move |outputs| hook(outputs).boxed();
        self.with_import(wanted, Hook::Async(Arc::new(hook)))
    }

    fn with_root(
        mut self,
        child: Option<String>,
        derivation: &Instantiated,
        outputs: Option<Vec<String>>,
    ) -> Self {
        let drv_path = derivation.path.clone();
        let wanted = WantedSpec { drv_path, outputs };
        self.roots.push(RootSpec { child, wanted });
        self.derivation(derivation)
    }

    fn with_import<'a, O, N>(
        mut self,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: Hook,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
    {
        let mut specs = Vec::new();
        for (derivation, outputs) in wanted {
            specs.push(WantedSpec {
                drv_path: derivation.path.clone(),
                outputs: Some(names(outputs)),
            });
            self.nodes.push(node(derivation));
        }
        let wanted = specs;
        self.import = Some(Import { wanted, hook });
        self
    }
}

impl fmt::Debug for Evaluated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots.iter().map(|root| &root.wanted.drv_path);
        let import = self.import.iter().flat_map(|import| &import.wanted);
        f.debug_struct("Evaluated")
            .field("roots", &roots.collect::<Vec<_>>())
            .field(
                "import",
                &import.map(|wanted| &wanted.drv_path).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

pub(super) fn node(derivation: &Instantiated) -> Node {
    Node::Derivation {
        path: derivation.path.clone(),
        derivation: Arc::clone(&derivation.derivation),
        // What its inputs are known by is known to nobody here: only one without inputs can tell.
        modulo: derivation
            .derivation
            .realisation_hash(&derivation.store_dir, |_| None)
            .map(Box::new),
    }
}

fn names<N: AsRef<str>>(outputs: impl IntoIterator<Item = N>) -> Vec<String> {
    outputs
        .into_iter()
        .map(|name| name.as_ref().to_owned())
        .collect()
}
