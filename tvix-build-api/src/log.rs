//! Channels for the log lines of builds.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

/// A line of a build log, without the newline. Not necessarily UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The build: the tag of its [`LogSender`].
    pub build: u64,
    /// The line.
    pub text: Bytes,
}

/// Receives the lines of several builds.
pub type LogReceiver = mpsc::Receiver<LogLine>;

/// Sends the log lines of a build. Bounded: a slow reader applies back-pressure; a dropped receiver
/// does not.
#[derive(Debug, Clone)]
pub struct LogSender {
    sender: Option<mpsc::Sender<LogLine>>,
    build: u64,
}

/// A channel for log lines with room for `capacity` lines.
pub fn log_channel(capacity: usize) -> (LogSender, LogReceiver) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (
        LogSender {
            sender: Some(sender),
            build: 0,
        },
        receiver,
    )
}

impl LogSender {
    /// A sender that discards all lines.
    pub const fn discard() -> Self {
        Self {
            sender: None,
            build: 0,
        }
    }

    /// The same channel, for the lines of another build.
    pub fn tagged(&self, build: u64) -> Self {
        Self {
            sender: self.sender.clone(),
            build,
        }
    }

    /// Sends a line; waits while the channel is full. If the future is dropped before it completes,
    /// the line is not sent.
    pub async fn send(&self, text: impl Into<Bytes>) {
        if let Some(sender) = &self.sender {
            // A dropped receiver discards the line.
            let _ = sender
                .send(LogLine {
                    build: self.build,
                    text: text.into(),
                })
                .await;
        }
    }
}

/// Number of log lines that a failure keeps.
const TAIL_LINES: usize = 25;

/// Length limit of a line in the tail, in bytes.
const TAIL_LINE_LIMIT: usize = 4096;

/// The last lines of a log.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<Bytes>);

impl Tail {
    /// Adds a line.
    pub fn push(&mut self, line: &Bytes) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.clone());
    }

    /// The lines as text, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        let lines = self.0.into_iter();
        lines
            .map(|line| {
                let shown = &line[..line.len().min(TAIL_LINE_LIMIT)];
                String::from_utf8_lossy(shown).into_owned()
            })
            .collect()
    }
}
