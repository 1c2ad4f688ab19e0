//! A builder of one's own: it makes outputs in Rust. Paths, hashes, references and the rules of
//! derivations come from the crate. It runs in the suite that every builder has to pass.
//!
//! `cargo run --example own_builder`

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use nix_compat::derivation::DerivationBuilder;
use nix_compat::store_path::StoreDir;
use tvix_build_api::conformance::{Capabilities, Script, Subject, run_all};
use tvix_build_api::memory::{MemoryBuild, MemoryFault, MemoryResult};
use tvix_build_api::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile,
    Delivery, FailureKind,
};
use tvix_store_api::{MemoryStore, Store};

#[derive(Debug)]
struct OwnBuilder {
    profile: BuilderProfile,
    /// A store that outputs are pushed to, if a build asks for it.
    store: Arc<dyn Store>,
}

#[async_trait]
impl Builder for OwnBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.profile
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let began = Instant::now();
        let builder = self.profile.name.clone();
        if let Some(message) = self.profile.unsupported(&request.derivation) {
            return Err(BuilderError::Unsupported { builder, message });
        }
        let limit = request.limits.wall_time;
        let known = request.store.as_ref() == Some(self.store.uri());
        let build = match MemoryBuild::new(request, &context) {
            Ok(build) => build,
            Err(kind) => {
                let failure = BuildFailure::new(kind, began.elapsed());
                return Ok(BuildOutcome::Failure(failure));
            }
        };
        let work = async {
            let outputs = build.finish(program(build.clone()).await?)?;
            if !known {
                return Ok(Delivery::Streamed(outputs));
            }
            let pushed = Delivery::push(outputs, &*self.store).await;
            Ok(pushed.map_err(|source| BuilderError::Push { builder, source })?)
        };
        let time_limit = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        // A future that is dropped has ended, and its pushes with it.
        let ended: Result<Delivery, MemoryFault> = tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(FailureKind::Cancelled.into()),
            ended = work => ended,
            () = time_limit => {
                Err(FailureKind::TimedOut { limit: limit.unwrap_or_default() }.into())
            }
        };
        build.outcome(ended, began.elapsed())
    }
}

/// The work of a build: here, the steps in its environment. Yours may render templates.
async fn program(build: MemoryBuild) -> MemoryResult {
    let text = build.request().derivation.env_var("script");
    match text.map(|text| serde_json::from_slice::<Script>(text)) {
        Some(Ok(script)) => script.run_in_memory(build).await,
        other => {
            let message = format!("no script: {other:?}");
            Err(FailureKind::InvalidDerivation { message }.into())
        }
    }
}

#[tokio::main]
async fn main() {
    let factory = || async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
        let profile = BuilderProfile::new("own", "x86_64-linux", 4);
        let builder = OwnBuilder {
            profile,
            store: store.clone(),
        };
        Subject::new(builder, store, |name, script| {
            let script = serde_json::to_string(script).unwrap_or_default();
            DerivationBuilder::new(name, "x86_64-linux", "/bin/sh").env("script", script)
        })
    };
    let report = run_all(factory, Capabilities::default().with_floating(true)).await;
    println!("{report}");
    report.assert_all();
}
