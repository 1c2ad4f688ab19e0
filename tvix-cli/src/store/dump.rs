//! `tvix store dump`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use nix_compat::nar::Listing;
use nix_compat::nar::r#async::Reader;
use tokio_util::io::StreamReader;
use tvix_store_api::NarStream;

use super::AnyStoreOption;
use super::paths::Readable;
use crate::error::CliError;
use crate::output;

/// Write the NAR of a store path to standard output.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store path to dump, or a link to one.
    #[arg(value_name = "PATH")]
    path: String,

    /// Print a JSON listing of the NAR instead, in the format of Nix's `.ls` files.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) store: AnyStoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let from = Readable::open(args.store).await?;
    let path = from.parse_whole(&args.path)?;
    let nar = from.store.nar(&path).await.map_err(CliError::store)?;
    let mut out = output::stdout();
    if out.is_terminal() && !args.json {
        return Err(CliError::ArchiveToTerminal);
    }
    match args.json {
        true => list(nar, &mut out).await?,
        false => copy(nar, &mut out).await?,
    }
    out.flush().map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}

async fn copy(mut nar: NarStream, out: &mut impl Write) -> Result<(), CliError> {
    while let Some(chunk) = nar.next().await.transpose().map_err(CliError::store)? {
        out.write_all(&chunk).map_err(CliError::Output)?;
    }
    Ok(())
}

async fn list(nar: NarStream, out: &mut impl Write) -> Result<(), CliError> {
    let mut listing = Listing::new(&mut *out);
    let nar = nar.map_err(std::io::Error::other);
    let mut reader = Reader::new(StreamReader::new(nar));
    let failed = |error| CliError::Nar(Box::new(error));
    while let Some(event) = reader.next_event().await.map_err(failed)? {
        listing.event(event).map_err(CliError::Output)?;
    }
    writeln!(out).map_err(CliError::Output)
}
