//! The result of evaluating an attribute.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;

use super::graph::Node;
use crate::{EvalError, RealisedOutput, SourceAddition};

/// The result of evaluating an attribute: roots, and optionally an import from derivation that
/// determines the rest.
///
/// Derivations that roots need are added by [`EvaluatedAttribute::derivation`], unless the evaluator has
/// them already. Derivations that nothing refers to are not yielded.
#[derive(Clone, Default)]
pub struct EvaluatedAttribute {
    pub(super) nodes: Vec<Node>,
    pub(super) roots: Vec<RootSpec>,
    pub(super) import: Option<Import>,
}

#[derive(Clone)]
pub(super) struct RootSpec {
    /// The part of the attribute path after the attribute's name.
    pub(super) child: Option<String>,
    pub(super) wanted: WantedSpec,
}

/// Outputs by name. The evaluation checks whether the derivation has them.
#[derive(Clone)]
pub(super) struct WantedSpec {
    pub(super) drv_path: StorePath,
    /// `None` for all outputs.
    pub(super) outputs: Option<Vec<String>>,
}

#[derive(Clone)]
pub(super) struct Import {
    pub(super) wanted: Vec<WantedSpec>,
    pub(super) hook: Hook,
}

type Outcome = Result<EvaluatedAttribute, EvalError>;

#[derive(Clone)]
pub(super) enum Hook {
    Blocking(Arc<dyn Fn(Vec<RealisedOutput>) -> Outcome + Send + Sync>),
    Async(Arc<dyn Fn(Vec<RealisedOutput>) -> BoxFuture<'static, Outcome> + Send + Sync>),
}

impl EvaluatedAttribute {
    /// An empty result.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a derivation on which roots or imports depend.
    #[must_use]
    pub fn derivation(mut self, derivation: &Instantiated) -> Self {
        self.nodes.push(node(derivation));
        self
    }

    /// Adds derivations on which roots or imports depend, in any order.
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

    /// Adds all outputs of `derivation` as roots.
    #[must_use]
    pub fn root(self, derivation: &Instantiated) -> Self {
        self.with_root(None, derivation, None)
    }

    /// Adds these outputs of `derivation` as roots.
    #[must_use]
    pub fn root_outputs<O: AsRef<str>>(
        self,
        derivation: &Instantiated,
        outputs: impl IntoIterator<Item = O>,
    ) -> Self {
        self.with_root(None, derivation, Some(names(outputs)))
    }

    /// Adds all outputs of `derivation` as roots at the attribute `name` of a set.
    #[must_use]
    pub fn child(self, name: impl Into<String>, derivation: &Instantiated) -> Self {
        self.with_root(Some(name.into()), derivation, None)
    }

    /// Adds an import: `hook` is called when these outputs have been built, receives them in the
    /// given order, may read them, and returns the rest of the result. It runs on a thread of its own,
    /// and may block. Dropping the stream does not wait for a running hook.
    ///
    /// A second call replaces the first; the hook may return a further import.
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

    /// Like [`EvaluatedAttribute::import`], with an asynchronous hook. Dropping the stream drops the hook's
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

impl fmt::Debug for EvaluatedAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots.iter().map(|root| &root.wanted.drv_path);
        let import = self.import.iter().flat_map(|import| &import.wanted);
        f.debug_struct("EvaluatedAttribute")
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
        // The hashes of its inputs are unknown here, so only a derivation without inputs has a
        // hash.
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
