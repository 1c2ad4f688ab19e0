//! Log lines on their way from a builder to whoever shows or keeps them.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;

/// A line of a build's log, without the newline. Not always UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which build it is of: the tag of the [`LogSender`].
    pub build: u64,
    /// The line.
    pub text: Bytes,
}

/// Where the lines of several builds arrive.
pub type LogReceiver = mpsc::Receiver<LogLine>;

/// Where a build sends its log lines. Bounded: who does not read slows the build down; who
/// dropped the receiver does not.
#[derive(Debug, Clone)]
pub struct LogSender {
    sender: Option<mpsc::Sender<LogLine>>,
    build: u64,
}

/// A channel for log lines that holds at most `capacity` of them.
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
    /// A sender whose lines go nowhere.
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

    /// Sends a line, and waits while the channel is full. Dropping the future sends nothing.
    pub async fn send(&self, text: impl Into<Bytes>) {
        if let Some(sender) = &self.sender {
            // Nobody reads any more: the line is not needed.
            let _ = sender
                .send(LogLine {
                    build: self.build,
                    text: text.into(),
                })
                .await;
        }
    }
}

/// How many lines of log a failure keeps.
const TAIL_LINES: usize = 25;

/// No line of the tail is longer, in bytes.
const TAIL_LINE_LIMIT: usize = 4096;

/// The last lines of a log.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<Bytes>);

impl Tail {
    /// One more line.
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
