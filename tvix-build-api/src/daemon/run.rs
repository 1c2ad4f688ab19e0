//! A build: its request, its log, its result.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use nix_compat::derivation::{Derivation, Output};
use nix_compat::sorted::SortedMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tvix_store_api::daemon::{CallError, DaemonConnection};
use tvix_worker_protocol::{
    ActivityResult, ActivityType, BuildDerivation, BuildMode, BuildResult, Field, LogMessage,
    QueryPathInfo, ResultType,
};

use super::deliver::Made;
use super::outcome::{failure_of, understood};
use super::{DaemonBuilder, Trouble};
use crate::log::Tail;
use crate::{
    BuildContext, BuildLimits, BuildRequest, BuildSuccess, BuilderError, FailureKind, LogSender,
    ResourceUsage, StructuredLog,
};

/// The log of a build, and its limits.
#[derive(Debug)]
pub(super) struct Log {
    sender: LogSender,
    cancel: CancellationToken,
    tail: Tail,
    limits: BuildLimits,
    began: Instant,
    heard: Instant,
    bytes: u64,
    /// Activities of builds. Their lines are the log.
    builds: HashSet<u64>,
    pub usage: Option<ResourceUsage>,
}

impl Log {
    pub fn new(request: &BuildRequest, context: &BuildContext) -> Self {
        let now = Instant::now();
        Self {
            sender: context.log.clone(),
            cancel: context.cancel.clone(),
            tail: Tail::default(),
            limits: request.limits,
            began: now,
            heard: now,
            bytes: 0,
            builds: HashSet::new(),
            usage: None,
        }
    }

    pub fn into_tail(self) -> Vec<String> {
        self.tail.into_lines()
    }

    /// The build begins: its time does.
    fn begin(&mut self) {
        self.began = Instant::now();
        self.heard = self.began;
    }

    /// Ends when a limit of time is exceeded.
    async fn limit(&self) -> FailureKind {
        let at = |limit: Option<Duration>, since: Instant| async move {
            match limit {
                Some(limit) => {
                    tokio::time::sleep_until(since + limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            limit = at(self.limits.wall_time, self.began) => FailureKind::TimedOut { limit },
            limit = at(self.limits.silence, self.heard) => FailureKind::Silent { limit },
        }
    }

    /// Takes a message of the daemon.
    async fn message(&mut self, message: LogMessage) -> Result<(), FailureKind> {
        match message {
            LogMessage::StartActivity(activity) if activity.kind == ActivityType::Build => {
                self.builds.insert(activity.id);
            }
            LogMessage::StopActivity(id) => {
                self.builds.remove(&id);
            }
            LogMessage::Result(result) if self.builds.contains(&result.id) => {
                if let Some(line) = line_of(result) {
                    self.line(line).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn line(&mut self, line: Bytes) -> Result<(), FailureKind> {
        self.bytes += line.len() as u64 + 1;
        if let Some(limit) = self.limits.log_bytes
            && self.bytes > limit
        {
            return Err(FailureKind::LogLimit { limit });
        }
        if StructuredLog::parse(&line).is_none() {
            self.tail.push(&line);
        }
        let sender = self.sender.clone();
        // A reader that waits is not the build's silence.
        let wall_time = BuildLimits {
            silence: None,
            ..self.limits
        };
        let limits = std::mem::replace(&mut self.limits, wall_time);
        let cancel = self.cancel.clone();
        let sent = tokio::select! {
            () = sender.send(line) => Ok(()),
            kind = self.limit() => Err(kind),
            () = cancel.cancelled() => Err(FailureKind::Cancelled),
        };
        self.limits = limits;
        self.heard = Instant::now();
        sent
    }
}

/// The line of a log that a result stands for. Daemons understand lines of the form `@nix { … }`
/// themselves; they are made again from what they said.
fn line_of(result: ActivityResult) -> Option<Bytes> {
    let Some(Field::Text(text)) = result.fields.into_iter().next() else {
        return None;
    };
    match result.kind {
        ResultType::BuildLogLine => Some(Vec::from(text).into()),
        ResultType::SetPhase => {
            let phase = serde_json::json!({ "action": "setPhase", "phase": text.to_string() });
            Some(format!("@nix {phase}").into())
        }
        _ => None,
    }
}

impl DaemonBuilder {
    pub(super) async fn run(
        &self,
        request: &BuildRequest,
        context: &BuildContext,
        log: &mut Log,
    ) -> Result<BuildSuccess, Trouble> {
        self.provide(&*context.inputs, &request.inputs).await?;
        log.begin();
        let options = &self.0.options;
        let lent = self
            .0
            .connections
            .lend(&options.daemon, request, options.use_substitutes);
        let lent = lent.await;
        let mut lent = lent.map_err(|error| self.call_failed("connect to its daemon", error))?;
        let connection = &mut *lent;
        if connection.daemon().trusted == Some(false) {
            self.0.untrusted.store(true, Ordering::Relaxed);
        }
        let by_content = is_content_addressed(&request.derivation);
        let direct = by_content || !self.is_untrusted();
        let result = match direct {
            true => self.build_derivation(connection, request, log).await,
            false => self.build_file(connection, request, context, log).await,
        };
        let result = match result {
            Err(Trouble::Builder(error)) if direct && !by_content && is_refusal(&error) => {
                self.0.untrusted.store(true, Ordering::Relaxed);
                self.skip_outputs(connection, request).await?;
                self.build_file(connection, request, context, log).await?
            }
            result => result?,
        };
        log.usage = usage(&result);
        if !result.status.is_success() {
            // So that the connection can be used again.
            let _ = self.skip_outputs(connection, request).await;
            return Err(self.unsuccessful(request, &result));
        }
        let made = self.made(connection, request, &result).await?;
        let delivery = self.deliver(connection, request, made).await?;
        Ok(BuildSuccess::new(delivery, log.began.elapsed()).with_usage(log.usage))
    }

    /// Has the daemon build the derivation, which need not be in its store.
    async fn build_derivation(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
        log: &mut Log,
    ) -> Result<BuildResult, Trouble> {
        let derivation = Derivation {
            input_drvs: SortedMap::new(),
            input_srcs: request
                .inputs
                .iter()
                .map(|info| info.path.clone())
                .collect(),
            ..(*request.derivation).clone()
        };
        let call = BuildDerivation {
            path: request.drv_path.clone(),
            derivation,
            mode: BuildMode::Normal,
        };
        let failed = |error| self.call_failed("build", error);
        connection.request(&call).map_err(failed)?;
        // Asked for at once, so that the answer is there when the build has ended.
        self.ask_for_outputs(connection, request)?;
        self.follow(connection, request, log).await?;
        let result = connection.answer::<BuildDerivation>().await;
        Ok(result.map_err(failed)?)
    }

    /// Passes the log on until the build has ended, or exceeds a limit.
    pub(super) async fn follow(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
        log: &mut Log,
    ) -> Result<(), Trouble> {
        loop {
            let message = tokio::select! {
                message = connection.message() => message,
                kind = log.limit() => return Err(kind.into()),
            };
            match message {
                Ok(Some(message)) => log.message(message).await?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.refused(request, error)),
            }
        }
    }

    /// The daemon did not build at all.
    fn refused(&self, request: &BuildRequest, error: CallError) -> Trouble {
        let CallError::Remote(remote) = &error else {
            return self.call_failed("build", error).into();
        };
        let text = remote.to_string();
        let dir = self.0.options.daemon.store_dir();
        if let Some(kind) = understood(dir, request, &text) {
            return kind.into();
        }
        // The inputs are looked up again by the next attempt.
        let lacks_input = text.contains("is not valid") || text.contains("does not exist");
        if lacks_input {
            self.0.inputs.forget();
        }
        match super::outcome::unsupported(&text) {
            true => BuilderError::Unsupported {
                builder: self.name(),
                message: text,
            }
            .into(),
            false => BuilderError::Backend {
                builder: self.name(),
                action: "build".to_owned(),
                retryable: lacks_input,
                source: error.into(),
            }
            .into(),
        }
    }

    /// The build ended without success.
    pub(super) fn unsuccessful(&self, request: &BuildRequest, result: &BuildResult) -> Trouble {
        let dir = self.0.options.daemon.store_dir();
        let text = super::text::plain(&result.error);
        if super::outcome::unsupported(&text) {
            let (builder, message) = (self.name(), text);
            return BuilderError::Unsupported { builder, message }.into();
        }
        match failure_of(dir, request, result.status, &text) {
            Some(kind) => kind.into(),
            None => {
                if text.contains("is not valid") {
                    self.0.inputs.forget();
                }
                self.backend("build", true, text).into()
            }
        }
    }

    /// The metadata of outputs that was asked for with the build.
    pub(super) async fn made(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
        result: &BuildResult,
    ) -> Result<Vec<Made>, Trouble> {
        let dir = self.0.options.daemon.store_dir();
        let failed = |error| self.call_failed("look up outputs", error);
        let planned = request.derivation.output_paths(dir);
        let planned: Vec<_> = planned.map(|(name, path)| (name.clone(), path)).collect();
        let mut made = Vec::with_capacity(planned.len());
        let mut unknown = Vec::new();
        for (name, path) in planned {
            let info = match &path {
                Some(path) => {
                    let info = connection.answer::<QueryPathInfo>().await.map_err(failed)?;
                    info.0.map(|info| info.of(path.clone()))
                }
                None => {
                    unknown.push(name);
                    continue;
                }
            };
            made.push(self.checked(request, name, info)?);
        }
        for name in unknown {
            let Some(realised) = result.built_outputs.get(&name) else {
                let message = format!("it does not say where output '{name}' is");
                return Err(self.backend("deliver outputs", false, message).into());
            };
            let path = realised.path.clone();
            let info = connection.call(&QueryPathInfo { path: path.clone() }).await;
            let info = info.map_err(failed)?.0.map(|info| info.of(path));
            made.push(self.checked(request, name, info)?);
        }
        Ok(made)
    }

    fn known_paths(&self, request: &BuildRequest) -> Vec<nix_compat::store_path::StorePath> {
        let dir = self.0.options.daemon.store_dir();
        let paths = request.derivation.output_paths(dir);
        paths.filter_map(|(_, path)| path).collect()
    }

    /// Asks for the metadata of outputs with known paths, as [`made`](Self::made) expects.
    pub(super) fn ask_for_outputs(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
    ) -> Result<(), BuilderError> {
        for path in self.known_paths(request) {
            let asked = connection.request(&QueryPathInfo { path });
            asked.map_err(|error| self.call_failed("look up outputs", error))?;
        }
        Ok(())
    }
}

impl DaemonBuilder {
    /// Receives what [`ask_for_outputs`](Self::ask_for_outputs) has asked for.
    async fn skip_outputs(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
    ) -> Result<(), BuilderError> {
        for _ in self.known_paths(request) {
            let answer = connection.answer::<QueryPathInfo>().await;
            answer.map_err(|error| self.call_failed("look up outputs", error))?;
        }
        Ok(())
    }
}

/// Whether a daemon builds it for a client that it does not trust: the contents decide the paths.
fn is_content_addressed(derivation: &Derivation) -> bool {
    let mut outputs = derivation.outputs.values();
    outputs.all(|output| {
        matches!(
            output,
            Output::Fixed(_) | Output::Floating { .. } | Output::Impure { .. }
        )
    })
}

/// Whether a daemon builds only content-addressed derivations for this client.
fn is_refusal(error: &BuilderError) -> bool {
    let BuilderError::Backend { source, .. } = error else {
        return false;
    };
    source.to_string().contains("not privileged to build")
}

fn usage(result: &BuildResult) -> Option<ResourceUsage> {
    let (user, system) = (result.cpu_user?, result.cpu_system?);
    Some(ResourceUsage::new(
        Duration::from_micros(user),
        Duration::from_micros(system),
        0,
    ))
}
