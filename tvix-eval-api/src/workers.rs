//! Several evaluations of one request, as one evaluator.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, SelectAll};
use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::tasks::TaskQueue;
use crate::{
    Diagnostic, EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root, RootOrder,
};

/// An evaluator that evaluates each request by several evaluations of another evaluator, which
/// share its tasks.
///
/// The first evaluation starts at once, and each further one when there are tasks that no other
/// has taken; for jobs, all start at once. An evaluation that uses more than its share of memory finishes the tasks that it has
/// begun, and a new one continues ([`Workers::with_memory`]).
///
/// The events of all evaluations are merged into one stream. A derivation or source that several
/// of them yield appears once, and a diagnostic as often as in the evaluation that yields it most
/// often. Roots have the places that
/// they would have in a single evaluation. Unless the request is for jobs, equal derivations and
/// outputs at one requested attribute path are one root.
///
/// An evaluator that does not take tasks ([`Evaluator::evaluate_tasks`]) evaluates the whole request
/// alone.
///
/// ```
/// use std::num::NonZeroUsize;
/// use futures::StreamExt as _;
/// use nix_compat::derivation::DerivationBuilder;
/// use nix_compat::store_path::StoreDir;
/// use tvix_eval_api::memory::InMemoryEvaluator;
/// use tvix_eval_api::{EvalEvent, EvalRequest, Evaluator as _, Workers};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hello = DerivationBuilder::new("hello", "x86_64-linux", "/bin/sh");
/// let hello = hello.instantiate(&StoreDir::default())?;
/// // Any evaluator that takes tasks: this one, or that of the Nix language.
/// let evaluator = InMemoryEvaluator::new().root("hello", &hello);
/// let count = NonZeroUsize::new(2).expect("two");
/// let workers = Workers::new(evaluator, count).with_memory(Some(512 << 20));
/// let mut events = workers.evaluate(EvalRequest::attrs(["hello"])).await?;
/// let mut roots = Vec::new();
/// while let Some(event) = events.next().await {
///     if let EvalEvent::Root(root) = event? {
///         roots.push(root.name);
///     }
/// }
/// assert_eq!(roots, ["hello"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Workers<E> {
    evaluator: E,
    count: NonZeroUsize,
    memory: Option<u64>,
    stop_at_error: bool,
}

impl<E> Workers<E> {
    /// Evaluates by `count` evaluations at the same time.
    pub fn new(evaluator: E, count: NonZeroUsize) -> Self {
        Self {
            evaluator,
            count,
            memory: None,
            stop_at_error: false,
        }
    }

    /// Makes the first error the last event (default: false). Evaluations continue up to the place of
    /// the root that failed, and yield what comes before it, as a single evaluation does; nothing
    /// behind it is begun.
    #[must_use]
    pub fn with_stop_at_error(mut self, stop: bool) -> Self {
        self.stop_at_error = stop;
        self
    }

    /// Sets the memory in bytes after which an evaluation makes room for a new one (default: none).
    /// It may exceed that by what the last of its tasks needs.
    #[must_use]
    pub fn with_memory(mut self, bytes: Option<u64>) -> Self {
        self.memory = bytes;
        self
    }
}

#[async_trait]
impl<E: Evaluator + Clone + 'static> Evaluator for Workers<E> {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let queue = TaskQueue::new(&request, self.count.get(), self.memory);
        let source = queue.source(0);
        let mut count = Some(source.counter());
        let Some(first) = self.evaluator.evaluate_tasks(&request, source).await? else {
            return self.evaluator.evaluate(request).await;
        };
        let evaluations = Arc::new(AtomicUsize::new(0));
        let mut slot = |worker, first| {
            let slot = Slot {
                worker,
                count: count.take(),
                evaluator: self.evaluator.clone(),
                request: request.clone(),
                queue: queue.clone(),
                evaluations: evaluations.clone(),
                open: true,
            };
            slot.events(first)
        };
        let mut streams = SelectAll::new();
        streams.push(slot(0, Some(first)));
        streams.extend((1..self.count.get()).map(|worker| slot(worker, None)));
        let mut merged = Merged::new(request.jobs.is_none());
        let events = streams.filter_map(move |(evaluation, event)| {
            let event = event.map(|event| merged.event(evaluation, event));
            let event = event.transpose();
            async { event }
        });
        Ok(match self.stop_at_error {
            true => up_to_error(queue, events.boxed()),
            false => events.boxed(),
        })
    }
}

/// The events up to the root that fails first in the order of roots, and its error.
fn up_to_error(queue: TaskQueue, events: EvalStream) -> EvalStream {
    let state = (queue, events, None::<EvalError>);
    let events = stream::unfold(state, async |(queue, mut events, mut failed)| {
        loop {
            match events.next().await {
                None => {
                    let error = failed.take()?;
                    return Some((Err(error), (queue, stream::empty().boxed(), None)));
                }
                Some(Ok(event)) => return Some((Ok(event), (queue, events, failed))),
                Some(Err(error)) => match order(&error).cloned() {
                    // It is an error of everything.
                    None => return Some((Err(error), (queue, stream::empty().boxed(), None))),
                    Some(order) => {
                        queue.end_at(&order);
                        if failed
                            .as_ref()
                            .and_then(self::order)
                            .is_none_or(|it| order < *it)
                        {
                            failed = Some(error);
                        }
                    }
                },
            }
        }
    });
    events.boxed()
}

/// The place of the root that failed, if it is known.
fn order(error: &EvalError) -> Option<&RootOrder> {
    let order = &error.place()?.order;
    (!order.is_unknown()).then_some(order)
}

/// Events, each with the number of its evaluation.
type Numbered = BoxStream<'static, (usize, Result<EvalEvent, EvalError>)>;

/// A place for one evaluation at a time.
struct Slot<E> {
    worker: usize,
    evaluator: E,
    request: EvalRequest,
    queue: TaskQueue,
    /// Number of evaluations that were started in all slots.
    evaluations: Arc<AtomicUsize>,
    /// Number of tasks that the current evaluation has got; `None` before the first.
    count: Option<Arc<AtomicUsize>>,
    open: bool,
}

impl<E: Evaluator + 'static> Slot<E> {
    /// The events of all evaluations in this slot, each with the number of its evaluation.
    fn events(self, first: Option<EvalStream>) -> Numbered {
        let first = first.map_or_else(|| stream::empty().boxed(), |first| self.numbered(first));
        let later = stream::unfold(self, async |mut slot| {
            let events = slot.next().await?;
            Some((slot.numbered(events), slot))
        });
        first.chain(later.flatten()).boxed()
    }

    fn numbered(&self, events: EvalStream) -> Numbered {
        let number = self.evaluations.fetch_add(1, Ordering::Relaxed);
        events.map(move |event| (number, event)).boxed()
    }

    /// The next evaluation.
    async fn next(&mut self) -> Option<EvalStream> {
        // An evaluation that ended without a task has failed, and would fail again.
        let count = self.count.take();
        let is_first = count.is_none();
        let failed = count.is_some_and(|count| count.load(Ordering::Relaxed) == 0);
        if !self.open || failed {
            return None;
        }
        // Most sets of jobs are work for all.
        if !is_first || self.request.jobs.is_none() {
            self.queue.wanted().await;
        }
        if self.queue.is_complete() {
            return None;
        }
        let source = self.queue.source(self.worker);
        self.count = Some(source.counter());
        match self.evaluator.evaluate_tasks(&self.request, source).await {
            Ok(Some(events)) => Some(events),
            Ok(None) => None,
            Err(error) => {
                self.open = false;
                Some(stream::once(async { Err(error) }).boxed())
            }
        }
    }
}

/// What has been yielded of several evaluations.
struct Merged {
    /// Hash parts of derivations and sources.
    seen: FxHashSet<[u8; 20]>,
    /// Roots at their first place so far.
    roots: FxHashMap<(Option<usize>, StorePath, Vec<OutputName>), RootOrder>,
    unique_roots: bool,
    /// How often diagnostics were yielded, by their hashes: by each evaluation, and in all.
    diagnostics: FxHashMap<(Option<usize>, u64), usize>,
    hasher: RandomState,
}

impl Merged {
    fn new(unique_roots: bool) -> Self {
        Self {
            seen: FxHashSet::default(),
            roots: FxHashMap::default(),
            unique_roots,
            diagnostics: FxHashMap::default(),
            hasher: RandomState::new(),
        }
    }

    /// The event, unless another evaluation has yielded it.
    fn event(&mut self, evaluation: usize, event: EvalEvent) -> Option<EvalEvent> {
        match event {
            EvalEvent::Derivation { ref path, .. } => {
                self.seen.insert(*path.digest()).then_some(event)
            }
            EvalEvent::AddSource(ref source) => {
                self.seen.insert(*source.path.digest()).then_some(event)
            }
            EvalEvent::Root(root) if self.unique_roots && !root.order.is_unknown() => {
                self.root(root).map(EvalEvent::Root)
            }
            EvalEvent::Diagnostic(ref diagnostic) => {
                self.diagnostic(evaluation, diagnostic).then_some(event)
            }
            other => Some(other),
        }
    }

    /// Whether this evaluation has now yielded a diagnostic more often than was passed on.
    fn diagnostic(&mut self, evaluation: usize, diagnostic: &Diagnostic) -> bool {
        let hash = self.hasher.hash_one(diagnostic);
        let own = self
            .diagnostics
            .entry((Some(evaluation), hash))
            .or_default();
        *own += 1;
        let own = *own;
        let all = self.diagnostics.entry((None, hash)).or_default();
        let is_new = own > *all;
        *all += usize::from(is_new);
        is_new
    }

    fn root(&mut self, mut root: Root) -> Option<Root> {
        let wanted = &root.wanted;
        let (path, outputs) = (wanted.drv_path.clone(), wanted.outputs.clone());
        let known =
            self.roots
                .get_mut(&(root.order.request_index(), path.clone(), outputs.clone()));
        match known {
            None => {
                let key = (root.order.request_index(), path, outputs);
                self.roots.insert(key, root.order.clone());
            }
            Some(known) if *known <= root.order => return None,
            Some(known) => {
                root.moved_from = Some(std::mem::replace(known, root.order.clone()));
            }
        }
        Some(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Severity;

    #[test]
    fn diagnostics_come_as_often_as_in_one_evaluation() {
        let mut merged = Merged::new(true);
        let mut pass = |evaluation, text: &str| {
            let diagnostic = Diagnostic::new(Severity::Trace, text);
            let event = EvalEvent::Diagnostic(diagnostic);
            merged.event(evaluation, event).is_some()
        };
        assert!(pass(0, "shared"));
        assert!(!pass(1, "shared"));
        // Twice in one evaluation.
        assert!(pass(1, "shared"));
        assert!(!pass(0, "shared"));
        assert!(pass(0, "shared"));
        assert!(pass(1, "other"));
    }
}
