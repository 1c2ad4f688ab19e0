//! Evaluators of graphs that are made in Rust.
//!
//! [`InMemoryEvaluator`] has a graph, with hooks where the rest of it is known only once
//! something was built. [`StreamEvaluator`] makes its events as it goes: for graphs too large to
//! hold, and for front ends of one's own.

mod evaluated;
mod evaluation;
mod generator;
mod graph;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use nix_compat::derivation::Instantiated;

use crate::{
    EvalError, EvalRequest, EvalSource, EvalStream, Evaluator, RealisedOutput, SourceAddition,
};
use evaluation::Evaluation;
use graph::{Graph, Layers, Node};

pub use evaluated::Evaluated;
pub use generator::StreamEvaluator;

/// An evaluator of a graph that was made in Rust.
///
/// Attributes are names that [`EvalRequest::attr_paths`] may ask for; if it asks for none, all
/// are evaluated, in the order of their names. Of derivations and sources, only those are yielded
/// that the attributes need, each once, inputs first. The only [`EvalSource`] is
/// [`EvalSource::BuiltIn`]; arguments, search path and system have no meaning here.
///
/// The stream works while it is polled, and runs no task but hooks that may block
/// ([`InMemoryEvaluator::import`]). What is wrong with one attribute (an input that was not
/// given, an output that there is not, derivations that need each other, a failed import) is an
/// item that names it, and the others go on.
///
/// ```
/// use futures::StreamExt;
/// use nix_compat::derivation::DerivationBuilder;
/// use tvix_eval_api::memory::{Evaluated, InMemoryEvaluator};
/// use tvix_eval_api::{EvalEvent, EvalRequest, Evaluator, RealisedOutput};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = Default::default();
/// let list = DerivationBuilder::new("list", "x86_64-linux", "/bin/sh")
///     .args(["-c", "echo one two > $out"])
///     .instantiate(&dir)?;
/// let evaluator = InMemoryEvaluator::new().import("all", [(&list, ["out"])], move |outputs| {
///     let text = std::fs::read_to_string(&outputs[0].local_path).unwrap();
///     let mut all = Evaluated::new();
///     for name in text.split_whitespace() {
///         let builder = DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
///         all = all.child(name, &builder.instantiate(&dir)?);
///     }
///     Ok(all)
/// });
///
/// let mut events = evaluator.evaluate(EvalRequest::attrs(["all"])).await?;
/// let mut roots = Vec::new();
/// while let Some(event) = events.next().await {
///     match event? {
///         // Somebody has to build it.
///         EvalEvent::Realise(realise) => {
///             let file = tempfile::NamedTempFile::new()?;
///             std::fs::write(&file, "one two")?;
///             let (_, local_path) = file.keep()?;
///             let wanted = &realise.wanted[0];
///             realise.reply.answer(Ok(vec![RealisedOutput {
///                 drv_path: wanted.drv_path.clone(),
///                 output: wanted.outputs[0].clone(),
///                 store_path: list.output_path("out").unwrap(),
///                 local_path,
///                 references: Default::default(),
///             }]));
///         }
///         EvalEvent::Root(root) => roots.push(root.name),
///         _ => {}
///     }
/// }
/// assert_eq!(roots, ["all.one", "all.two"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct InMemoryEvaluator {
    graph: Arc<Graph>,
    attributes: Arc<BTreeMap<String, Attribute>>,
}

type Compute = dyn Fn() -> Result<Evaluated, EvalError> + Send + Sync;

#[derive(Clone)]
enum Attribute {
    Known(Evaluated),
    Lazy(Arc<Compute>),
}

impl InMemoryEvaluator {
    /// An evaluator without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attribute `name` is all outputs of `derivation`.
    #[must_use]
    pub fn root(self, name: impl Into<String>, derivation: &Instantiated) -> Self {
        self.attribute(name, Evaluated::new().root(derivation))
    }

    /// The attribute `name` is these outputs of `derivation`.
    #[must_use]
    pub fn root_outputs<O: AsRef<str>>(
        self,
        name: impl Into<String>,
        derivation: &Instantiated,
        outputs: impl IntoIterator<Item = O>,
    ) -> Self {
        self.attribute(name, Evaluated::new().root_outputs(derivation, outputs))
    }

    /// The attribute `name` is this. It replaces an earlier one of that name.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, mut evaluated: Evaluated) -> Self {
        let nodes = std::mem::take(&mut evaluated.nodes);
        self.insert(nodes);
        self.set(name.into(), Attribute::Known(evaluated))
    }

    /// The attribute `name` is what `compute` says once an evaluation gets to it: the others'
    /// derivations may be under way by then. It runs on the thread that polls the stream, so it
    /// must not block.
    #[must_use]
    pub fn lazy(
        self,
        name: impl Into<String>,
        compute: impl Fn() -> Result<Evaluated, EvalError> + Send + Sync + 'static,
    ) -> Self {
        self.set(name.into(), Attribute::Lazy(Arc::new(compute)))
    }

    /// The attribute `name` is known once these outputs have been built: `hook` is called with
    /// them, once in an evaluation, and says what it is. Other attributes go on meanwhile.
    ///
    /// The hook may block to read files; see [`Evaluated::import`].
    #[must_use]
    pub fn import<'a, O, N>(
        self,
        name: impl Into<String>,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: impl Fn(Vec<RealisedOutput>) -> Result<Evaluated, EvalError> + Send + Sync + 'static,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
    {
        self.attribute(name, Evaluated::new().import(wanted, hook))
    }

    /// As [`InMemoryEvaluator::import`], with a hook that does not block.
    #[must_use]
    pub fn import_async<'a, O, N, F>(
        self,
        name: impl Into<String>,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: impl Fn(Vec<RealisedOutput>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
        F: Future<Output = Result<Evaluated, EvalError>> + Send + 'static,
    {
        self.attribute(name, Evaluated::new().import_async(wanted, hook))
    }

    /// Adds a derivation that attributes need.
    #[must_use]
    pub fn derivation(self, derivation: &Instantiated) -> Self {
        self.derivations([derivation])
    }

    /// Adds derivations that attributes need, in any order.
    #[must_use]
    pub fn derivations<'a>(
        mut self,
        derivations: impl IntoIterator<Item = &'a Instantiated>,
    ) -> Self {
        self.insert(derivations.into_iter().map(evaluated::node));
        self
    }

    /// Adds a source. It is yielded before the first derivation that uses it; those that are not
    /// given are taken to be in the store.
    #[must_use]
    pub fn source(mut self, source: SourceAddition) -> Self {
        self.insert([Node::Source(Arc::new(source))]);
        self
    }

    fn insert(&mut self, nodes: impl IntoIterator<Item = Node>) {
        let graph = Arc::make_mut(&mut self.graph);
        for node in nodes {
            graph.insert(node);
        }
    }

    fn set(mut self, name: String, attribute: Attribute) -> Self {
        Arc::make_mut(&mut self.attributes).insert(name, attribute);
        self
    }
}

#[async_trait]
impl Evaluator for InMemoryEvaluator {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        if request.source != EvalSource::BuiltIn {
            return Err(EvalError::UnsupportedSource {
                source_kind: request.source.kind().to_owned(),
            });
        }
        let graph = Layers {
            base: Arc::clone(&self.graph),
            added: Graph::default(),
        };
        let attributes = Arc::clone(&self.attributes);
        Ok(Evaluation::new(attributes, graph, request.attr_paths).boxed())
    }
}

impl fmt::Debug for InMemoryEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryEvaluator")
            .field("attributes", &self.attributes.len())
            .field("nodes", &self.graph.len())
            .finish()
    }
}
