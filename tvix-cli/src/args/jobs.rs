//! Arguments of evaluations by several workers.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use super::{BuildingArgs, SourceArgs};
use crate::error::CliError;
use crate::settings::value::{parse_mebibytes, parse_memory, parse_workers};

/// Evaluate a set of jobs and print a line of JSON for each.
///
/// A job is a derivation in an attribute set or list. Sets inside of the selected one are searched if their
/// attribute `recurseForDerivations` is true, lists if they are selected or in such a list, and functions are
/// called if they need no argument without a value. Other values are skipped. Each line is printed as soon
/// as the job is evaluated and its derivation is in the store. An error in a job does not end the others.
///
/// Lines have the keys of nix-eval-jobs: `attr`, `attrPath`, and `name`, `system`, `drvPath` and `outputs`,
/// or `error` with `errorKind` and `errorPosition`; moreover `evalSeconds` and `evalBytes`, the time and
/// memory that the evaluation of the job took. Nothing is built except for import from derivation (IFD).
///
/// The exit code is 0 even if there are errors in jobs, and 1 if the set itself cannot be evaluated.
#[derive(Debug, Parser)]
// Builds have an option of this name in other commands.
#[command(mut_arg("max_memory", |arg| arg.long("max-build-memory")))]
pub struct JobsArgs {
    /// Files to evaluate (`-` is standard input), or expressions if `--expr` is given [default:
    /// ./default.nix].
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    /// Number of workers that evaluate at the same time [default: number of processors].
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    pub workers: Option<NonZeroUsize>,

    /// Memory of all workers together, in bytes or with a unit (`512M`, `4G`) [default: half of the
    /// memory of this machine or control group]. A worker that exceeds its share finishes its job and
    /// starts afresh; a job that exceeds all of it fails.
    #[arg(long = "max-memory", value_name = "SIZE", value_parser = parse_memory)]
    pub max_worker_memory: Option<u64>,

    /// Memory of each worker in MiB, in place of `--max-memory`, as in nix-eval-jobs.
    #[arg(long, value_name = "MIB", value_parser = parse_mebibytes, conflicts_with = "max_worker_memory")]
    pub max_memory_size: Option<u64>,

    /// Search all sets, including those without a true attribute `recurseForDerivations`.
    #[arg(long)]
    pub force_recurse: bool,

    /// Create a symbolic link to the derivation of each job in this directory, as a garbage collector root.
    #[arg(long, value_name = "PATH", conflicts_with = "dry_run")]
    pub gc_roots_dir: Option<PathBuf>,

    /// Print the attribute `meta` of each job.
    #[arg(long)]
    pub meta: bool,

    /// Print whether the outputs are in the store or in a substituter: `cacheStatus` is `local`, `cached`
    /// or `notBuilt`, and `isCached` is false for the latter.
    #[arg(long)]
    pub check_cache_status: bool,

    /// Print the input derivations of each job, as `inputDrvs`.
    #[arg(long)]
    pub show_input_drvs: bool,

    /// Print jobs without adding their derivations to the store.
    #[arg(long, alias = "no-instantiate")]
    pub dry_run: bool,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Refused: flakes are not supported.
    #[arg(long, hide = true)]
    pub flake: bool,

    /// Refused: an expression can do that.
    #[arg(long, hide = true, value_name = "EXPR")]
    pub select: Option<String>,

    /// Refused: an expression can do that.
    #[arg(long, hide = true, value_name = "EXPR")]
    pub apply: Option<String>,

    /// Refused: `--show-input-drvs` prints what an aggregate job needs.
    #[arg(long, hide = true)]
    pub constituents: bool,
}

impl JobsArgs {
    /// Options of nix-eval-jobs that are refused.
    pub fn check(&self) -> Result<(), CliError> {
        if self.flake {
            let flake = self.inputs.first().map_or(".", String::as_str);
            return Err(CliError::Flake(flake.to_owned()));
        }
        let refused = |action, instead| Err(CliError::Instead { action, instead });
        if self.select.is_some() {
            return refused("select by a function", "--attr, or --expr");
        }
        if self.apply.is_some() {
            return refused("apply a function to each job", "--meta, or --expr");
        }
        if self.constituents {
            return refused("list constituents", "--show-input-drvs");
        }
        Ok(())
    }

    /// Memory of `workers` together, in bytes.
    pub fn memory(&self, workers: NonZeroUsize) -> Option<u64> {
        let each = self.max_memory_size.map(|mib| mib.saturating_mul(1 << 20));
        let all = each.map(|each| each.saturating_mul(workers.get() as u64));
        all.or(self.max_worker_memory)
    }
}

/// How many workers evaluate.
#[derive(Debug, Clone, Copy, Parser)]
pub struct WorkersArgs {
    /// Number of workers that evaluate the derivations of a set at the same time [default: 1]. Each may use
    /// its part of `--max-eval-memory`.
    #[arg(long, value_name = "N", value_parser = parse_workers, help_heading = "Evaluation")]
    pub workers: Option<NonZeroUsize>,
}
