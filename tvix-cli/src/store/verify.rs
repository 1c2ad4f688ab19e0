//! `tvix store verify`.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tvix_store_api::local_fs::{DamagedPath, LocalStore, VerifyOptions, VerifyReport};
use tvix_store_api::{Store as _, StoreUri};

use super::paths::parse_all;
use super::{StoreOption, code, print};
use crate::args::NetworkArgs;
use crate::caches::{self, Access};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores::{self, MainStore};

/// Check that the contents of store paths match their registered hashes.
///
/// The exit code is 1 if damage remains.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store paths to check [default: all valid paths].
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Check only that the files exist, without reading them.
    #[arg(long)]
    no_contents: bool,

    /// Store of any kind to replace damaged paths from.
    #[arg(long, value_name = "URI")]
    repair_from: Option<StoreUri>,

    /// Unregister paths whose files are missing, unless other paths refer to them.
    #[arg(long)]
    forget_missing: bool,

    /// Print the report as a JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) netrc: NetworkArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let changes = args.repair_from.is_some() || args.forget_missing;
    let store = match changes {
        true => stores::open(args.store.store).await?,
        false => stores::open_to_read(args.store.store).await?,
    };
    let main = store;
    let store = match &main {
        MainStore::Local(store) => store,
        MainStore::Daemon(store) if changes || !args.paths.is_empty() || args.json => {
            return Err(CliError::not_with_daemon(
                "verify some paths, report, or repair",
                &**store,
            ));
        }
        MainStore::Daemon(store) => {
            // It says what is damaged in its own log.
            let intact = store.verify_store(!args.no_contents, false).await;
            return Ok(code(intact.map_err(CliError::store)?));
        }
    };
    let mut options = VerifyOptions::default()
        .with_contents(!args.no_contents)
        .with_forget_missing(args.forget_missing)
        .with_paths(parse_all(&main, &args.paths)?);
    if let Some(uri) = args.repair_from {
        let network = args.netrc.network();
        let from = caches::open(Some(uri), Access::ANYTHING, network).await?;
        options = options.with_repair_from(from);
    }
    let report = store.verify_all(options).await.map_err(CliError::store)?;
    show(store, &report, args.json)?;
    Ok(code(report.is_intact()))
}

fn show(store: &LocalStore, report: &VerifyReport, as_json: bool) -> Result<(), CliError> {
    if as_json {
        let damaged = report.damaged.iter().map(|damaged| {
            json!({
                "path": store.store_dir().path_text(&damaged.path),
                "damage": describe(&damaged.damage),
                "outcome": outcome(damaged),
            })
        });
        return print([json!({
            "checked": report.checked,
            "damaged": damaged.collect::<Vec<_>>(),
            "badLinks": report.bad_links.iter().map(|it| it.to_string_lossy()).collect::<Vec<_>>(),
        })]);
    }
    for damaged in &report.damaged {
        let path = store.store_dir().display(&damaged.path);
        say!(
            "'{path}': {}: {}",
            describe(&damaged.damage),
            outcome(damaged)
        );
    }
    for link in &report.bad_links {
        let removed = match report.bad_links_removed {
            true => ": deleted",
            false => "",
        };
        say!(
            "'{}' does not match the hash in its name{removed}",
            link.display()
        );
    }
    say!(
        "{} store paths checked, {} damaged",
        report.checked,
        report.damaged.len()
    );
    Ok(())
}

fn outcome(damaged: &DamagedPath) -> String {
    match &damaged.repaired {
        Some(Ok(())) => "repaired".to_owned(),
        _ if damaged.forgotten => "unregistered".to_owned(),
        Some(Err(error)) => format!("cannot be repaired: {}", describe(error)),
        None => "not repaired".to_owned(),
    }
}
