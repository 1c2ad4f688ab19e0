//! The task of a built-in builder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bstr::ByteSlice as _;
use serde::{Deserialize, Serialize};
use tvix_http::TransferSettings;

use crate::translate::Translation;

/// The name of the task file.
pub(super) const FILE: &str = "task.json";

/// An error message, which becomes the last line of the log.
pub(super) type Complaint = Box<dyn std::error::Error + Send + Sync>;

/// The task of a built-in builder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub builder: String,
    attributes: BTreeMap<String, String>,
    pub netrc: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub transfer: Transfer,
}

/// The settings of transfers that users can change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Transfer {
    connect_timeout: Option<Duration>,
    stalled_download_timeout: Option<Duration>,
    download_attempts: u32,
}

impl From<&TransferSettings> for Transfer {
    fn from(settings: &TransferSettings) -> Self {
        Self {
            connect_timeout: settings.connect_timeout,
            stalled_download_timeout: settings.stalled_download_timeout,
            download_attempts: settings.download_attempts,
        }
    }
}

impl Transfer {
    pub fn settings(&self) -> TransferSettings {
        let mut settings = TransferSettings::default();
        settings.connect_timeout = self.connect_timeout;
        settings.stalled_download_timeout = self.stalled_download_timeout;
        settings.download_attempts = self.download_attempts;
        settings
    }
}

impl Task {
    pub fn new(
        builder: String,
        translation: &Translation,
        netrc: Option<String>,
        transfer: &TransferSettings,
    ) -> Self {
        let attributes = translation.env.iter();
        let attributes = attributes.map(|(name, value)| {
            let text = |bytes: &bstr::BString| bytes.to_str_lossy().into_owned();
            (text(name), text(value))
        });
        Self {
            builder,
            attributes: attributes.collect(),
            netrc,
            ca_file: None,
            transfer: transfer.into(),
        }
    }

    /// An attribute of the derivation.
    pub fn attribute(&self, name: &str) -> Result<&str, Complaint> {
        let value = self.attributes.get(name);
        let missing = || format!("attribute '{name}' missing").into();
        value.map(String::as_str).ok_or_else(missing)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.attribute(name).is_ok_and(|value| value == "1")
    }

    /// The path of the output.
    pub fn output(&self) -> Result<&Path, Complaint> {
        self.attribute("out").map(Path::new)
    }

    #[cfg(test)]
    pub fn with(attributes: &[(&str, &str)]) -> Self {
        let owned = attributes.iter();
        let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            builder: String::new(),
            attributes: owned.collect(),
            netrc: None,
            ca_file: None,
            transfer: (&TransferSettings::default()).into(),
        }
    }
}
