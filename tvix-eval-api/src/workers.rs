//! Several evaluations of one request, as one evaluator.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, SelectAll};
use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::tasks::TaskQueue;
use crate::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root, RootOrder};

/// An evaluator that evaluates each request by several evaluations of another evaluator, which
/// share its tasks.
///
/// The first evaluation starts at once, and each further one when there are tasks that no other
/// has taken. An evaluation that uses more than its share of memory finishes the tasks that it has
/// begun, and a new one continues ([`Workers::with_memory`]).
///
/// The events of all evaluations are merged into one stream. A derivation or source that several
/// of them yield appears once; diagnostics may appear several times. Roots have the places that
/// they would have in a single evaluation. Unless the request is for jobs, equal derivations and
/// outputs at one requested attribute path are one root.
///
/// An evaluator that does not take tasks ([`Evaluator::evaluate_tasks`]) evaluates the whole request
/// alone.
///
/// ```
/// use std::num::NonZeroUsize;
/// use tvix_eval_api::Workers;
/// use tvix_eval_api::memory::InMemoryEvaluator;
///
/// let workers = NonZeroUsize::new(2).expect("two");
/// let evaluator = Workers::new(InMemoryEvaluator::new(), workers).with_memory(Some(512 << 20));
/// # let _ = evaluator;
/// ```
#[derive(Debug, Clone)]
pub struct Workers<E> {
    evaluator: E,
    count: NonZeroUsize,
    memory: Option<u64>,
}

impl<E> Workers<E> {
    /// Evaluates by `count` evaluations at the same time.
    pub fn new(evaluator: E, count: NonZeroUsize) -> Self {
        Self {
            evaluator,
            count,
            memory: None,
        }
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
        let mut slot = |worker, first| {
            let slot = Slot {
                worker,
                count: count.take(),
                evaluator: self.evaluator.clone(),
                request: request.clone(),
                queue: queue.clone(),
                open: true,
            };
            slot.events(first)
        };
        let mut streams = SelectAll::new();
        streams.push(slot(0, Some(first)));
        streams.extend((1..self.count.get()).map(|worker| slot(worker, None)));
        let mut merged = Merged::new(request.jobs.is_none());
        Ok(streams
            .filter_map(move |event| {
                let event = event.map(|event| merged.event(event)).transpose();
                async { event }
            })
            .boxed())
    }
}

/// A place for one evaluation at a time.
struct Slot<E> {
    worker: usize,
    evaluator: E,
    request: EvalRequest,
    queue: TaskQueue,
    /// Number of tasks that the current evaluation has got; `None` before the first.
    count: Option<Arc<AtomicUsize>>,
    open: bool,
}

impl<E: Evaluator + 'static> Slot<E> {
    /// The events of all evaluations in this slot.
    fn events(self, first: Option<EvalStream>) -> EvalStream {
        let first = first.unwrap_or_else(|| stream::empty().boxed());
        let later = stream::unfold(self, async |mut slot| {
            let events = slot.next().await?;
            Some((events, slot))
        });
        first.chain(later.flatten()).boxed()
    }

    /// The next evaluation.
    async fn next(&mut self) -> Option<EvalStream> {
        // An evaluation that ended without a task has failed, and would fail again.
        let count = self.count.take();
        let failed = count.is_some_and(|count| count.load(Ordering::Relaxed) == 0);
        if !self.open || failed {
            return None;
        }
        self.queue.wanted().await;
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
}

impl Merged {
    fn new(unique_roots: bool) -> Self {
        Self {
            seen: FxHashSet::default(),
            roots: FxHashMap::default(),
            unique_roots,
        }
    }

    /// The event, unless another evaluation has yielded it.
    fn event(&mut self, event: EvalEvent) -> Option<EvalEvent> {
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
            other => Some(other),
        }
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
