//! The input of evaluators in the suite.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;

use crate::{EvalRequest, Evaluator, SourceAddition};

/// The contents of an evaluator under test. The store directory is [`StoreDir::default`].
///
/// [`StoreDir::default`]: nix_compat::store_path::StoreDir
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TestGraph {
    /// Derivations that exist from the start, inputs first.
    pub derivations: Vec<Instantiated>,
    /// Sources of the derivations.
    pub sources: Vec<SourceAddition>,
    /// Attributes that a request may name.
    pub attributes: Vec<TestAttribute>,
}

/// An attribute that a request may name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TestAttribute {
    /// Its name: letters and digits.
    pub name: String,
    /// Its value.
    pub value: TestValue,
}

/// The value of an attribute.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TestValue {
    /// Outputs of one of [`TestGraph::derivations`]; `None` for all outputs.
    Root(Instantiated, Option<Vec<String>>),
    /// All outputs of a derivation that is not in [`TestGraph::derivations`]. The evaluator makes
    /// it, and increments the counter, when it evaluates the attribute. Only with
    /// [`Capabilities::lazy`].
    ///
    /// [`Capabilities::lazy`]: super::Capabilities
    Lazy(Instantiated, Counter),
    /// A value that is known only after a build. Only with [`Capabilities::imports`].
    ///
    /// [`Capabilities::imports`]: super::Capabilities
    Import(Box<TestImport>),
}

/// An import from derivation: evaluation waits for `wanted`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TestImport {
    /// The imported derivations and outputs.
    pub wanted: Vec<(Instantiated, Vec<String>)>,
    /// Incremented when evaluation resumes.
    pub resumed: Counter,
    /// The value of the attribute after the import. Its derivations are not in
    /// [`TestGraph::derivations`].
    pub then: TestValue,
}

/// Counts evaluations.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Increments the counter.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn value(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

type Request = dyn Fn(&[&str]) -> EvalRequest + Send + Sync;
type OutputFile = dyn Fn(&StorePath, &str) -> PathBuf + Send + Sync;

/// An evaluator under test, and the requests that it takes.
pub struct Subject {
    pub(super) evaluator: Box<dyn Evaluator>,
    pub(super) request: Box<Request>,
    pub(super) output_file: Box<OutputFile>,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Subject {
    /// An evaluator that takes the requests of [`EvalRequest::attrs`].
    pub fn new(evaluator: impl Evaluator + 'static) -> Self {
        Self {
            evaluator: Box::new(evaluator),
            request: Box::new(|names| EvalRequest::attrs(names.iter().copied())),
            output_file: Box::new(|_, _| PathBuf::from("/nonexistent")),
            _guard: None,
        }
    }

    /// Sets the function from names of attributes to requests. The name `unknown` is never an
    /// attribute; its request must ask for an attribute that does not exist.
    #[must_use]
    pub fn with_request(
        mut self,
        request: impl Fn(&[&str]) -> EvalRequest + Send + Sync + 'static,
    ) -> Self {
        self.request = Box::new(request);
        self
    }

    /// Sets the function that returns the local path of a derivation's output, for evaluators that
    /// read imported files.
    #[must_use]
    pub fn with_outputs(
        mut self,
        output_file: impl Fn(&StorePath, &str) -> PathBuf + Send + Sync + 'static,
    ) -> Self {
        self.output_file = Box::new(output_file);
        self
    }

    /// Keeps a value, such as a temporary directory, until the case ends.
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
