//! Helpers of the cases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt as _;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nar::Writer;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tvix_store_api::{NarStream, Store, StoreExt as _, StoreUri};

use super::{Failure, Script, Step, Subject, Text, ensure};
use crate::{BuildContext, BuildFailure, BuildOutcome, BuildRequest, BuildSuccess, Builder as _};

/// A unique derivation name, also across runs on the same store.
pub fn unique(name: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_micros());
    format!("{name}-{now}-{}-{number}", std::process::id())
}

pub fn file(output: &str, text: &str) -> Step {
    Step::File {
        output: output.into(),
        text: vec![Text::Plain(text.into())],
    }
}

pub fn refers(output: &str, to: &[Text]) -> Step {
    let mut text = Vec::new();
    for reference in to {
        text.extend([Text::Plain("see ".into()), reference.clone()]);
    }
    Step::File {
        output: output.into(),
        text,
    }
}

impl Subject {
    /// A derivation in the store directory of the subject.
    pub(super) fn instantiate(
        &self,
        script: &[Step],
        change: impl FnOnce(DerivationBuilder) -> DerivationBuilder,
    ) -> Result<Instantiated, Failure> {
        let name = unique("case");
        let builder = self.derivation(&name, &Script(script.to_vec()));
        Ok(change(builder).instantiate(self.store.store_dir())?)
    }

    /// A request to push to the known store.
    pub(super) fn request(&self, made: &Instantiated) -> BuildRequest {
        let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        request.store = Some(self.store.uri().clone());
        request
    }

    /// A request with an unknown destination store.
    pub(super) fn foreign_request(&self, made: &Instantiated) -> BuildRequest {
        let mut request = self.request(made);
        request.store = Some(StoreUri::memory(unique("nobody-knows")));
        request
    }

    pub(super) fn context(&self) -> BuildContext {
        BuildContext::new(self.store.clone())
    }

    pub(super) async fn build(&self, request: BuildRequest) -> Result<BuildOutcome, Failure> {
        Ok(self.builder.build(request, self.context()).await?)
    }

    pub(super) async fn succeed(&self, request: BuildRequest) -> Result<BuildSuccess, Failure> {
        match self.build(request).await? {
            BuildOutcome::Success(success) => Ok(success),
            BuildOutcome::Failure(failure) => Err(Failure::new(format!(
                "the build failed: {failure}; log: {:?}",
                failure.log_tail
            ))),
        }
    }

    pub(super) async fn fail(&self, request: BuildRequest) -> Result<BuildFailure, Failure> {
        match self.build(request).await? {
            BuildOutcome::Failure(failure) => Ok(failure),
            BuildOutcome::Success(_) => Err(Failure::new("the build succeeded")),
        }
    }

    /// Fails the case if an output of the derivation is in the store, or if leftovers of the build
    /// still exist after a while.
    pub(super) async fn ensure_nothing_left(&self, made: &Instantiated) -> Result<(), Failure> {
        for (name, path) in made.derivation.output_paths(self.store.store_dir()) {
            if let Some(path) = path {
                let valid = self.store.is_valid(&path).await?;
                ensure!(!valid, "output '{name}' was pushed");
            }
        }
        let mut left = Vec::new();
        for _ in 0..100 {
            left = self.left_behind(made.derivation.name.as_str());
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// Adds a file to the store, under an arbitrary path.
    pub(super) async fn add_file(
        &self,
        text: &str,
        references: &[StorePath],
    ) -> Result<Arc<PathInfo>, Failure> {
        let name = unique("input").parse()?;
        let references: SortedSet<StorePath> = references.iter().cloned().collect();
        let path = self
            .store
            .add_text(name, text.as_bytes(), references)
            .await?;
        Ok(self.store.require(&path).await?)
    }

    /// The NAR of a valid path.
    pub(super) async fn stored_nar(&self, path: &StorePath) -> Result<Vec<u8>, Failure> {
        collect(self.store.nar(path).await?).await
    }
}

pub async fn collect(nar: NarStream) -> Result<Vec<u8>, Failure> {
    let chunks: Vec<bytes::Bytes> = nar.try_collect().await?;
    Ok(chunks.concat())
}

/// The NAR of a file that is not executable.
pub fn file_nar(text: &str) -> Result<Vec<u8>, Failure> {
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, text.as_bytes())?;
    Ok(writer.finish()?)
}
