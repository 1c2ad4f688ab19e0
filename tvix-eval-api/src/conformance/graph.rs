//! What evaluators are made of in the suite.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;

use crate::{EvalRequest, Evaluator, SourceAddition};

/// What an evaluator of the suite is to yield when it is asked. For [`StoreDir::default`].
///
/// [`StoreDir::default`]: nix_compat::store_path::StoreDir
#[derive(Debug, Clone, Default)]
pub struct TestGraph {
    /// All derivations that are known beforehand, inputs first.
    pub derivations: Vec<Instantiated>,
    /// Sources of the derivations.
    pub sources: Vec<SourceAddition>,
    /// What can be asked for.
    pub attributes: Vec<TestAttribute>,
}

/// Something that can be asked for.
#[derive(Debug, Clone)]
pub struct TestAttribute {
    /// Its name, a plain word.
    pub name: String,
    /// What it is.
    pub value: TestValue,
}

/// What an attribute is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TestValue {
    /// Outputs of one of [`TestGraph::derivations`]; `None` for all.
    Root(Instantiated, Option<Vec<String>>),
    /// All outputs of a derivation that is not among [`TestGraph::derivations`]: it is to be made
    /// when evaluation gets to it, and counted then. Only with [`Capabilities::lazy`].
    ///
    /// [`Capabilities::lazy`]: super::Capabilities
    Lazy(Instantiated, Counter),
    /// Known only once something was built. Only with [`Capabilities::imports`].
    ///
    /// [`Capabilities::imports`]: super::Capabilities
    Import(Box<TestImport>),
}

/// An import: evaluation needs `wanted`, and counts when it goes on.
#[derive(Debug, Clone)]
pub struct TestImport {
    /// Derivations with their outputs.
    pub wanted: Vec<(Instantiated, Vec<String>)>,
    /// To be counted when evaluation goes on with what was built.
    pub resumed: Counter,
    /// The attribute's value after that. Its derivations are not among
    /// [`TestGraph::derivations`].
    pub then: TestValue,
}

/// Counts how often something was evaluated.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Counts once.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn value(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

type Request = dyn Fn(&[&str]) -> EvalRequest + Send + Sync;
type OutputFile = dyn Fn(&StorePath, &str) -> PathBuf + Send + Sync;

/// An evaluator, and how to ask it.
pub struct Subject {
    pub(super) evaluator: Box<dyn Evaluator>,
    pub(super) request: Box<Request>,
    pub(super) output_file: Box<OutputFile>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Subject {
    /// An evaluator that takes [`EvalRequest::attrs`] with the names of attributes.
    pub fn new(evaluator: impl Evaluator + 'static) -> Self {
        Self {
            evaluator: Box::new(evaluator),
            request: Box::new(|names| EvalRequest::attrs(names.iter().copied())),
            output_file: Box::new(|_, _| PathBuf::from("/nonexistent")),
            _guard: None,
        }
    }

    /// How to ask for attributes. The name `unknown` is that of none, and has to become a request
    /// for something that there is not.
    #[must_use]
    pub fn with_request(
        mut self,
        request: impl Fn(&[&str]) -> EvalRequest + Send + Sync + 'static,
    ) -> Self {
        self.request = Box::new(request);
        self
    }

    /// What the suite is to answer as the local path of a derivation's output, for an evaluator
    /// that reads it.
    #[must_use]
    pub fn with_outputs(
        mut self,
        output_file: impl Fn(&StorePath, &str) -> PathBuf + Send + Sync + 'static,
    ) -> Self {
        self.output_file = Box::new(output_file);
        self
    }

    /// Keeps something until the case ends, such as a temporary directory.
    #[must_use]
    pub fn keeping(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("evaluator", &self.evaluator)
            .finish_non_exhaustive()
    }
}
