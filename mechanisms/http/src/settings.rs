//! Settings of transfers, under the names that Nix gives them.

use std::time::Duration;

use thiserror::Error;

/// Time limits and retries of transfers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferSettings {
    /// How long a connection may take to be made, name resolution included; `None` is no limit.
    /// Default: 5 seconds.
    pub connect_timeout: Option<Duration>,
    /// How long a transfer may receive nothing; `None` is no limit. Default: 300 seconds.
    pub stalled_download_timeout: Option<Duration>,
    /// How often a transfer is attempted in all, at least once. Default: 5.
    pub download_attempts: u32,
    /// How long a server that has not answered anything yet may take to answer. Default: 10
    /// seconds.
    pub answer_timeout: Duration,
    /// The pause before the second attempt. It doubles with each further one, and half of it is
    /// random. Default: 250 milliseconds.
    pub first_pause: Duration,
    /// The longest pause of our own choice. Default: 10 seconds.
    pub longest_pause: Duration,
    /// The longest pause that a server may ask for (`Retry-After`); a transfer that would have to
    /// wait longer fails at once. Default: 30 seconds.
    pub longest_wait: Duration,
}

impl Default for TransferSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Some(Duration::from_secs(5)),
            stalled_download_timeout: Some(Duration::from_secs(300)),
            download_attempts: 5,
            answer_timeout: Duration::from_secs(10),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            longest_wait: Duration::from_secs(30),
        }
    }
}

/// Why a setting cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingError {
    /// There is no setting of this name.
    #[error("unknown setting '{name}'")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The value is not one of the setting.
    #[error("setting '{name}' has invalid value '{value}', expected {expected}")]
    Invalid {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// A description of valid values.
        expected: &'static str,
    },
}

impl SettingError {
    /// The error for a value that `name` cannot have.
    pub fn invalid(name: &str, value: &str, expected: &'static str) -> Self {
        Self::Invalid {
            name: name.to_owned(),
            value: value.to_owned(),
            expected,
        }
    }
}

impl TransferSettings {
    /// Sets how long a connection may take to be made.
    #[must_use]
    pub fn with_connect_timeout(mut self, connect_timeout: impl Into<Option<Duration>>) -> Self {
        self.connect_timeout = connect_timeout.into();
        self
    }

    /// Sets how long a transfer may receive nothing.
    #[must_use]
    pub fn with_stalled_download_timeout(
        mut self,
        stalled_download_timeout: impl Into<Option<Duration>>,
    ) -> Self {
        self.stalled_download_timeout = stalled_download_timeout.into();
        self
    }

    /// Sets how often a transfer is attempted in all.
    #[must_use]
    pub fn with_download_attempts(mut self, download_attempts: u32) -> Self {
        self.download_attempts = download_attempts;
        self
    }

    /// Sets how long a server may take to answer first.
    #[must_use]
    pub fn with_answer_timeout(mut self, answer_timeout: Duration) -> Self {
        self.answer_timeout = answer_timeout;
        self
    }

    /// Sets the pause before the second attempt.
    #[must_use]
    pub fn with_first_pause(mut self, first_pause: Duration) -> Self {
        self.first_pause = first_pause;
        self
    }

    /// Sets the longest pause of our own choice.
    #[must_use]
    pub fn with_longest_pause(mut self, longest_pause: Duration) -> Self {
        self.longest_pause = longest_pause;
        self
    }

    /// Sets the longest pause that a server may ask for.
    #[must_use]
    pub fn with_longest_wait(mut self, longest_wait: Duration) -> Self {
        self.longest_wait = longest_wait;
        self
    }
}

impl TransferSettings {
    /// The names that [`set`](Self::set) knows.
    pub const NAMES: [&str; 3] = [
        "connect-timeout",
        "stalled-download-timeout",
        "download-attempts",
    ];

    /// Sets the setting that Nix calls `name`: `connect-timeout` and `stalled-download-timeout` in
    /// seconds, where 0 is no limit, and `download-attempts`.
    ///
    /// # Errors
    ///
    /// [`SettingError`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let number = |expected| {
            let number = value.trim().parse::<u32>();
            number.map_err(|_| SettingError::invalid(name, value, expected))
        };
        let seconds = || {
            let seconds = number("a number of seconds")?;
            Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
        };
        match name {
            "connect-timeout" => self.connect_timeout = seconds()?,
            "stalled-download-timeout" => self.stalled_download_timeout = seconds()?,
            "download-attempts" => self.download_attempts = number("a number")?,
            _ => return Err(SettingError::Unknown { name: name.into() }),
        }
        Ok(())
    }

    /// How long a server that has not answered anything yet may take to do so.
    pub fn first_answer(&self) -> Duration {
        let stalled = self.stalled_download_timeout;
        stalled.map_or(self.answer_timeout, |limit| limit.min(self.answer_timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        let mut settings = TransferSettings::default();
        for name in TransferSettings::NAMES {
            settings.set(name, "7").unwrap();
            for bad in ["", "x", "-1", "1.5", "5s", "99999999999"] {
                let error = settings.set(name, bad).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        let seven = Some(Duration::from_secs(7));
        assert_eq!(settings.connect_timeout, seven);
        assert_eq!(settings.stalled_download_timeout, seven);
        assert_eq!(settings.download_attempts, 7);
        assert_eq!(settings.first_answer(), Duration::from_secs(7));
        settings.set("connect-timeout", "0").unwrap();
        settings.set("stalled-download-timeout", "0").unwrap();
        assert_eq!(settings.connect_timeout, None);
        assert_eq!(settings.first_answer(), Duration::from_secs(10));
        let error = settings.set("conect-timeout", "7").unwrap_err();
        assert_eq!(error.to_string(), "unknown setting 'conect-timeout'");
    }
}
