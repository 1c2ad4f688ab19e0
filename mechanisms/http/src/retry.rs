//! Retries: which failures another attempt may mend, and the pauses between attempts.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime};

use crate::TransferSettings;

/// Bytes received since the start that justify one attempt more of a transfer that breaks off.
const WORTH_AN_ATTEMPT: u64 = 4 * 1024 * 1024;

impl TransferSettings {
    /// The pause after `failed` failed attempts. It doubles with each failure, and half of it is
    /// random, so that clients that a server turned away do not return at once. `not_before` is the
    /// wait that the server demands; `None` if that exceeds [`longest_wait`](Self::longest_wait).
    pub fn pause(&self, failed: u32, not_before: Option<Duration>) -> Option<Duration> {
        let factor = 1u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let pause = self.first_pause.saturating_mul(factor);
        let pause = pause.min(self.longest_pause);
        let random = RandomState::new().build_hasher().finish() % 1024;
        let pause = pause / 2 + pause.mul_f64(random as f64 / 2048.0);
        match not_before {
            Some(wait) if wait > self.longest_wait => None,
            Some(wait) => Some(pause.max(wait)),
            None => Some(pause),
        }
    }

    /// Attempts of a transfer of which `received` bytes have arrived, when a single request gets
    /// `attempts`.
    pub fn attempts_of_transfer(attempts: u32, received: u64) -> u64 {
        u64::from(attempts) + received / WORTH_AN_ATTEMPT
    }
}

/// Whether a response with an error status may be followed by success, as Nix decides it: time-outs
/// (408), too many requests (429) and most errors of the server.
pub fn is_transient_status(status: u16) -> bool {
    match status {
        501 | 505 | 511 => false,
        status => matches!(status, 408 | 429) || status >= 500,
    }
}

/// The wait in the value of a `Retry-After` header: seconds or a date.
pub fn retry_after(value: &str) -> Option<Duration> {
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
    fn pauses_grow_and_end() {
        let settings = TransferSettings::default();
        for failed in 1..100 {
            let pause = settings.pause(failed, None).unwrap();
            assert!(pause <= settings.longest_pause, "{failed}: {pause:?}");
            assert!(pause >= settings.first_pause / 2, "{failed}: {pause:?}");
        }
        assert!(settings.pause(9, None) >= Some(settings.longest_pause / 2));
        let wait = |seconds| settings.pause(1, Some(Duration::from_secs(seconds)));
        assert_eq!(wait(30), Some(Duration::from_secs(30)));
        assert_eq!(wait(31), None);
    }

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
