//! The conformance suite detects faults of deliberately broken builders.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::store_path::StoreDir;
use tokio_util::sync::CancellationToken;
use tvix_build_api::conformance::{Capabilities, Subject, run_all};
use tvix_build_api::memory::InMemoryBuilder;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile, Delivery,
    LogSender,
};
use tvix_store_api::{MemoryStore, Store};

/// The fault of a builder.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    Order,
    Size,
    References,
    IgnoresCancellation,
    KeepsTheLog,
    AlwaysStreams,
    IgnoresLimits,
    SupportsEverything,
    ForgetsInputs,
    Blocks,
}

#[derive(Debug)]
struct Spoiled {
    inner: InMemoryBuilder,
    wrong: Wrong,
}

#[async_trait]
impl Builder for Spoiled {
    fn profile(&self) -> &BuilderProfile {
        self.inner.profile()
    }

    async fn build(
        &self,
        mut request: BuildRequest,
        mut context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        match self.wrong {
            Wrong::IgnoresCancellation => context.cancel = CancellationToken::new(),
            Wrong::KeepsTheLog => context.log = LogSender::discard(),
            Wrong::AlwaysStreams => request.store = None,
            Wrong::IgnoresLimits => request.limits.wall_time = None,
            Wrong::SupportsEverything => {
                let mut derivation = (*request.derivation).clone();
                derivation.system = "x86_64-linux".into();
                request.derivation = derivation.into();
            }
            Wrong::ForgetsInputs => request.inputs.clear(),
            Wrong::Blocks => std::thread::sleep(std::time::Duration::from_millis(30)),
            Wrong::Order | Wrong::Size | Wrong::References => {}
        }
        let mut outcome = self.inner.build(request, context).await?;
        if let BuildOutcome::Success(success) = &mut outcome
            && let Delivery::Pushed(outputs) = &mut success.delivery
        {
            match self.wrong {
                Wrong::Order => outputs.reverse(),
                Wrong::Size => outputs.iter_mut().for_each(|output| {
                    Arc::make_mut(&mut output.info).nar_size += 1;
                }),
                Wrong::References => outputs.iter_mut().for_each(|output| {
                    Arc::make_mut(&mut output.info).references = [].into();
                }),
                _ => {}
            }
        }
        Ok(outcome)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_builders_fail() {
    for (wrong, case) in [
        (Wrong::Order, "several_outputs_references_first"),
        (Wrong::Size, "one_output"),
        (Wrong::References, "references_to_inputs_and_itself"),
        (Wrong::KeepsTheLog, "logs_are_complete_and_in_order"),
        (Wrong::AlwaysStreams, "a_known_store_is_pushed_to"),
        (Wrong::SupportsEverything, "a_system_that_is_not_supported"),
        (Wrong::ForgetsInputs, "nothing_but_the_inputs_is_visible"),
        #[cfg(target_os = "linux")]
        (Wrong::Blocks, "polls_do_not_block"),
    ] {
        expect(wrong, case).await;
    }
}

/// These fail by hanging, so the clock is advanced while all tasks wait.
#[tokio::test(start_paused = true)]
async fn wrong_builders_hang() {
    for (wrong, case) in [
        (Wrong::IgnoresCancellation, "cancelled_while_it_runs"),
        (Wrong::IgnoresLimits, "too_much_time"),
    ] {
        expect(wrong, case).await;
    }
}

async fn expect(wrong: Wrong, case: &str) {
    let factory = || async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
        Subject::in_memory_with(store, |builder| Spoiled {
            inner: builder,
            wrong,
        })
    };
    let report = run_all(factory, Capabilities::default().with_floating(true)).await;
    let failed: Vec<_> = report.failures().map(|(name, _)| name).collect();
    assert!(failed.contains(&case), "{wrong:?} failed only {failed:?}");
}
