//! Tasks: parts of a request that several evaluations share.
//!
//! The roots of a request are found by a search through values, from the requested attribute paths
//! on. Each value to search is a [`Task`]. Evaluations of the same request, each with a
//! [`TaskSource`] of one [`TaskQueue`], take tasks as they become free. One that comes to a set or
//! list does not search its members itself: it gives their names to the queue
//! ([`Task::split`]), without evaluating them, and goes on with the next task. So work is divided
//! while it is found, and none of the evaluations has to know the others.
//!
//! [`Workers`](crate::Workers) runs such evaluations and merges their events;
//! [`Evaluator::evaluate_tasks`](crate::Evaluator::evaluate_tasks) is one of them.
//!
//! ```
//! use tvix_eval_api::EvalRequest;
//! use tvix_eval_api::tasks::{Member, Reached, TaskQueue, Taken};
//!
//! let queue = TaskQueue::new(&EvalRequest::attrs(["jobs"]), 2, None);
//! let (one, other) = (queue.source(0), queue.source(1));
//! let Taken::Task(jobs) = one.try_take(0) else { panic!() };
//! // There may be more for the other evaluation once `jobs` is known.
//! assert!(matches!(other.try_take(0), Taken::Later));
//! jobs.split(Reached::Attribute, ["hello", "world"].into_iter().enumerate().map(Member::from));
//! let Taken::Task(hello) = other.try_take(0) else { panic!() };
//! assert_eq!(hello.place().attr_path(), "jobs.hello");
//! ```

mod place;
mod queue;

pub use place::{Reached, TaskPlace};
pub use queue::{Member, Taken, Task, TaskQueue, TaskSource};
