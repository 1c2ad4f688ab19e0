//! Retries: which failures another attempt may mend, and the pauses between attempts.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

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
}
