//! `tvix store add`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use futures::future::join_all;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::store_path::StorePathName;
use tvix_store_api::{ExpectedPath, SourceTree, Store as _, StoreError};

use super::{StoreOption, print};
use crate::error::CliError;
use crate::stores::{self, MainStore};

/// Add files and directories to the store and print their store paths.
#[derive(Debug, Parser)]
pub struct Args {
    /// Files and directories to add.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Name of the store path [default: name of the file].
    #[arg(long)]
    name: Option<String>,

    /// Hash the contents of a regular file instead of its NAR, as `outputHashMode = "flat"` does.
    #[arg(long)]
    flat: bool,

    /// Print the store paths as a JSON list.
    #[arg(long)]
    json: bool,
}

/// The error of a file that cannot be read has no store path to name.
fn failed(error: StoreError) -> CliError {
    match error {
        StoreError::Source { file, source, .. } => CliError::Add { file, source },
        error => CliError::store(error),
    }
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store).await?;
    let method = match args.flat {
        true => ContentAddressMethod::Flat,
        false => ContentAddressMethod::NixArchive,
    };
    let mut files = Vec::with_capacity(args.files.len());
    for file in &args.files {
        let named = match (&args.name, file.file_name()) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_string_lossy().into_owned(),
            // As in `.` and `..`.
            (None, None) => std::fs::canonicalize(file)
                .ok()
                .and_then(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_default(),
        };
        let name: StorePathName = named.parse().map_err(|source| CliError::Name {
            file: file.clone(),
            source,
        })?;
        files.push((file.clone(), name));
    }
    let mut paths = Vec::with_capacity(files.len());
    let added = match &store {
        MainStore::Local(store) => store.import_trees(files, method).await,
        MainStore::Daemon(store) => {
            let added = files.into_iter().map(|(file, name)| {
                store.add_source(SourceTree::new(file, ExpectedPath::Name(name), method))
            });
            join_all(added).await
        }
    };
    for added in added {
        paths.push(store.store_dir().path_text(&added.map_err(failed)?));
    }
    match args.json {
        true => print([serde_json::Value::from(paths)])?,
        false => print(paths)?,
    }
    Ok(ExitCode::SUCCESS)
}
