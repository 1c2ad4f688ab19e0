//! Evaluators of graphs made in Rust.
//!
//! [`InMemoryEvaluator`] holds a graph; hooks add parts of it that depend on build outputs.
//! [`StreamEvaluator`] makes events while it is polled, for graphs that do not fit into memory and
//! for custom front ends.

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

pub use evaluated::EvaluatedAttribute;
pub use generator::StreamEvaluator;

/// An evaluator of a graph made in Rust.
///
/// [`EvalRequest::attr_paths`] selects attributes by name; if it is empty, all attributes are
/// evaluated in the order of their names. Only the derivations and sources that these attributes
/// need are yielded, each once, inputs first. The only supported [`EvalSource`] is
/// [`EvalSource::Predefined`]; arguments, search path and system are ignored.
///
/// The stream works while it is polled. The only tasks that it starts are blocking hooks
/// ([`InMemoryEvaluator::import`]). An error of one attribute (a missing input, an unknown output,
/// a dependency cycle, a failed import) is an item of the stream that names the attribute, and the
/// other attributes continue.
///
/// ```
/// use futures::StreamExt;
/// use nix_compat::derivation::DerivationBuilder;
/// use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator};
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
///     let mut all = EvaluatedAttribute::new();
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
///         // The caller builds it.
///         EvalEvent::Realise(realise) => {
///             let file = tempfile::NamedTempFile::new()?;
///             std::fs::write(&file, "one two")?;
///             let (_, local_path) = file.keep()?;
///             let wanted = &realise.wanted[0];
///             realise.reply.answer(Ok(vec![RealisedOutput::new(
///                 wanted.drv_path.clone(),
///                 wanted.outputs[0].clone(),
///                 list.output_path("out").unwrap(),
///                 local_path,
///             )]));
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

type Compute = dyn Fn() -> Result<EvaluatedAttribute, EvalError> + Send + Sync;

#[derive(Clone)]
enum Attribute {
    Known(EvaluatedAttribute),
    Lazy(Arc<Compute>),
}

impl InMemoryEvaluator {
    /// An evaluator without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the attribute `name` to all outputs of `derivation`.
    #[must_use]
    pub fn root(self, name: impl Into<String>, derivation: &Instantiated) -> Self {
        self.attribute(name, EvaluatedAttribute::new().root(derivation))
    }

    /// Sets the attribute `name` to these outputs of `derivation`.
    #[must_use]
    pub fn root_outputs<O: AsRef<str>>(
        self,
        name: impl Into<String>,
        derivation: &Instantiated,
        outputs: impl IntoIterator<Item = O>,
    ) -> Self {
        self.attribute(
            name,
            EvaluatedAttribute::new().root_outputs(derivation, outputs),
        )
    }

    /// Sets the attribute `name` to `evaluated`. Replaces an earlier attribute of this name.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, mut evaluated: EvaluatedAttribute) -> Self {
        let nodes = std::mem::take(&mut evaluated.nodes);
        self.insert(nodes);
        self.set(name.into(), Attribute::Known(evaluated))
    }

    /// Sets the attribute `name` to the result of `compute`, which is called when an evaluation
    /// reaches the attribute. Derivations of other attributes may be building by then. `compute`
    /// runs on the thread that polls the stream, so it must not block.
    #[must_use]
    pub fn lazy(
        self,
        name: impl Into<String>,
        compute: impl Fn() -> Result<EvaluatedAttribute, EvalError> + Send + Sync + 'static,
    ) -> Self {
        self.set(name.into(), Attribute::Lazy(Arc::new(compute)))
    }

    /// Sets the attribute `name` to the result of `hook`, which is called once per evaluation when
    /// these outputs have been built. Other attributes continue meanwhile.
    ///
    /// The hook may block to read files; see [`EvaluatedAttribute::import`].
    #[must_use]
    pub fn import<'a, O, N>(
        self,
        name: impl Into<String>,
        wanted: impl IntoIterator<Item = (&'a Instantiated, O)>,
        hook: impl Fn(Vec<RealisedOutput>) -> Result<EvaluatedAttribute, EvalError>
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        O: IntoIterator<Item = N>,
        N: AsRef<str>,
    {
        self.attribute(name, EvaluatedAttribute::new().import(wanted, hook))
    }

    /// Like [`InMemoryEvaluator::import`], with an asynchronous hook.
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
        F: Future<Output = Result<EvaluatedAttribute, EvalError>> + Send + 'static,
    {
        self.attribute(name, EvaluatedAttribute::new().import_async(wanted, hook))
    }

    /// Adds a derivation on which attributes depend.
    #[must_use]
    pub fn derivation(self, derivation: &Instantiated) -> Self {
        self.derivations([derivation])
    }

    /// Adds derivations on which attributes depend, in any order.
    #[must_use]
    pub fn derivations<'a>(
        mut self,
        derivations: impl IntoIterator<Item = &'a Instantiated>,
    ) -> Self {
        self.insert(derivations.into_iter().map(evaluated::node));
        self
    }

    /// Adds a source. It is yielded before the first derivation that uses it. Sources that are not
    /// added are assumed to be in the store.
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
        if request.source != EvalSource::Predefined {
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
