//! Arguments about stores, substituters, builds and their display.

use std::path::PathBuf;

use clap::{ArgAction, Parser};
use nix_compat::signature::VerifyingKey;
use tvix_build_api::sandbox::SandboxPath;
use tvix_store_api::StoreUri;

use super::network::{Network, TransferOptions};
use crate::settings::value::parse_jobs;

/// The cache that is a substituter by default, as in Nix.
pub const DEFAULT_SUBSTITUTER: &str = "https://cache.nixos.org/";

/// The key of that cache.
pub const DEFAULT_PUBLIC_KEY: &str =
    "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Binary caches and other stores that outputs are fetched from.
#[derive(Debug, Clone, Parser)]
#[command(next_help_heading = "Stores and caches")]
pub struct SubstituteArgs {
    /// Store to fetch outputs from instead of building them: a binary cache (`https://…`, `file://…`,
    /// `s3://…`) or a path with a slash; may be repeated. Caches are queried in the order of the priority they
    /// advertise.
    #[arg(
        long = "substituter",
        value_name = "URI",
        default_value = DEFAULT_SUBSTITUTER
    )]
    pub substituters: Vec<StoreUri>,

    /// Public key to trust, as `NAME:BASE64`; may be repeated. Paths from a cache must be signed by a
    /// trusted key or be content-addressed.
    #[arg(
        long = "trusted-public-key",
        value_name = "KEY",
        default_value = DEFAULT_PUBLIC_KEY
    )]
    pub trusted_public_keys: Vec<VerifyingKey>,

    /// Build everything that is not in the store; do not query substituters.
    #[arg(long)]
    pub no_substitute: bool,

    /// Ask substituters again about what they are remembered to have or not to have, and check whether downloads of
    /// the evaluation have changed.
    #[arg(long)]
    pub refresh: bool,

    /// Settings without an option of their own.
    #[clap(skip)]
    pub more: TransferSettings,
}

/// Settings of downloads that have no option of their own.
#[derive(Debug, Clone, Default)]
pub struct TransferSettings {
    /// `require-sigs = false`.
    pub unsigned: bool,
    /// `max-substitution-jobs`.
    pub max_substitution_jobs: Option<usize>,
    /// `narinfo-cache-positive-ttl`, in seconds.
    pub positive_ttl: Option<u64>,
    /// `narinfo-cache-negative-ttl`, in seconds.
    pub negative_ttl: Option<u64>,
    /// `narinfo-cache-meta-ttl`, in seconds.
    pub info_ttl: Option<u64>,
}

/// Where and how to build.
#[derive(Debug, Clone, Parser)]
pub struct BuildingArgs {
    /// Store to read and to add to: a path for the store below that directory, `local` for the
    /// system's, or a Nix daemon (`daemon`, `unix://SOCKET?root=DIR`, `ssh-ng://HOST`). `auto` is the
    /// system's store if you can write to it, otherwise its daemon if it runs, otherwise
    /// ~/.local/share/nix/root [default: NIX_REMOTE, or `auto`].
    #[arg(long, value_name = "URI", help_heading = "Stores and caches")]
    pub store: Option<StoreUri>,

    #[command(flatten)]
    pub substitute: SubstituteArgs,

    /// Number of builds to run on this machine at the same time: `auto` for the number of processors, 0 to build
    /// only on remote machines [default: auto].
    #[arg(long, short = 'j', value_name = "N", value_parser = parse_jobs, help_heading = "Builds")]
    pub max_jobs: Option<u16>,

    /// Remote machines to build on, in the format of `/etc/nix/machines`, separated by `;`: URI, systems, SSH
    /// key, number of jobs, speed factor, features, mandatory features and host key, of which all but the URI
    /// may be `-` or omitted; or `@FILE`. Default: the setting `builders`, which is `@/etc/nix/machines`.
    #[arg(
        long,
        value_name = "MACHINES",
        allow_hyphen_values = true,
        help_heading = "Builds"
    )]
    pub builders: Option<String>,

    /// Let remote machines fetch inputs from their own substituters instead of sending everything to them.
    #[arg(long, help_heading = "Builds")]
    pub builders_use_substitutes: bool,

    /// Number of processors a build may use, passed to builders as NIX_BUILD_CORES; 0 means all.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Builds")]
    pub cores: usize,

    /// Keep the build directories of failed builds; the log of the build names the place.
    #[arg(long, short = 'K', help_heading = "Builds")]
    pub keep_failed: bool,

    /// Declare a feature of this machine that derivations may require, besides `benchmark`, `big-parallel`,
    /// `nixos-test` and, where available, `kvm`; may be repeated.
    #[arg(
        long = "system-feature",
        value_name = "FEATURE",
        help_heading = "Builds"
    )]
    pub system_features: Vec<String>,

    /// Declare a further system that this machine can build for, besides its own, `i686-linux` and the levels
    /// of its processor (such as `x86_64-v3-linux`); may be repeated.
    #[arg(
        long = "extra-platform",
        value_name = "SYSTEM",
        help_heading = "Builds"
    )]
    pub extra_platforms: Vec<String>,

    /// Build without a sandbox: builds can read and change everything that you can. Where the files of the store
    /// are not at their store paths, as below another root, there is a sandbox nevertheless.
    #[arg(long, help_heading = "Sandbox")]
    pub no_sandbox: bool,

    /// Build derivations that set `__noChroot` without a sandbox, and all others in one.
    #[arg(long, conflicts_with = "no_sandbox", help_heading = "Sandbox")]
    pub relaxed_sandbox: bool,

    /// Make a path of this machine visible in the sandbox, as `PATH` or `INSIDE=PATH`; may be repeated. A
    /// trailing `?` allows the path to be missing.
    #[arg(long = "sandbox-path", value_name = "PATH", help_heading = "Sandbox")]
    pub sandbox_paths: Vec<SandboxPath>,

    /// Time limit of a build, in seconds; 0 means no limit [default: 0].
    #[arg(long, value_name = "SECONDS", help_heading = "Build limits")]
    pub timeout: Option<u64>,

    /// Time limit of a build that writes nothing to its log, in seconds; 0 means no limit [default: 0].
    #[arg(long, value_name = "SECONDS", help_heading = "Build limits")]
    pub max_silent_time: Option<u64>,

    /// Size limit of a build's log, in bytes; 0 means no limit [default: 0].
    #[arg(long, value_name = "BYTES", help_heading = "Build limits")]
    pub max_log_size: Option<u64>,

    /// Number of processes and threads that a build may have at the same time [default: no limit].
    #[arg(long, value_name = "N", help_heading = "Build limits")]
    pub max_processes: Option<u64>,

    /// Memory limit of a build, in bytes [default: no limit]. Applies to all processes of the build together
    /// if control groups are available, otherwise to each process.
    #[arg(long, value_name = "BYTES", help_heading = "Build limits")]
    pub max_memory: Option<u64>,

    /// Limit of the disk space that the files of a build occupy, in bytes [default: no limit].
    #[arg(long, value_name = "BYTES", help_heading = "Build limits")]
    pub max_disk: Option<u64>,

    /// Measure the memory of all processes of a build together instead of that of the largest one, if
    /// control groups are available. Implied by a memory limit of builds.
    #[arg(long, help_heading = "Build limits")]
    pub count_memory: bool,

    /// Credentials per host for substituters and everything that is fetched, in the format of `.netrc`. The
    /// file need not exist.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/nix/netrc",
        help_heading = "Network"
    )]
    pub netrc_file: PathBuf,

    #[command(flatten)]
    pub transfer: TransferOptions,

    /// Show build logs as they are written. They are always shown if standard error is not a terminal.
    #[arg(long, short = 'L', help_heading = "Display")]
    pub print_build_logs: bool,

    /// Do not show build logs.
    #[arg(
        long,
        short = 'Q',
        overrides_with = "print_build_logs",
        help_heading = "Display"
    )]
    pub no_build_output: bool,

    /// Show only warnings and errors.
    #[arg(long, help_heading = "Display")]
    pub quiet: bool,

    /// Write all events of the session to a file, as JSON lines.
    #[arg(long, value_name = "FILE", help_heading = "Display")]
    pub events: Option<PathBuf>,

    /// Accepted for compatibility; `--print-build-logs` and `--events` show more.
    #[arg(long, short, hide = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Accepted for compatibility; `--events` shows more.
    #[arg(long, hide = true)]
    pub debug: bool,

    /// Format of the display: `raw`, `bar` or `bar-with-logs` [default: bar on a terminal].
    #[arg(long, value_name = "FORMAT", hide = true)]
    pub log_format: Option<String>,

    /// Accepted for compatibility: outputs that cannot be fetched are always built.
    #[arg(long, hide = true)]
    pub fallback: bool,

    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    pub no_gc_warning: bool,

    /// Refused: derivations are in the store that is built in.
    #[arg(long, hide = true, value_name = "URI")]
    pub eval_store: Option<String>,

    /// System that this machine builds for, from the setting `system`.
    #[clap(skip)]
    pub system: Option<String>,

    /// Whether `system_features` is the complete list, from the setting `system-features`.
    #[clap(skip)]
    pub only_system_features: bool,
}

impl BuildingArgs {
    /// How binary caches are accessed.
    pub fn network(&self) -> Network<'_> {
        Network {
            netrc: &self.netrc_file,
            transfer: &self.transfer,
        }
    }
}
