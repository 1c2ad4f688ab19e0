//! Evaluation by several workers.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tvix_eval::{Limits, NixEvaluator};
use tvix_eval_api::{Evaluator, Workers};

use crate::args::WorkersArgs;

/// The evaluator itself, or several workers of it that share its memory. `stops`: the first error ends the
/// evaluation.
pub fn shared(evaluator: NixEvaluator, args: WorkersArgs, stops: bool) -> Arc<dyn Evaluator> {
    let memory = evaluator
        .settings()
        .limits
        .memory
        .map(|memory| memory as u64);
    match args.workers {
        None | Some(NonZeroUsize::MIN) => Arc::new(evaluator),
        Some(count) => {
            let workers = Workers::new(evaluator, count).with_memory(share(memory, count));
            Arc::new(workers.with_stop_at_error(stops))
        }
    }
}

/// The memory of one of `count` workers.
pub fn share(memory: Option<u64>, count: NonZeroUsize) -> Option<u64> {
    memory.map(|memory| memory / count.get() as u64)
}

/// Number of workers for this machine.
pub fn usual_count() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Half of the memory of this machine, or of the control group of this process if that is less.
pub fn usual_memory() -> Option<u64> {
    // The usual limit of an evaluation is three quarters of it.
    let limit = Limits::default().memory?;
    Some(limit as u64 / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_machine() {
        let two = NonZeroUsize::new(2).expect("two");
        assert_eq!(share(Some(10), two), Some(5));
        assert_eq!(share(None, two), None);
        let memory = usual_memory().expect("/proc/meminfo");
        assert!((1 << 20..1 << 50).contains(&memory), "{memory}");
    }
}
