//! The sandbox builder.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio_util::sync::CancellationToken;
#[cfg(feature = "local-fs")]
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store, StoreUri};

use super::SandboxOptions;
use super::deliver::{Claim, KnownStore, claim, deliver};
use super::features::check_features;
use super::field::Field;
use super::inputs::{self, Inputs};
use super::keep::{keep_failed, kept_name};
use super::place::Place;
use super::prepare::{self, Prepared, Surroundings};
use super::run::run;
use super::timers::Timers;
use super::trouble::{Blame, Trouble};
use crate::log::Tail;
use crate::outputs::{OutputChecks, PlannedOutput};
use crate::translate::{
    TranslateOptions, Translation, asks_for_no_sandbox, derivations_in_graphs, translate,
};
use crate::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, BuildSuccess, Builder, BuilderError,
    BuilderProfile, Delivery, FailureKind, ResourceUsage,
};
use tvix_sandbox::{Engine, Scratch, Starting};

/// Builds on this machine, in Linux namespaces, without a daemon, as root or as an ordinary user.
///
/// Builds see the closure of their inputs and [`SandboxOptions::sandbox_paths`], and nothing else
/// of the host; fixed-output derivations also see its network. On a machine that cannot sandbox,
/// builds return [`BuilderError::SandboxUnavailable`]: isolation is never weaker than requested.
///
/// Outputs are pushed to a [known](Self::with_store) store, in one transaction if that is a [local
/// store](Self::with_local_store) on the file system that builds write to. In that case the builder takes the
/// store's output locks, which exclude other processes, including Nix. If all outputs are valid
/// once the locks are acquired, nothing is built.
///
/// Clones share all state. `build` must be called on a tokio runtime with I/O and time enabled.
#[derive(Debug, Clone)]
pub struct SandboxBuilder {
    profile: BuilderProfile,
    blame: Blame,
    place: Arc<Place>,
    options: Arc<SandboxOptions>,
    translate: TranslateOptions,
    stores: HashMap<StoreUri, KnownStore>,
    /// Those of the stores whose files are at their store paths.
    in_place: HashSet<StoreUri>,
}

impl SandboxBuilder {
    /// Creates a builder. The first build, or [`probe`](Self::probe), finds out whether the machine
    /// can sandbox. Blocks for a short time if a [scratch directory](SandboxOptions::scratch) is
    /// given.
    ///
    /// Once the scratch directory is known, from the options or from [`with_local_store`](Self::with_local_store), a
    /// thread prepares the resources that the first build would have to wait for (see
    /// [`SandboxOptions::ahead`]). Dropping the builder ends the thread and removes these
    /// resources.
    ///
    /// # Errors
    ///
    /// [`BuilderError::Backend`] if the scratch directory cannot be used or threads cannot be
    /// started.
    pub fn new(options: SandboxOptions) -> Result<Self, BuilderError> {
        let builder = Self {
            profile: options.profile(),
            blame: Blame(options.name.clone()),
            place: Arc::new(Place::new(options.scratch.clone(), options.first_id)),
            translate: TranslateOptions {
                builtins: cfg!(feature = "builtins"),
                allows_no_sandbox: options.relaxed || !options.sandbox,
                ..TranslateOptions::default().with_own_environment()
            },
            options: Arc::new(options),
            stores: HashMap::new(),
            in_place: HashSet::new(),
        };
        if builder.options.scratch.is_some() {
            builder.engine()?;
            if builder.options.sandbox {
                builder.make_ready(&StoreDir::default());
            }
        }
        Ok(builder)
    }

    /// Starts preparing resources for the first build, if that is enabled.
    fn make_ready(&self, dir: &StoreDir) {
        if !self.options.ahead {
            return;
        }
        let (dir, options) = (dir.clone(), self.options.clone());
        self.place
            .make_ready(move |engine| prepare::ahead(engine, &dir, &options.sandbox_paths));
    }

    /// Pushes outputs to `store` when a request names it. If the store is on the file system that
    /// builds write to, no file is copied and all outputs of a build become valid at once;
    /// otherwise it works as [`with_store`](Self::with_store). Inputs that are read from this
    /// store are located without a query.
    ///
    /// The first store that is added determines the scratch directory, unless
    /// [`SandboxOptions::scratch`] is set.
    #[cfg(feature = "local-fs")]
    #[must_use]
    pub fn with_local_store(mut self, store: impl std::borrow::Borrow<LocalStore>) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let store = store.borrow().clone();
        let scratch = store.state_dir().join("tvix-builds");
        let in_place = store.real_store_dir() == store.store_dir().as_path();
        if in_place {
            self.in_place.insert(store.uri().clone());
        }
        if self.place.scratch().is_none() {
            let first_id = self.options.first_id;
            self.place = Arc::new(Place::new(Some(scratch), first_id));
            if self.options.sandbox || !in_place {
                self.make_ready(store.store_dir());
            }
        }
        let device = |path: &std::path::Path| {
            let mut existing = path.ancestors();
            existing.find_map(|path| path.metadata().map(|metadata| metadata.dev()).ok())
        };
        let beside = self.place.scratch().and_then(device) == device(store.real_store_dir());
        let uri = store.uri().clone();
        let known = if beside {
            KnownStore::Beside(store)
        } else {
            KnownStore::Any(Arc::new(store))
        };
        self.stores.insert(uri, known);
        self
    }

    /// Pushes outputs to `store` when a request names it, through [`Store::add`].
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.stores
            .insert(store.uri().clone(), KnownStore::Any(store));
        self
    }

    /// Tests whether this machine can sandbox, by starting a sandbox. Blocks for a short time.
    ///
    /// # Errors
    ///
    /// [`BuilderError::SandboxUnavailable`] with the missing capability and its remedy;
    /// [`BuilderError::Backend`] if the scratch directory cannot be used.
    pub fn probe(&self) -> Result<(), BuilderError> {
        let engine = self.engine()?;
        if !self.options.sandbox {
            return Ok(());
        }
        engine
            .probe()
            .map_err(|error| self.blame.engine_itself(error))
    }

    fn engine(&self) -> Result<Engine, BuilderError> {
        self.place
            .engine()
            .map_err(|error| self.blame.engine_itself(error))
    }

    async fn build_outputs(
        &self,
        request: Arc<BuildRequest>,
        context: &BuildContext,
        tail: &mut Tail,
        usage: &mut Option<ResourceUsage>,
    ) -> Result<Delivery, Trouble> {
        let requirements = request.requirements();
        if let Some(message) = self.profile.unmet(&requirements) {
            return Err(self.blame.unsupported(message));
        }
        let dir = context.inputs.store_dir().clone();
        let store = request.store.as_ref().and_then(|uri| self.stores.get(uri));
        self.check_store_dir(&dir, store)?;
        let has_to_be =
            self.options.sandbox && !(self.options.relaxed && asks_for_no_sandbox(&request)?);
        // As in Nix: elsewhere, a process would not find its inputs without a sandbox.
        let confined = has_to_be || !self.in_place.contains(context.inputs.uri());
        check_features(&self.blame, &requirements, confined)?;
        let claimed =
            match unless_cancelled(context, claim(&self.blame, store, &request, &context.slot))
                .await?
            {
                Claim::Ours(claimed) => claimed,
                Claim::Made(delivery) => return Ok(delivery),
            };
        let started = async {
            if confined {
                self.start_sandboxed(&dir, &request, context).await
            } else {
                self.start_unconfined(&dir, &request, context).await
            }
        };
        let Started {
            starting,
            scratch,
            outputs,
            checks,
        } = unless_cancelled(context, started).await?;
        let running = unless_cancelled(context, async {
            let running = starting.running().await;
            running.map_err(|error| self.blame.engine(error))
        })
        .await?;
        let timers = Timers::start(&request.limits);
        let ran = run(
            running,
            &self.blame,
            &timers,
            &context.log,
            &context.cancel,
            tail,
            usage,
        );
        let ran = ran.await;
        // The builder program may have changed the modes of its own directories.
        let reclaimed = scratch.reclaim();
        reclaimed.map_err(|error| self.blame.io("reclaim the directories of a build", error))?;
        if let Err(trouble) = ran {
            self.keep_failed(&request, &scratch, context, tail).await;
            return Err(trouble);
        }
        let stop = CancellationToken::new();
        let _stop_on_drop = stop.clone().drop_guard();
        let field = Field {
            blame: self.blame.clone(),
            dir,
            store: scratch.store_dir(),
            owner: match scratch.host_ids().filter(|_| confined) {
                Some(ids) => ids.uid,
                None => rustix::process::geteuid().as_raw(),
            },
            request,
            outputs,
            checks,
            disk: self.options.max_disk,
            // Stops the thread when this future is dropped.
            stop: stop.clone(),
        };
        let harvested = self.blocking({
            let scratch = scratch.clone();
            move || {
                // Even if the future is dropped, the directory must not be reused yet.
                let _held = scratch;
                field.harvest()
            }
        });
        let harvested = timers.within(&context.cancel, harvested).await?;
        let (blame, cancel) = (&self.blame, &context.cancel);
        deliver(blame, store, harvested, scratch, claimed, cancel, &timers).await
    }

    /// Store paths of one store directory are of no use in another.
    fn check_store_dir(&self, dir: &StoreDir, store: Option<&KnownStore>) -> Result<(), Trouble> {
        match store.map(|store| store.as_store()) {
            Some(store) if store.store_dir() != dir => Err(self.blame.unsupported(format!(
                "the store directory of its inputs is '{dir}', and that of the destination is \
                 '{}'",
                store.store_dir()
            ))),
            _ => Ok(()),
        }
    }

    async fn start_sandboxed(
        &self,
        dir: &StoreDir,
        request: &Arc<BuildRequest>,
        context: &BuildContext,
    ) -> Result<Started, Trouble> {
        let options = self.translate_options(dir, request, context).await?;
        let translation =
            translate(dir, request, &options).map_err(|error| self.blame.translate(error))?;
        let inputs = self.locate(request, context).await?;
        let (place, blame) = (self.place.clone(), self.blame.clone());
        let (dir, options) = (dir.clone(), self.options.clone());
        let request = request.clone();
        self.blocking(move || {
            let engine = place.engine().map_err(|error| blame.engine(error))?;
            let surroundings = Surroundings {
                dir: &dir,
                inputs: &inputs.files,
                options: &options,
                kvm: request.requirements().requires("kvm"),
            };
            let limits = &request.limits;
            let prepared =
                prepare::sandboxed(&engine, &blame, &surroundings, &translation, limits)?;
            let held = Held {
                _inputs: inputs,
                escaped: None,
            };
            Started::new(&engine, &blame, &dir, &request, translation, prepared, held)
        })
        .await
    }

    /// The options for translating this request, including the outputs of derivations that its
    /// reference graphs name.
    async fn translate_options(
        &self,
        dir: &StoreDir,
        request: &BuildRequest,
        context: &BuildContext,
    ) -> Result<Cow<'_, TranslateOptions>, Trouble> {
        let asked_about = derivations_in_graphs(dir, request)?;
        if asked_about.is_empty() {
            return Ok(Cow::Borrowed(&self.translate));
        }
        let mut options = self.translate.clone();
        options.derivation_outputs = inputs::outputs_of(&context.inputs, &asked_about)
            .await
            .map_err(|error| self.blame.inputs(error))?;
        Ok(Cow::Owned(options))
    }

    async fn locate(
        &self,
        request: &BuildRequest,
        context: &BuildContext,
    ) -> Result<Inputs, Trouble> {
        #[cfg(feature = "local-fs")]
        if let Some(KnownStore::Beside(store)) = self.stores.get(context.inputs.uri()) {
            // The inputs are valid in the store, as the contract of a request requires.
            return Ok(Inputs::in_directory(store.real_store_dir(), request));
        }
        let located = Inputs::locate(&context.inputs, request).await;
        located.map_err(|error| self.blame.inputs(error))
    }

    /// Without a sandbox, the process reads inputs and writes outputs at their store paths.
    async fn start_unconfined(
        &self,
        dir: &StoreDir,
        request: &Arc<BuildRequest>,
        context: &BuildContext,
    ) -> Result<Started, Trouble> {
        let known = self.stores.get(context.inputs.uri());
        let here = match known {
            #[cfg(feature = "local-fs")]
            Some(KnownStore::Beside(_)) => true,
            _ => false,
        };
        if !here {
            return Err(self.blame.unsupported(format!(
                "without a sandbox, builds have to write to the file system of '{dir}'"
            )));
        }
        // A path that is valid already may be in use, and must not be replaced.
        let outputs = request.derivation.output_paths(dir);
        let outputs: Vec<StorePath> = outputs.filter_map(|(_, path)| path).collect();
        let valid = context.inputs.valid_paths(&outputs).await;
        let valid = valid.map_err(|error| self.blame.inputs(error))?;
        if let Some(path) = valid.iter().next() {
            return Err(self.blame.unsupported(format!(
                "without a sandbox, '{path}' cannot be built again while it is in the store"
            )));
        }
        let options = self.translate_options(dir, request, context).await?;
        let mut options = options.into_owned();
        let (place, blame) = (self.place.clone(), self.blame.clone());
        let (dir, request) = (dir.clone(), request.clone());
        let own_options = self.options.clone();
        self.blocking(move || {
            let engine = place.engine().map_err(|error| blame.engine(error))?;
            let scratch = engine.scratch().map_err(|error| blame.engine(error))?;
            options.build_dir = scratch.build_dir().display().to_string();
            let translation =
                translate(&dir, &request, &options).map_err(|error| blame.translate(error))?;
            let surroundings = Surroundings {
                dir: &dir,
                inputs: &[],
                options: &own_options,
                kvm: false,
            };
            let limits = &request.limits;
            let prepared =
                prepare::unconfined(&blame, scratch, &surroundings, &translation, limits)?;
            let escaped = Escaped {
                store: dir.as_path().to_owned(),
                names: translation
                    .outputs()
                    .map(|(_, path)| path.to_string())
                    .collect(),
                scratch: prepared.scratch.clone(),
            };
            // Leftovers that are not valid.
            escaped.bring_back();
            let held = Held {
                _inputs: Inputs::default(),
                escaped: Some(escaped),
            };
            Started::new(&engine, &blame, &dir, &request, translation, prepared, held)
        })
        .await
    }

    /// Runs `work` on a thread that may block. The work continues if the future is dropped.
    /// Keeps the build directory of a failed build, if that is wanted, and says so in its log.
    async fn keep_failed(
        &self,
        request: &BuildRequest,
        scratch: &Arc<Scratch>,
        context: &BuildContext,
        tail: &mut Tail,
    ) {
        let directory = self.options.keep_failed.clone();
        let Some(directory) = directory.filter(|_| request.keep_failed) else {
            return;
        };
        let Some(name) = kept_name(request) else {
            return;
        };
        let scratch = scratch.clone();
        let kept = self.blocking(move || Ok(keep_failed(&scratch, &directory, &name)));
        let Ok(line) = kept.await else {
            return;
        };
        let line = Bytes::from(line);
        tail.push(&line);
        // Does not wait, because the reader of the log may have cancelled the build.
        let _ = context.log.send(line).now_or_never();
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(lost) => {
                let action = "work on a blocking thread";
                Err(self.blame.backend(action, false, lost))
            }
        }
    }
}

/// Runs a part of a build that may be abandoned at any point.
async fn unless_cancelled<T>(
    context: &BuildContext,
    part: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(FailureKind::Cancelled.into()),
        result = part => result,
    }
}

/// A process that an engine is starting, and the data needed after its end.
struct Started {
    starting: Starting,
    scratch: Arc<Scratch>,
    outputs: Vec<PlannedOutput>,
    checks: OutputChecks,
}

impl Started {
    /// Starts the process on the thread that prepared it: each change of threads would wait for a
    /// processor.
    fn new(
        engine: &Engine,
        blame: &Blame,
        dir: &StoreDir,
        request: &BuildRequest,
        translation: Translation,
        prepared: Prepared,
        held: Held,
    ) -> Result<Self, Trouble> {
        let outputs = translation.outputs;
        let checks = OutputChecks::of(dir, &request.attributes()?, &outputs)?;
        let Prepared { spec, scratch } = prepared;
        let starting = engine.start(spec, (held, scratch.clone()));
        Ok(Self {
            starting: starting.map_err(|error| blame.engine(error))?,
            scratch,
            outputs,
            checks,
        })
    }
}

/// Resources that must outlive the process.
struct Held {
    _inputs: Inputs,
    escaped: Option<Escaped>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(escaped) = &self.escaped {
            escaped.bring_back();
        }
    }
}

/// The outputs of a process that writes to the store directory itself.
struct Escaped {
    store: PathBuf,
    names: Vec<String>,
    scratch: Arc<Scratch>,
}

impl Escaped {
    /// Moves the outputs to the scratch directory, where they are harvested or removed.
    fn bring_back(&self) {
        for name in &self.names {
            // An output may be missing.
            let to = self.scratch.store_dir().join(name);
            let _ = std::fs::rename(self.store.join(name), to);
        }
    }
}

#[async_trait]
impl Builder for SandboxBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.profile
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let began = Instant::now();
        let mut tail = Tail::default();
        let mut usage = None;
        match self
            .build_outputs(Arc::new(request), &context, &mut tail, &mut usage)
            .await
        {
            Ok(delivery) => Ok(BuildOutcome::Success(BuildSuccess {
                delivery,
                duration: began.elapsed(),
                usage,
            })),
            Err(Trouble::Failure(kind)) => Ok(BuildOutcome::Failure(BuildFailure {
                kind,
                log_tail: tail.into_lines(),
                duration: began.elapsed(),
                usage,
            })),
            Err(Trouble::Builder(error)) => Err(*error),
        }
    }
}
