//! An evaluation of a graph in memory: a stream that works only while it is polled.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};

use super::Attribute;
use super::evaluated::{EvaluatedAttribute, Hook, Import, RootSpec, WantedSpec};
use super::graph::{Layers, Step, Walk};
use crate::{EvalError, EvalEvent, RealiseError, RealisedOutput, Root, WantedOutputs, realise};

/// Maximum number of events between two checks for finished imports. A check costs as much as a few
/// events, and an import should not wait for unrelated events.
const EVENTS_BETWEEN_IMPORTS: u32 = 32;

type Item = Result<EvalEvent, EvalError>;
type Resumed = (Arc<str>, Result<EvaluatedAttribute, EvalError>);

pub(super) struct Evaluation {
    attributes: Arc<BTreeMap<String, Attribute>>,
    graph: Layers,
    walk: Walk,
    /// The current goal of `walk`.
    current: Option<Goal>,
    queue: VecDeque<Goal>,
    imports: FuturesUnordered<BoxFuture<'static, Resumed>>,
    until_imports: u32,
}

enum Goal {
    Attribute(String),
    Root {
        attr: Arc<str>,
        root: Root,
        id: u32,
    },
    Import {
        attr: Arc<str>,
        wanted: Vec<WantedOutputs>,
        /// The elements of `wanted` that have not been yielded yet.
        ids: Vec<u32>,
        hook: Hook,
    },
    Fail(Box<EvalError>),
}

impl Evaluation {
    pub(super) fn new(
        attributes: Arc<BTreeMap<String, Attribute>>,
        graph: Layers,
        wanted: Vec<String>,
    ) -> Self {
        let queue = if wanted.is_empty() {
            attributes.keys().cloned().map(Goal::Attribute).collect()
        } else {
            let mut seen = HashSet::new();
            let mut wanted = wanted;
            wanted.retain(|name| seen.insert(name.clone()));
            wanted.into_iter().map(Goal::Attribute).collect()
        };
        Self {
            attributes,
            graph,
            walk: Walk::default(),
            current: None,
            queue,
            imports: FuturesUnordered::new(),
            until_imports: EVENTS_BETWEEN_IMPORTS,
        }
    }

    fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty()
    }

    /// Performs the next step that does not wait.
    fn step(&mut self) -> Option<Item> {
        let goal = self.current.take().or_else(|| self.queue.pop_front())?;
        match goal {
            Goal::Attribute(name) => self.open(name),
            Goal::Fail(error) => Some(Err(*error)),
            Goal::Root { attr, root, id } => match self.walk.advance(&self.graph, id) {
                Step::Yield(event) => {
                    self.current = Some(Goal::Root { attr, root, id });
                    Some(Ok(event))
                }
                Step::Done => Some(Ok(EvalEvent::Root(root))),
                Step::Failed(error) => Some(Err(EvalError::in_attribute(&attr, error))),
            },
            Goal::Import {
                attr,
                wanted,
                mut ids,
                hook,
            } => {
                while let Some(id) = ids.last() {
                    match self.walk.advance(&self.graph, *id) {
                        Step::Yield(event) => {
                            self.current = Some(Goal::Import {
                                attr,
                                wanted,
                                ids,
                                hook,
                            });
                            return Some(Ok(event));
                        }
                        Step::Done => ids.pop(),
                        Step::Failed(error) => {
                            return Some(Err(EvalError::in_attribute(&attr, error)));
                        }
                    };
                }
                let (request, answer) = realise(wanted);
                self.imports.push(resume(attr, answer, hook).boxed());
                Some(Ok(EvalEvent::Realise(request)))
            }
        }
    }

    fn open(&mut self, name: String) -> Option<Item> {
        let evaluated = match self.attributes.get(&name) {
            None => return Some(Err(EvalError::attribute_not_found(name))),
            Some(Attribute::Known(evaluated)) => evaluated.clone(),
            Some(Attribute::Lazy(compute)) => match compute() {
                Ok(evaluated) => evaluated,
                Err(error) => return Some(Err(EvalError::in_attribute(&name, Arc::new(error)))),
            },
        };
        self.expand(&name.into(), evaluated);
        None
    }

    /// Queues the result of an attribute ahead of all other work.
    fn expand(&mut self, attr: &Arc<str>, evaluated: EvaluatedAttribute) {
        for node in evaluated.nodes {
            if self.graph.find(node.path()).is_none() {
                self.graph.added.insert(node);
            }
        }
        let import = evaluated.import.map(|import| self.import(attr, import));
        let roots: Vec<_> = evaluated
            .roots
            .into_iter()
            .map(|root| self.root(attr, root))
            .collect();
        // Imports go first, so that they are answered early.
        for goal in roots.into_iter().rev().chain(import) {
            let goal = goal.unwrap_or_else(|error| {
                Goal::Fail(Box::new(EvalError::in_attribute(attr, Arc::new(error))))
            });
            self.queue.push_front(goal);
        }
    }

    fn root(&self, attr: &Arc<str>, root: RootSpec) -> Result<Goal, EvalError> {
        let (id, wanted) = self.wanted(root.wanted)?;
        let name = match root.child {
            Some(child) => format!("{attr}.{child}"),
            None => attr.to_string(),
        };
        Ok(Goal::Root {
            attr: Arc::clone(attr),
            root: Root::new(name, wanted),
            id,
        })
    }

    fn import(&self, attr: &Arc<str>, import: Import) -> Result<Goal, EvalError> {
        let wanted = import.wanted.into_iter().map(|spec| self.wanted(spec));
        let (ids, wanted) = wanted.collect::<Result<_, _>>()?;
        Ok(Goal::Import {
            attr: Arc::clone(attr),
            wanted,
            ids,
            hook: import.hook,
        })
    }

    fn wanted(&self, spec: WantedSpec) -> Result<(u32, WantedOutputs), EvalError> {
        let drv_path = spec.drv_path;
        let no_output = |output: &str| EvalError::NoSuchOutput {
            drv_path: drv_path.clone(),
            output: output.to_owned(),
        };
        // A root's derivation is part of the same result.
        let (id, derivation) = self
            .graph
            .derivation(&drv_path)
            .ok_or_else(|| no_output("out"))?;
        let all = derivation.outputs.iter().map(|(name, _)| name);
        let outputs = match spec.outputs {
            None => all.cloned().collect(),
            Some(names) => names
                .iter()
                .map(|name| {
                    let mut all = all.clone();
                    let output = all.find(|output| output.as_str() == name);
                    output.cloned().ok_or_else(|| no_output(name))
                })
                .collect::<Result<_, _>>()?,
        };
        Ok((id, WantedOutputs { drv_path, outputs }))
    }
}

/// Waits for the outputs, then calls the hook.
async fn resume(
    attr: Arc<str>,
    answer: impl Future<Output = Result<Vec<RealisedOutput>, RealiseError>> + Send,
    hook: Hook,
) -> Resumed {
    let failed = |source| EvalError::Import {
        attr_path: attr.to_string(),
        trace: String::new(),
        place: Box::default(),
        source: Box::new(source),
    };
    let outputs = match answer.await {
        Ok(outputs) => outputs,
        Err(error) => {
            let error = failed(error);
            return (attr, Err(error));
        }
    };
    let result = match hook {
        Hook::Async(hook) => hook(outputs).await,
        Hook::Blocking(hook) => {
            // A thread of its own rather than a runtime's, as the evaluator needs no runtime.
            let (sender, receiver) = oneshot::channel();
            let work = move || {
                let result = catch_unwind(AssertUnwindSafe(|| hook(outputs)));
                // If the evaluation was dropped meanwhile, nothing waits for the result.
                let _ = sender.send(result);
            };
            let spawned = std::thread::Builder::new().spawn(work).map(drop);
            match (spawned, receiver.await) {
                (_, Ok(Ok(result))) => result,
                (_, Ok(Err(panic))) => resume_unwind(panic),
                (Err(error), _) => Err(failed(RealiseError::Store(format!(
                    "cannot start a thread for an import: {error}"
                )))),
                (Ok(()), Err(_)) => Err(failed(RealiseError::Cancelled)),
            }
        }
    };
    let result = result.map_err(|error| EvalError::in_attribute(&attr, Arc::new(error)));
    (attr, result)
}

impl Stream for Evaluation {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = self.get_mut();
        loop {
            if this.until_imports == 0 || this.is_idle() {
                this.until_imports = EVENTS_BETWEEN_IMPORTS;
                match this.imports.poll_next_unpin(cx) {
                    Poll::Ready(Some((attr, Ok(evaluated)))) => this.expand(&attr, evaluated),
                    Poll::Ready(Some((_, Err(error)))) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(None) if this.is_idle() => return Poll::Ready(None),
                    Poll::Pending if this.is_idle() => return Poll::Pending,
                    Poll::Ready(None) | Poll::Pending => {}
                }
            }
            if let Some(item) = this.step() {
                this.until_imports -= 1;
                return Poll::Ready(Some(item));
            }
        }
    }
}
