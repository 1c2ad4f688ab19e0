//! Reasons why a server cannot be reached, in a few words.

use std::error::Error;
use std::io;
use std::time::Duration;

/// Why no connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreachable {
    /// The reason, as in "name or service not known".
    pub reason: String,
    /// Attempts that make sense in all: a name that is not known will not be known in a second, and
    /// a server that does not answer costs a time limit each time.
    pub attempts: u32,
    /// Whether a connection was made, and nothing was answered.
    pub silent: bool,
}

impl Unreachable {
    /// The reason in a chain of errors that ends a failed connection. The innermost error tells
    /// most.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut reason = error.to_string();
        let mut kind = None;
        let mut next = Some(error);
        let mut depth = 0;
        while let Some(error) = next.filter(|_| depth < 16) {
            depth += 1;
            let text = error.to_string();
            if !text.is_empty() {
                reason = text;
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                kind = Some(error.kind());
                // What an `io::Error` wraps is not its source.
                if let Some(inner) = error.get_ref() {
                    next = Some(inner);
                    continue;
                }
            }
            next = error.source();
        }
        Self::new(reason, kind)
    }

    fn new(reason: String, kind: Option<io::ErrorKind>) -> Self {
        const LOOKUP: &str = "failed to lookup address information: ";
        let (named, reason) = match reason.strip_prefix(LOOKUP) {
            Some(rest) => (true, rest.to_owned()),
            None => (false, reason),
        };
        // The number of the system's error says nothing more.
        let reason = match reason.rfind(" (os error ") {
            Some(end) => reason[..end].to_owned(),
            None => reason,
        };
        // Clients have words of their own for it.
        let late = ["operation timed out", "deadline has elapsed"].contains(&reason.as_str());
        let late = late || kind == Some(io::ErrorKind::TimedOut);
        let reason = if late {
            "connection timed out".to_owned()
        } else {
            reason
        };
        let temporary = reason.contains("emporary failure");
        let attempts = match kind {
            _ if named && temporary => 2,
            _ if named => 1,
            _ if late => 2,
            Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => 1,
            _ => 3,
        };
        let mut letters = reason.chars();
        let reason = match letters.next() {
            Some(first)
                if !letters
                    .as_str()
                    .starts_with(|it: char| it.is_ascii_uppercase()) =>
            {
                first.to_lowercase().chain(letters).collect()
            }
            _ => reason,
        };
        Self {
            reason,
            attempts,
            silent: false,
        }
    }

    /// A server that accepts a request for `file` and sends nothing within a time limit.
    pub fn silent(file: &str, limit: Duration) -> Self {
        Self {
            reason: format!("no answer for '{file}' within {} s", limit.as_secs_f64()),
            attempts: 2,
            silent: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Outer(#[source] io::Error);

    #[test]
    fn reasons() {
        let lookup = "failed to lookup address information: Name or service not known";
        let error = Outer(io::Error::other(lookup));
        let found = Unreachable::of(&error);
        assert_eq!(found.reason, "name or service not known");
        assert_eq!(found.attempts, 1);
        let later = "failed to lookup address information: Temporary failure in name resolution";
        let found = Unreachable::of(&io::Error::other(later));
        assert_eq!(
            (found.reason.as_str(), found.attempts),
            ("temporary failure in name resolution", 2)
        );
        let refused = Outer(io::Error::from_raw_os_error(111));
        let found = Unreachable::of(&refused);
        assert_eq!(
            (found.reason.as_str(), found.attempts),
            ("connection refused", 3)
        );
        for late in [
            io::Error::new(io::ErrorKind::TimedOut, "deadline has elapsed"),
            io::Error::from_raw_os_error(110),
            io::Error::other("operation timed out"),
        ] {
            let found = Unreachable::of(&Outer(late));
            assert_eq!(
                (found.reason.as_str(), found.attempts),
                ("connection timed out", 2)
            );
        }
        let tls = io::Error::new(
            io::ErrorKind::InvalidData,
            "invalid peer certificate: UnknownIssuer",
        );
        let found = Unreachable::of(&Outer(tls));
        assert_eq!(found.attempts, 1);
        assert_eq!(found.reason, "invalid peer certificate: UnknownIssuer");
    }
}
