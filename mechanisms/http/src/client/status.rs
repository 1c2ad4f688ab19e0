//! Whether a response permits another attempt, and when.

use std::time::{Duration, SystemTime};

/// Whether a response with an error status may be followed by success, as Nix decides it: time-outs
/// (408), too many requests (429) and most errors of the server.
pub(super) fn is_transient_status(status: u16) -> bool {
    match status {
        501 | 505 | 511 => false,
        status => matches!(status, 408 | 429) || status >= 500,
    }
}

/// The wait in the value of a `Retry-After` header: seconds or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_statuses() {
        for (status, transient) in [
            (400, false),
            (404, false),
            (408, true),
            (429, true),
            (500, true),
            (501, false),
            (503, true),
            (505, false),
            (511, false),
            (599, true),
        ] {
            assert_eq!(is_transient_status(status), transient, "{status}");
        }
    }

    #[test]
    fn waits_that_servers_ask_for() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("soon"), None);
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(past), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!(retry_after(&later).is_some_and(|it| it > Duration::from_secs(50)));
    }
}
