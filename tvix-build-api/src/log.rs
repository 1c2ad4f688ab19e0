//! Channels for the log lines of builds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

/// A line of a build log, or a piece of one. Not necessarily UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// The build: the tag of its [`LogSender`].
    pub build: u64,
    /// The line, without the newline.
    pub text: Bytes,
    /// Whether no newline follows: the line goes on with the next one, or the log ends here.
    pub partial: bool,
}

/// Receives the lines of several builds.
pub type LogReceiver = mpsc::Receiver<LogLine>;

/// A change of log lines on their way: [`LogSender::map`].
type Map = Arc<dyn Fn(Bytes) -> Option<Bytes> + Send + Sync>;

/// Sends the log lines of a build. Bounded: a slow reader applies back-pressure; a dropped receiver
/// does not.
#[derive(Clone)]
pub struct LogSender {
    sender: Option<mpsc::Sender<LogLine>>,
    build: u64,
    map: Option<Map>,
}

/// A channel for log lines with room for `capacity` lines.
pub fn log_channel(capacity: usize) -> (LogSender, LogReceiver) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (
        LogSender {
            sender: Some(sender),
            build: 0,
            map: None,
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
            map: None,
        }
    }

    /// The same channel, for the lines of another build.
    pub fn tagged(&self, build: u64) -> Self {
        Self {
            sender: self.sender.clone(),
            build,
            map: self.map.clone(),
        }
    }

    /// A sender to the same channel that changes each line first, or drops it where `map` returns
    /// `None`: for builders that wrap another one.
    ///
    /// ```
    /// use tvix_build_api::log_channel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (sender, mut receiver) = log_channel(8);
    /// let sender = sender.map(|line| Some([b"remote: ", &line[..]].concat().into()));
    /// sender.send("compiling").await;
    /// assert_eq!(receiver.recv().await.unwrap().text, "remote: compiling");
    /// # }
    /// ```
    #[must_use]
    pub fn map(&self, map: impl Fn(Bytes) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        let before = self.map.clone();
        let both = move |line| {
            let line = map(line)?;
            match &before {
                Some(before) => before(line),
                None => Some(line),
            }
        };
        Self {
            map: Some(Arc::new(both)),
            ..self.clone()
        }
    }

    /// Sends a line; waits while the channel is full. If the future is dropped before it completes,
    /// the line is not sent.
    pub async fn send(&self, text: impl Into<Bytes>) {
        self.send_line(text.into(), false).await;
    }

    /// Sends the beginning or middle of a line that goes on with the next call, or the last line of
    /// a log that does not end with a newline. Waits, and is cancelled, like [`LogSender::send`].
    pub async fn send_partial(&self, text: impl Into<Bytes>) {
        self.send_line(text.into(), true).await;
    }

    async fn send_line(&self, text: Bytes, partial: bool) {
        let text = match &self.map {
            Some(map) => map(text),
            None => Some(text),
        };
        if let (Some(sender), Some(text)) = (&self.sender, text) {
            // A dropped receiver discards the line.
            let _ = sender
                .send(LogLine {
                    build: self.build,
                    text,
                    partial,
                })
                .await;
        }
    }
}

impl fmt::Debug for LogSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSender")
            .field("build", &self.build)
            .field("discards", &self.sender.is_none())
            .finish_non_exhaustive()
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
