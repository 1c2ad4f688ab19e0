//! Arguments of transfers over HTTP(S).

use std::path::{Path, PathBuf};

use clap::Parser;
use tvix_http::TransferSettings;

/// Time limits and retries of transfers, under the names of Nix. A parameter of that name in the URI of a
/// cache takes precedence.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Network")]
pub struct TransferOptions {
    /// Time limit for establishing a connection, in seconds; 0 means no limit [default: 5].
    #[arg(long, value_name = "SECONDS")]
    pub connect_timeout: Option<u32>,

    /// How long a download may receive no data before it is retried, in seconds; 0 means no limit
    /// [default: 300].
    #[arg(long, value_name = "SECONDS")]
    pub stalled_download_timeout: Option<u32>,

    /// How often a download is attempted in total [default: 5].
    #[arg(long, value_name = "COUNT")]
    pub download_attempts: Option<u32>,

    /// `http-connections`.
    #[clap(skip)]
    pub connections: Option<u64>,
}

impl TransferOptions {
    /// The default settings of transfers, changed by these options.
    pub fn settings(&self) -> TransferSettings {
        let mut settings = TransferSettings::default();
        for (name, value) in [
            ("connect-timeout", self.connect_timeout),
            ("stalled-download-timeout", self.stalled_download_timeout),
            ("download-attempts", self.download_attempts),
        ] {
            if let Some(value) = value {
                // The names are known, and any number is valid.
                let _ = settings.set(name, &value.to_string());
            }
        }
        settings
    }
}

/// Access to binary caches over HTTP(S), for commands that do not build.
#[derive(Debug, Clone, Parser)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Credentials per host, in the format of `.netrc`. The file need not exist.
    #[arg(long, value_name = "FILE", default_value = "/etc/nix/netrc")]
    pub netrc_file: PathBuf,

    #[command(flatten)]
    pub transfer: TransferOptions,
}

impl NetworkArgs {
    pub fn network(&self) -> Network<'_> {
        Network {
            netrc: &self.netrc_file,
            transfer: &self.transfer,
        }
    }
}

/// How caches over HTTP(S) are accessed.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    pub netrc: &'a Path,
    pub transfer: &'a TransferOptions,
}
