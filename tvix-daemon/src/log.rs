//! Messages for a client while an operation runs.

use tvix_worker_protocol::{LogMessage, Verbosity, Version};

use crate::builds::LogSender;

/// Sends messages that the client wants to see. A client that has gone gets nothing; the operation ends otherwise.
#[derive(Debug, Clone)]
pub struct Log {
    sender: LogSender,
    verbosity: Verbosity,
    version: Version,
}

impl Log {
    /// Sends messages up to this verbosity.
    pub fn new(sender: LogSender, verbosity: Verbosity) -> Self {
        let version = Version::new(1, 38);
        Self {
            sender,
            verbosity,
            version,
        }
    }

    /// Sets the version of the protocol, which some texts depend on [default: 1.38].
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// A number of bytes, as the daemon of the client's version shows it.
    #[cfg(feature = "local-fs")]
    pub(crate) fn size(&self, bytes: i64) -> String {
        let mut value = bytes as f64 / 1024.0;
        if self.version < Version::new(1, 38) {
            return format!("{:.2} MiB", value / 1024.0);
        }
        let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
        while let Some(unit) = units.next() {
            if value.abs() < 1024.0 || units.peek().is_none() {
                return format!("{value:.1} {unit}");
            }
            value /= 1024.0;
        }
        String::new()
    }

    /// The note about the space that `.links` saves.
    #[cfg(feature = "local-fs")]
    pub(crate) fn savings(&self, bytes: i64) -> String {
        let size = self.size(bytes);
        match self.version < Version::new(1, 38) {
            true => format!("note: currently hard linking saves {size}"),
            false => format!("note: hard linking is currently saving {size}"),
        }
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
    pub async fn error(&self, text: impl Into<String>) {
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
