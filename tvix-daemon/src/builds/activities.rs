//! Activities of builds and substitutions, as Nix reports them to clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bstr::BString;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_worker_protocol::{
    Activity, ActivityResult, ActivityType, Field, LogMessage, ResultType, Verbosity,
};

use super::LogSender;
use super::log_lines::LineParts;

/// Numbers of activities are unique in the process, and so on each connection.
static LAST: AtomicU64 = AtomicU64::new(0);

fn next_id() -> u64 {
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    (u64::from(std::process::id()) << 32) | (number & 0xffff_ffff)
}

fn text(text: impl Into<BString>) -> Field {
    Field::Text(text.into())
}

/// Done, expected, running, failed.
type Progress = [u64; 4];

/// The activities of one operation. A client that has gone gets nothing.
#[derive(Debug)]
pub(super) struct Activities {
    sender: LogSender,
    verbosity: Verbosity,
    /// Whether texts are those of Nix 2.8.
    pub old: bool,
    realise: u64,
    builds: u64,
    copies: u64,
    build_progress: Progress,
    copy_progress: Progress,
    /// As last sent.
    sent: Option<(Progress, Progress)>,
    running: HashMap<u64, Running>,
}

#[derive(Debug)]
struct Running {
    id: u64,
    parts: LineParts,
}

/// A substitution under way.
#[derive(Debug)]
pub(super) struct Copy {
    substitute: u64,
    copy: u64,
}

impl Activities {
    /// Begins the activity of an operation that makes paths valid.
    pub async fn begin(sender: LogSender, verbosity: Verbosity) -> Self {
        let mut activities = Self {
            sender,
            verbosity,
            old: false,
            realise: next_id(),
            builds: next_id(),
            copies: next_id(),
            build_progress: [0; 4],
            copy_progress: [0; 4],
            sent: None,
            running: HashMap::new(),
        };
        for (id, kind) in [
            (activities.realise, ActivityType::Realise),
            (activities.builds, ActivityType::Builds),
            (activities.copies, ActivityType::CopyPaths),
        ] {
            activities
                .start(id, Verbosity::Error, kind, "", Vec::new(), 0)
                .await;
        }
        activities.send_progress().await;
        activities
    }

    async fn send(&self, message: LogMessage) {
        let _ = self.sender.send(message).await;
    }

    async fn start(
        &self,
        id: u64,
        level: Verbosity,
        kind: ActivityType,
        text: impl Into<BString>,
        fields: Vec<Field>,
        parent: u64,
    ) {
        self.send(LogMessage::StartActivity(Activity {
            id,
            level,
            kind,
            text: text.into(),
            fields,
            parent,
        }))
        .await;
    }

    async fn result(&self, id: u64, kind: ResultType, fields: Vec<Field>) {
        self.send(LogMessage::Result(ActivityResult { id, kind, fields }))
            .await;
    }

    async fn send_progress(&mut self) {
        let now = (self.build_progress, self.copy_progress);
        let before = self.sent.replace(now);
        let numbers = |progress: Progress| progress.into_iter().map(Field::Number).collect();
        if before.is_none_or(|before| before.0 != now.0) {
            self.result(self.builds, ResultType::Progress, numbers(now.0))
                .await;
        }
        if before.is_none_or(|before| before.1 != now.1) {
            self.result(self.copies, ResultType::Progress, numbers(now.1))
                .await;
        }
    }

    /// Sets how many builds and substitutions are expected, and their sizes in bytes.
    pub async fn expect(&mut self, builds: u64, copies: u64, download: u64, nar: u64) {
        self.build_progress[1] = builds;
        self.copy_progress[1] = copies;
        self.send_progress().await;
        // The numbers of the kinds of activities: transfers of files, copies of paths.
        for (kind, size) in [(101, download), (100, nar)] {
            let fields = vec![Field::Number(kind), Field::Number(size)];
            self.result(self.realise, ResultType::SetExpected, fields)
                .await;
        }
    }

    /// Ends everything.
    pub async fn end(mut self) {
        let running: Vec<u64> = self.running.drain().map(|(_, it)| it.id).collect();
        for id in running
            .into_iter()
            .chain([self.copies, self.builds, self.realise])
        {
            self.send(LogMessage::StopActivity(id)).await;
        }
    }

    /// A message that does not belong to an activity, if the client wants messages of its importance. It ends with
    /// a newline.
    pub async fn message(&self, level: Verbosity, text: impl Into<BString>) {
        if level <= self.verbosity {
            self.send(LogMessage::Next(text.into())).await;
        }
    }

    /// Whether a build's activity has begun.
    pub fn is_running(&self, build: u64) -> bool {
        self.running.contains_key(&build)
    }

    /// A build begins. `machine` is empty for this one.
    pub async fn build_started(&mut self, build: u64, drv: &str, machine: &str, is_check: bool) {
        let mut description = match is_check {
            true => format!("checking outputs of '{drv}'"),
            false => format!("building '{drv}'"),
        };
        if !machine.is_empty() {
            description.push_str(&format!(" on '{machine}'"));
        }
        let id = next_id();
        let fields = vec![text(drv), text(machine), Field::Number(1), Field::Number(1)];
        self.start(
            id,
            Verbosity::Info,
            ActivityType::Build,
            description,
            fields,
            0,
        )
        .await;
        let parts = LineParts::new(self.old);
        self.running.insert(build, Running { id, parts });
        self.build_progress[2] += 1;
        self.build_progress[1] =
            self.build_progress[1].max(self.build_progress[0] + self.build_progress[2]);
        self.send_progress().await;
    }

    /// A line of a build's log.
    pub async fn log_line(&mut self, build: u64, line: &[u8], partial: bool) {
        let Some(running) = self.running.get_mut(&build) else {
            return;
        };
        let id = running.id;
        for part in running.parts.line(line, partial, id, next_id) {
            match part {
                super::log_lines::Part::Message(level, text) => self.message(level, text).await,
                super::log_lines::Part::Send(message) => self.send(message).await,
            }
        }
    }

    /// A build ended. Nothing happens if its activity had not begun.
    pub async fn build_ended(&mut self, build: u64, success: bool) {
        let Some(mut running) = self.running.remove(&build) else {
            return;
        };
        for part in running.parts.end(running.id) {
            self.send(part).await;
        }
        self.build_progress[2] = self.build_progress[2].saturating_sub(1);
        self.build_progress[if success { 0 } else { 3 }] += 1;
        self.send_progress().await;
        self.send(LogMessage::StopActivity(running.id)).await;
    }

    /// A build is over without a result, as it is tried again or nothing needs it.
    pub async fn build_dropped(&mut self, build: u64) {
        if let Some(running) = self.running.remove(&build) {
            self.build_progress[2] = self.build_progress[2].saturating_sub(1);
            self.send_progress().await;
            self.send(LogMessage::StopActivity(running.id)).await;
        }
    }

    /// A substitution begins.
    pub async fn copy_started(
        &mut self,
        dir: &StoreDir,
        path: &StorePath,
        substituter: &str,
    ) -> Copy {
        self.copy_progress[2] += 1;
        self.copy_progress[1] =
            self.copy_progress[1].max(self.copy_progress[0] + self.copy_progress[2]);
        self.send_progress().await;
        let path = dir.path_text(path);
        let copy = Copy {
            substitute: next_id(),
            copy: next_id(),
        };
        let fields = vec![text(path.as_str()), text(substituter)];
        let kind = ActivityType::Substitute;
        self.start(copy.substitute, Verbosity::Error, kind, "", fields, 0)
            .await;
        let description = format!("copying path '{path}' from '{substituter}'");
        let fields = vec![text(path), text(substituter), text("local")];
        self.start(
            copy.copy,
            Verbosity::Info,
            ActivityType::CopyPath,
            description,
            fields,
            copy.substitute,
        )
        .await;
        copy
    }

    /// A substitution ended. `size` is that of the NAR in bytes.
    pub async fn copy_ended(&mut self, copy: Copy, success: bool, size: u64) {
        if success {
            let progress = [size, size, 0, 0].map(Field::Number).to_vec();
            self.result(copy.copy, ResultType::Progress, progress).await;
        }
        self.send(LogMessage::StopActivity(copy.copy)).await;
        self.send(LogMessage::StopActivity(copy.substitute)).await;
        self.copy_progress[2] = self.copy_progress[2].saturating_sub(1);
        self.copy_progress[if success { 0 } else { 3 }] += 1;
        self.send_progress().await;
    }
}

impl Activities {
    /// A post-build hook begins.
    pub async fn hook_started(&self, drv: &str, program: &str) -> Hook {
        let hook = Hook(next_id());
        let description = format!("running post-build-hook '{program}'");
        let level = match self.old {
            true => Verbosity::Info,
            false => Verbosity::Talkative,
        };
        let kind = ActivityType::PostBuildHook;
        self.start(hook.0, level, kind, description, vec![text(drv)], 0)
            .await;
        hook
    }

    /// A line that a post-build hook wrote.
    pub async fn hook_line(&self, hook: &Hook, line: &[u8]) {
        self.result(hook.0, ResultType::PostBuildLogLine, vec![text(line)])
            .await;
    }

    /// A post-build hook ended.
    pub async fn hook_ended(&self, hook: Hook) {
        self.send(LogMessage::StopActivity(hook.0)).await;
    }
}

/// The activity of a post-build hook.
#[derive(Debug)]
pub(super) struct Hook(u64);

/// An activity without results that lasts until [`Single::end`].
#[derive(Debug)]
pub(super) struct Single {
    sender: LogSender,
    id: u64,
}

impl Single {
    pub async fn begin(
        sender: LogSender,
        level: Verbosity,
        kind: ActivityType,
        description: impl Into<BString>,
        fields: Vec<Field>,
    ) -> Self {
        let id = next_id();
        let activity = Activity {
            id,
            level,
            kind,
            text: description.into(),
            fields,
            parent: 0,
        };
        let _ = sender.send(LogMessage::StartActivity(activity)).await;
        Self { sender, id }
    }

    /// A query of a substituter for a path.
    pub async fn query(sender: LogSender, path: &str, substituter: &str) -> Self {
        let description = format!("querying info about '{path}' on '{substituter}'");
        let fields = vec![text(path), text(substituter)];
        let kind = ActivityType::QueryPathInfo;
        Self::begin(sender, Verbosity::Talkative, kind, description, fields).await
    }

    pub async fn end(self) {
        let _ = self.sender.send(LogMessage::StopActivity(self.id)).await;
    }
}
