//! `tvix store cat`.

use std::fs::File;
use std::process::ExitCode;

use clap::Parser;

use super::StoreOption;
use super::paths::{file, parse};
use crate::error::CliError;
use crate::stores;

/// Print the contents of a file in the store.
#[derive(Debug, Parser)]
pub struct Args {
    /// The file: a store path, or something below one.
    #[arg(value_name = "PATH")]
    path: String,

    #[command(flatten)]
    store: StoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open_to_read(args.store.store).await?;
    let named = parse(&store, &args.path)?;
    let (file, _held) = file(&store, &named).await?;
    let opened = std::fs::symlink_metadata(&file).and_then(|metadata| match metadata.is_file() {
        true => File::open(&file),
        false => Err(std::io::Error::other("it is not a file")),
    });
    let mut contents = opened.map_err(|source| CliError::File {
        action: "read",
        file,
        source,
    })?;
    std::io::copy(&mut contents, &mut std::io::stdout().lock()).map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}
