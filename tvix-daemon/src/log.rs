//! Messages for a client while an operation runs.

use tvix_worker_protocol::{LogMessage, Verbosity};

use crate::builds::LogSender;

/// Sends messages that the client wants to see. A client that has gone gets nothing; the operation ends otherwise.
#[derive(Debug, Clone)]
pub struct Log {
    sender: LogSender,
    verbosity: Verbosity,
}

impl Log {
    /// Sends messages up to this verbosity.
    pub fn new(sender: LogSender, verbosity: Verbosity) -> Self {
        Self { sender, verbosity }
    }

    /// A line, if the client wants lines of this importance.
    pub async fn line(&self, level: Verbosity, text: impl Into<String>) {
        if level <= self.verbosity {
            let mut text = text.into();
            text.push('\n');
            let _ = self.sender.send(LogMessage::Next(text.into())).await;
        }
    }

    /// Information, shown by default.
    pub async fn info(&self, text: impl Into<String>) {
        self.line(Verbosity::Info, text).await;
    }

    /// An error that does not end the operation.
    pub async fn error(&self, text: impl AsRef<str>) {
        let text = format!("error: {}", text.as_ref());
        self.line(Verbosity::Error, text).await;
    }

    /// A warning.
    pub async fn warning(&self, text: impl AsRef<str>) {
        let text = format!("warning: {}", text.as_ref());
        self.line(Verbosity::Warn, text).await;
    }

    /// Where messages go.
    pub fn sender(&self) -> &LogSender {
        &self.sender
    }
}
