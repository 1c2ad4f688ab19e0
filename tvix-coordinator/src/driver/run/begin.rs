//! Starting sources and builds, and builds that wait.

use futures::FutureExt as _;
use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use tokio_util::sync::CancellationToken;
use tvix_build_api::{BuildContext, BuildRequest, SlotMessage};

use super::{Done, Driver};
use crate::driver::closures::Closure;
use crate::driver::sources;
use crate::driver::tasks::{self, BuildParts};
use crate::machine::{BuildId, ComponentError, Input, StartBuild};

impl Driver {
    /// Adds sources without references in one request, as far as they are small.
    pub(super) fn add_small_sources(
        &mut self,
        paths: Vec<StorePath>,
        max_size: usize,
        max_total: usize,
    ) {
        let (mut found, mut unknown) = (Vec::with_capacity(paths.len()), Vec::new());
        for path in paths {
            match self.sources.get(&path) {
                Some(source) => found.push(source.clone()),
                None => unknown.push((path.clone(), Err(without_contents(&path)))),
            }
        }
        let added = sources::add_small(self.store.clone(), found, max_size, max_total);
        self.spawn(added.map(move |(mut added, large)| {
            added.extend(unknown);
            Done::Sources(added, large)
        }));
    }

    pub(super) fn add_source(&mut self, path: StorePath) {
        let store = self.store.clone();
        let source = self.sources.get(&path).cloned();
        self.spawn(async move {
            let result = match source {
                Some(source) => sources::add_source(store, source).await,
                None => Err(without_contents(&path)),
            };
            Done::Sources(vec![(path, result)], Vec::new())
        });
    }

    pub(super) fn source_added(&mut self, path: StorePath, result: Result<(), ComponentError>) {
        if result.is_ok() {
            self.sources.remove(&path);
        }
        self.tell(Input::SourceAdded { path, result });
    }

    pub(super) fn start_build(&mut self, start: StartBuild) {
        let build = start.build;
        let (mut parts, inputs) = self.build_parts(start);
        match inputs.into_complete() {
            Ok(inputs) => {
                parts.request.inputs = inputs;
                let built = tasks::build(parts);
                self.spawn(built.map(move |result| Done::Built(build, result)));
            }
            Err(inputs) => {
                let built = tasks::build_with(parts, self.closures.clone(), inputs);
                self.spawn(built.map(move |result| Done::Built(build, result)));
            }
        }
    }

    pub(super) fn start_check(&mut self, start: StartBuild, outputs: Vec<(OutputName, StorePath)>) {
        let build = start.build;
        let (parts, inputs) = self.build_parts(start);
        let check = self.parts.options.check.clone().unwrap_or_default();
        let check = tasks::check(parts, self.closures.clone(), inputs, outputs, check);
        self.spawn(check.map(move |result| Done::Checked(build, result)));
    }

    /// Everything that a build is given except for the closure of its inputs.
    fn build_parts(&mut self, start: StartBuild) -> (BuildParts, Closure) {
        let build = start.build;
        let cancel = CancellationToken::new();
        self.cancels.insert(build, cancel.clone());
        let options = &self.parts.options;
        let mut request = BuildRequest::new(start.drv_path, start.derivation);
        request.limits = options.limits;
        request.cores = options.cores;
        request.store = Some(self.store.uri().clone());
        let parts = BuildParts {
            builder: self.parts.builders[start.builder].clone(),
            request,
            context: BuildContext::new(self.store.clone())
                .with_log(self.log.tagged(build.0))
                .with_cancel(cancel)
                .with_slot(self.slot.tagged(build.0)),
        };
        (parts, self.closures.of(start.inputs))
    }

    pub(super) fn slot_message(&mut self, message: SlotMessage) {
        match message {
            SlotMessage::Waiting { build, lock } => {
                let build = BuildId(build);
                self.tell(Input::BuildWaiting { build, lock });
            }
            SlotMessage::Ready { build, go } => {
                let build = BuildId(build);
                self.waiting.insert(build, go);
                self.tell(Input::BuildReady { build });
            }
            // A kind of message that came after this was written needs nothing of it.
            _ => {}
        }
    }
}

/// The failure of a source that evaluation did not yield.
fn without_contents(path: &StorePath) -> ComponentError {
    ComponentError::bug(format!("the contents of '{path}' are gone (a bug)"))
}
