//! A build of the in-memory builder.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{self, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::Output;
use nix_compat::path_info::PathInfo;
use tvix_store_api::Store;
use tvix_store_api::verify::digest;

use super::behaviour::Behaviour;
use super::job::{LogRecorder, MemoryBuild, MemoryFault, MemoryOutputs, Program};
use super::{InMemoryBuilder, Tree, derivation_name};
use crate::outputs::plan_outputs;
use crate::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, BuildSuccess, BuilderError, Delivery,
    FailureKind, StreamedOutput,
};

impl InMemoryBuilder {
    pub(super) async fn run(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let began = Instant::now();
        let attempt = self.begin(&request.drv_path);
        self.check_profile(&request)?;
        let behaviour = self.find(&request);
        let delay = behaviour.delay.or(self.default.delay);
        let program = behaviour.program.as_ref().or(self.default.program.as_ref());
        let store = request.store.as_ref().and_then(|uri| self.stores.get(uri));
        // The fast path: no delay, no fault, no log.
        if delay.is_none()
            && matches!(program, Some(Program::Trivial))
            && !context.cancel.is_cancelled()
            && let Some(outputs) = trivial(&request)
        {
            return self.deliver(outputs, store, began).await;
        }
        let log = LogRecorder {
            sender: context.log,
            tail: Arc::default(),
        };
        let tail = log.tail.clone();
        let failed = |kind| failure(kind, &tail, began);
        let outputs = match plan_outputs(context.inputs.store_dir(), &request) {
            Ok(outputs) => outputs,
            Err(kind) => return Ok(failed(kind)),
        };
        let limit = request.limits.wall_time;
        let build = MemoryBuild {
            request: Arc::new(request),
            outputs: outputs.into(),
            inputs: context.inputs,
            log,
            cancel: context.cancel.clone(),
            attempt,
        };
        let work = self.work(behaviour, delay, program, build.clone());
        let cancelled = context.cancel.cancelled();
        let timed_out = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => future::pending().await,
            }
        };
        let made = tokio::select! {
            biased;
            () = cancelled => return Ok(failed(FailureKind::Cancelled)),
            made = work => made,
            () = timed_out => {
                let limit = limit.unwrap_or_default();
                return Ok(failed(FailureKind::TimedOut { limit }));
            }
        };
        let made = match made {
            Ok(made) => made,
            Err(MemoryFault::Failure(kind)) => return Ok(failed(kind)),
            Err(MemoryFault::Builder(error)) => return Err(*error),
        };
        let outputs = match build.finish(made) {
            Ok(outputs) => outputs,
            Err(kind) => return Ok(failed(kind)),
        };
        let delivered = self.deliver(outputs, store, began);
        // When the future is dropped, the store discards partially pushed outputs.
        match future::select(
            std::pin::pin!(context.cancel.cancelled()),
            delivered.boxed(),
        )
        .await
        {
            future::Either::Left(_) => Ok(failed(FailureKind::Cancelled)),
            future::Either::Right((delivered, _)) => delivered,
        }
    }

    fn check_profile(&self, request: &BuildRequest) -> Result<(), BuilderError> {
        match self.profile.unsupported(&request.derivation) {
            None => Ok(()),
            Some(message) => Err(BuilderError::Unsupported {
                builder: self.profile.name.clone(),
                message,
            }),
        }
    }

    fn find(&self, request: &BuildRequest) -> &Behaviour {
        if self.behaviours.is_empty() {
            return &self.default;
        }
        let by_path = self.behaviours.get(&request.drv_path.to_string());
        let by_name = || self.behaviours.get(derivation_name(&request.drv_path));
        by_path.or_else(by_name).unwrap_or(&self.default)
    }

    /// The steps from the request to the trees.
    async fn work(
        &self,
        behaviour: &Behaviour,
        delay: Option<Duration>,
        program: Option<&Program>,
        build: MemoryBuild,
    ) -> Result<MemoryOutputs, MemoryFault> {
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if behaviour.takes_trouble() {
            let error = BuilderError::Backend {
                builder: self.profile.name.clone(),
                action: format!("build '{}'", build.request().drv_path),
                retryable: true,
                source: "trouble that was asked for".into(),
            };
            return Err(error.into());
        }
        match program {
            Some(Program::Sync(program)) => program(&build),
            Some(Program::Async(program)) => program(build).await,
            Some(Program::Trivial) => {
                let names = build.outputs.iter().map(|output| output.name.to_string());
                Ok(MemoryOutputs(
                    names.map(|name| (name, Tree::file(""))).collect(),
                ))
            }
            None => Err(MemoryFault::Failure(FailureKind::CannotRun {
                program: build.request().derivation.builder.to_string(),
                message: "the in-memory builder has no closure for this derivation".into(),
            })),
        }
    }

    /// Delivers the outputs: pushes them if the store is known.
    async fn deliver(
        &self,
        outputs: Vec<StreamedOutput>,
        store: Option<&Arc<dyn Store>>,
        began: Instant,
    ) -> Result<BuildOutcome, BuilderError> {
        let delivery = match store {
            None => Delivery::Streamed(outputs),
            Some(store) => {
                let pushed = Delivery::push(outputs, &**store).await;
                pushed.map_err(|source| BuilderError::Push {
                    builder: self.profile.name.clone(),
                    source,
                })?
            }
        };
        Ok(BuildOutcome::Success(BuildSuccess {
            delivery,
            duration: began.elapsed(),
            usage: None,
        }))
    }
}

fn failure(kind: FailureKind, tail: &Mutex<crate::log::Tail>, began: Instant) -> BuildOutcome {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    BuildOutcome::Failure(BuildFailure {
        kind,
        log_tail: std::mem::take(&mut *tail).into_lines(),
        duration: began.elapsed(),
        usage: None,
    })
}

/// The NAR of an empty file, and its hash.
fn empty_file() -> &'static (Bytes, [u8; 32]) {
    static EMPTY: OnceLock<(Bytes, [u8; 32])> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let nar = Tree::file("").to_nar().unwrap_or_default();
        let hash = digest(&nar);
        (nar.into(), hash)
    })
}

/// An empty file for each output; `None` unless every path is known in advance and nothing has to
/// be checked.
fn trivial(request: &BuildRequest) -> Option<Vec<StreamedOutput>> {
    let (nar, hash) = empty_file();
    let outputs = request.derivation.outputs.iter();
    outputs
        .map(|(name, output)| {
            let Output::InputAddressed(path) = output else {
                return None;
            };
            let mut info = PathInfo::new(path.clone(), *hash, nar.len() as u64);
            info.deriver = Some(request.drv_path.clone());
            info.ultimate = true;
            Some(StreamedOutput {
                name: name.clone(),
                info,
                nar: stream::iter([Ok(nar.clone())]).boxed(),
            })
        })
        .collect()
}
