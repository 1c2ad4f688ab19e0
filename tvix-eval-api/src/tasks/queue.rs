//! The queue of tasks.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustc_hash::FxBuildHasher;

use super::place::{Reached, TaskPlace};
use crate::{EvalRequest, RootOrder};

/// The most tasks that an evaluation takes at once.
const LARGEST_BATCH: usize = 16;

/// The tasks of a request. Cheap to clone: all clones are one queue.
#[derive(Clone)]
pub struct TaskQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Memory in bytes after which an evaluation ends.
    memory: Option<u64>,
}

struct State {
    /// Tasks for each worker.
    waiting: Vec<Waiting>,
    /// Number of tasks in `waiting`.
    queued: usize,
    /// Tasks that need an evaluation of their own.
    alone: VecDeque<Arc<TaskPlace>>,
    /// Tasks that were taken and have not ended.
    taken: usize,
    /// The last place whose task may begin.
    end: Option<RootOrder>,
    wakers: Vec<Waker>,
}

/// Tasks that one worker takes first, and others only if they have none. They are members whose
/// names have the same hash, so that sets that are found under several names, or that have members
/// in common, are not evaluated by every worker.
#[derive(Default)]
struct Waiting {
    /// Members of sets and lists; the last are the next, so that the search is depth-first.
    sets: VecDeque<Members>,
    /// Number of tasks in `sets`.
    count: usize,
}

/// Members of a set or list that nobody has taken yet.
struct Members {
    parent: Option<Arc<TaskPlace>>,
    reached: Reached,
    members: VecDeque<Member>,
}

/// An attribute or list element: its name, and its number among all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name, or the number of the element.
    pub name: Box<str>,
    /// Its number in the order of names or elements.
    pub number: u32,
}

impl<N: Into<Box<str>>> From<(usize, N)> for Member {
    fn from((number, name): (usize, N)) -> Self {
        Self {
            name: name.into(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
        }
    }
}

/// What an evaluation gets that asks for a task.
#[derive(Debug)]
pub enum Taken {
    /// A task.
    Task(Task),
    /// There is none now. [`TaskSource::ready`] waits for the next.
    Later,
    /// There will be none for this evaluation. It ends after the tasks that it has begun; if
    /// others are left, a new evaluation continues.
    End,
}

impl TaskQueue {
    /// The tasks of `request`, for so many evaluations at once. An evaluation that uses more than
    /// `memory` bytes gets no further tasks.
    pub fn new(request: &EvalRequest, workers: usize, memory: Option<u64>) -> Self {
        let whole = [String::new()];
        let requested = match request.attr_paths.is_empty() {
            true => &whole,
            false => &request.attr_paths[..],
        };
        let names = requested.iter().map(String::as_str);
        let mut state = State {
            waiting: (0..workers.max(1)).map(|_| Waiting::default()).collect(),
            queued: 0,
            alone: VecDeque::new(),
            taken: 0,
            end: None,
            wakers: Vec::new(),
        };
        state.add(
            None,
            Reached::Requested,
            names.enumerate().map(Member::from),
        );
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            memory,
        }))
    }

    /// A source of tasks for one evaluation by the worker with this number, counted from 0.
    pub fn source(&self, worker: usize) -> TaskSource {
        TaskSource {
            worker,
            shared: self.0.clone(),
            held: Mutex::default(),
            count: Arc::default(),
        }
    }

    /// Whether all tasks have ended.
    pub fn is_complete(&self) -> bool {
        self.0.lock().is_complete()
    }

    /// Removes the tasks behind a place: none of them will be begun.
    pub(crate) fn end_at(&self, place: &RootOrder) {
        self.0.change(|state| state.end_at(place));
    }

    /// Waits until there is a task for a new evaluation, or all have ended.
    pub(crate) async fn wanted(&self) {
        let shared = &self.0;
        poll_fn(|cx| shared.poll(cx, |state| state.is_complete() || state.has_tasks())).await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>, ready: impl Fn(&State) -> bool) -> Poll<()> {
        let mut state = self.lock();
        if ready(&state) {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Changes the state, and wakes everything that waits for a change.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn is_complete(&self) -> bool {
        self.taken == 0 && !self.has_tasks()
    }

    fn has_tasks(&self) -> bool {
        self.queued > 0 || !self.alone.is_empty()
    }

    fn end_at(&mut self, place: &RootOrder) {
        if self.end.as_ref().is_some_and(|end| end <= place) {
            return;
        }
        for waiting in &mut self.waiting {
            for set in &mut waiting.sets {
                let around = set.parent.as_ref().map(|parent| parent.order());
                let around = around.unwrap_or_default();
                set.members
                    .retain(|member| around.child(member.number as usize) <= *place);
            }
            waiting.sets.retain(|set| !set.members.is_empty());
            waiting.count = waiting.sets.iter().map(|set| set.members.len()).sum();
        }
        self.queued = self.waiting.iter().map(|waiting| waiting.count).sum();
        self.alone.retain(|task| task.order() <= *place);
        self.end = Some(place.clone());
    }

    /// Whether tasks at a place are not begun any more.
    fn is_behind_end(&self, place: &RootOrder) -> bool {
        self.end.as_ref().is_some_and(|end| place > end)
    }

    /// Adds members of a set or list, in front of all others.
    fn add(
        &mut self,
        parent: Option<&Arc<TaskPlace>>,
        reached: Reached,
        members: impl Iterator<Item = Member>,
    ) {
        let workers = self.waiting.len();
        let mut parts: Vec<VecDeque<Member>> = vec![VecDeque::new(); workers];
        let around = parent.map(|parent| parent.order()).unwrap_or_default();
        for member in members {
            if self.end.is_some() && self.is_behind_end(&around.child(member.number as usize)) {
                continue;
            }
            let worker = match workers {
                1 => 0,
                _ => FxBuildHasher.hash_one(&member.name) as usize % workers,
            };
            parts[worker].push_back(member);
            self.queued += 1;
        }
        for (waiting, members) in self.waiting.iter_mut().zip(parts) {
            if !members.is_empty() {
                waiting.count += members.len();
                waiting.sets.push_back(Members {
                    parent: parent.cloned(),
                    reached,
                    members,
                });
            }
        }
    }

    /// Takes some tasks off the queue. The more are left, the more at once.
    fn take(&mut self, worker: usize) -> VecDeque<Arc<TaskPlace>> {
        let limit = (self.queued / (4 * self.waiting.len())).clamp(1, LARGEST_BATCH);
        let own = self.waiting.get(worker).is_some_and(|it| it.count > 0);
        let waiting = match own {
            true => self.waiting.get_mut(worker),
            false => self.waiting.iter_mut().max_by_key(|it| it.count),
        };
        let mut taken = VecDeque::new();
        let Some(waiting) = waiting else {
            return taken;
        };
        // Tasks of another worker are taken from the end that it comes to last.
        let next = match own {
            true => waiting.sets.back_mut(),
            false => waiting.sets.front_mut(),
        };
        if let Some(next) = next {
            let count = limit.min(next.members.len());
            taken.extend(next.members.drain(..count).map(|Member { name, number }| {
                Arc::new(match &next.parent {
                    None => TaskPlace::requested(number, &name),
                    Some(parent) => TaskPlace::member(parent.clone(), next.reached, number, name),
                })
            }));
            match (next.members.is_empty(), own) {
                (true, true) => drop(waiting.sets.pop_back()),
                (true, false) => drop(waiting.sets.pop_front()),
                (false, _) => {}
            }
        }
        waiting.count -= taken.len();
        self.queued -= taken.len();
        self.taken += taken.len();
        taken
    }
}

/// Tasks for one evaluation.
///
/// An evaluation takes tasks until it gets [`Taken::End`]. Tasks that it has not got to are
/// returned to the queue when the source is dropped.
pub struct TaskSource {
    shared: Arc<Shared>,
    worker: usize,
    /// Tasks that were taken off the queue in advance.
    held: Mutex<VecDeque<Arc<TaskPlace>>>,
    /// Number of tasks that the evaluation got.
    count: Arc<AtomicUsize>,
}

impl TaskSource {
    /// Takes the next task, without waiting. `memory` is the memory in bytes that the evaluation
    /// uses now.
    pub fn try_take(&self, memory: u64) -> Taken {
        let count = self.count.load(Ordering::Relaxed);
        if count > 0 && self.shared.memory.is_some_and(|share| memory > share) {
            self.release();
            return Taken::End;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            let mut state = self.shared.lock();
            if let Some(place) = (count == 0).then(|| state.alone.pop_front()).flatten() {
                state.taken += 1;
                held.push_back(place);
            } else if state.queued > 0 {
                *held = state.take(self.worker);
            } else if !state.alone.is_empty() || state.is_complete() {
                return Taken::End;
            }
        }
        {
            let mut state = self.shared.lock();
            while let Some(place) = held.front()
                && state.end.is_some()
                && state.is_behind_end(&place.order())
            {
                held.pop_front();
                state.taken -= 1;
            }
            if held.is_empty() && state.is_complete() {
                let wakers = std::mem::take(&mut state.wakers);
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                return Taken::End;
            }
        }
        match held.pop_front() {
            None => Taken::Later,
            Some(place) => {
                self.count.store(count + 1, Ordering::Relaxed);
                Taken::Task(Task {
                    shared: self.shared.clone(),
                    place,
                })
            }
        }
    }

    /// Waits until [`TaskSource::try_take`] would return something other than [`Taken::Later`].
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        poll_fn(move |cx| shared.poll(cx, |state| state.has_tasks() || state.is_complete()))
    }

    pub(crate) fn counter(&self) -> Arc<AtomicUsize> {
        self.count.clone()
    }

    /// Returns tasks that were taken off the queue in advance, for an evaluation that takes no more.
    pub fn release(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(&mut *held);
        if held.is_empty() {
            return;
        }
        self.shared.change(|state| {
            state.taken -= held.len();
            for place in held.into_iter().rev() {
                let member = Member {
                    name: place.name().into(),
                    number: place.number(),
                };
                state.add(place.parent(), place.reached(), std::iter::once(member));
            }
        });
    }

    /// Number of tasks that the evaluation got.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for TaskSource {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for TaskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSource")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("TaskQueue")
            .field("queued", &state.queued)
            .field("taken", &state.taken)
            .finish_non_exhaustive()
    }
}

/// A value to search for roots. The task ends when this is dropped, which an evaluation does after
/// it has yielded the root, or the error.
pub struct Task {
    shared: Arc<Shared>,
    place: Arc<TaskPlace>,
}

impl Task {
    /// The place of the value.
    pub fn place(&self) -> &Arc<TaskPlace> {
        &self.place
    }

    /// Makes each member of the set or list at this place a task. Nothing is evaluated.
    pub fn split(&self, reached: Reached, members: impl IntoIterator<Item = Member>) {
        let members = members.into_iter();
        self.shared
            .change(|state| state.add(Some(&self.place), reached, members));
    }

    /// Returns the task to the queue, for an evaluation that has evaluated nothing before. For a
    /// task that failed because its evaluation ran out of memory.
    pub fn retry(self) {
        let place = self.place.clone();
        self.shared.change(|state| state.alone.push_back(place));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken -= 1;
        if state.is_complete() {
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task")
            .field(&self.place.attr_path())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn queue(names: &[&str], memory: Option<u64>) -> TaskQueue {
        TaskQueue::new(&EvalRequest::attrs(names.iter().copied()), 1, memory)
    }

    fn take(source: &TaskSource, memory: u64) -> Option<Task> {
        match source.try_take(memory) {
            Taken::Task(task) => Some(task),
            Taken::Later | Taken::End => None,
        }
    }

    fn name(task: Option<Task>) -> Option<String> {
        task.map(|task| task.place().attr_path())
    }

    fn split(task: &Task, names: &[&str]) {
        let members = names.iter().copied().enumerate().map(Member::from);
        task.split(Reached::Attribute, members);
    }

    #[test]
    fn members_come_before_what_follows_their_set() {
        let queue = queue(&["a", "b"], None);
        let source = queue.source(0);
        let first = take(&source, 0);
        split(first.as_ref().expect("a task"), &["x", "y"]);
        drop(first);
        let names: Vec<_> = std::iter::from_fn(|| name(take(&source, 0))).collect();
        assert_eq!(names, ["a.x", "a.y", "b"]);
        assert!(queue.is_complete());
        assert!(matches!(source.try_take(0), Taken::End));
    }

    #[test]
    fn members_of_equal_names_are_for_one_worker_until_others_have_none() {
        let queue = TaskQueue::new(&EvalRequest::attrs(["a", "b"]), 2, None);
        let sources = [queue.source(0), queue.source(1)];
        let names: Vec<_> = (0..40).map(|number| format!("n{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for set in [take(&sources[0], 0), take(&sources[1], 0)] {
            split(set.as_ref().expect("a task"), &names);
        }
        let mut taken = [Vec::new(), Vec::new()];
        while taken[0].len() < 30 {
            let (source, taken) = (&sources[0], &mut taken[0]);
            taken.extend(name(take(source, 0)));
        }
        let twice = taken[0].iter().filter(|name| name.starts_with("a."));
        for name in twice {
            assert!(taken[0].contains(&name.replace("a.", "b.")), "{taken:?}");
        }
        // The other worker has its own, and then what is left.
        taken[1].extend(std::iter::from_fn(|| name(take(&sources[1], 0))));
        taken[0].extend(std::iter::from_fn(|| name(take(&sources[0], 0))));
        assert_eq!(taken[0].len() + taken[1].len(), 80);
        assert!(queue.is_complete());
    }

    #[test]
    fn a_source_without_tasks_waits_for_tasks_or_the_end() {
        let queue = queue(&["a"], None);
        let (one, other) = (queue.source(0), queue.source(1));
        let task = take(&one, 0);
        assert!(matches!(other.try_take(0), Taken::Later));
        let mut ready = Box::pin(other.ready());
        assert!(ready.as_mut().now_or_never().is_none());
        split(task.as_ref().expect("a task"), &["x"]);
        assert!(other.ready().now_or_never().is_some());
        assert_eq!(name(take(&other, 0)).as_deref(), Some("a.x"));
        assert!(matches!(other.try_take(0), Taken::Later));
        drop(task);
        assert!(other.ready().now_or_never().is_some());
        assert!(matches!(other.try_take(0), Taken::End));
    }

    #[test]
    fn an_evaluation_over_its_share_gets_no_second_task() {
        let queue = queue(&["a", "b", "c"], Some(10));
        let source = queue.source(0);
        assert_eq!(name(take(&source, 11)).as_deref(), Some("a"));
        assert!(matches!(source.try_take(11), Taken::End));
        drop(source);
        let next = queue.source(0);
        assert_eq!(name(take(&next, 0)).as_deref(), Some("b"));
        assert_eq!(name(take(&next, 10)).as_deref(), Some("c"));
    }

    #[test]
    fn a_dropped_source_returns_what_it_holds() {
        let queue = queue(&["set"], None);
        let source = queue.source(0);
        let set = take(&source, 0).expect("a task");
        let names: Vec<_> = (0..100).map(|number| format!("n{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        split(&set, &names);
        drop(set);
        assert_eq!(name(take(&source, 0)).as_deref(), Some("set.n0"));
        drop(source);
        let next = queue.source(0);
        let rest: Vec<_> = std::iter::from_fn(|| take(&next, 0)).collect();
        assert_eq!(rest.len(), 99);
        let orders: Vec<_> = rest.iter().map(|task| task.place().order()).collect();
        assert!(orders.is_sorted(), "{orders:?}");
    }

    #[test]
    fn a_task_that_is_retried_goes_to_a_new_evaluation() {
        let queue = queue(&["a", "b"], None);
        let source = queue.source(0);
        take(&source, 0).expect("a task").retry();
        assert_eq!(name(take(&source, 0)).as_deref(), Some("b"));
        assert!(matches!(source.try_take(0), Taken::End));
        assert!(!queue.is_complete());
        let next = queue.source(0);
        assert_eq!(name(take(&next, 0)).as_deref(), Some("a"));
        assert!(queue.is_complete());
    }
}
