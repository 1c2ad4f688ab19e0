//! `tvix store cat`.

use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use super::paths::{Readable, file};
use super::{AnyStoreOption, print};
use crate::error::CliError;
use crate::output;

/// Print the contents of a file in the store.
#[derive(Debug, Parser)]
pub struct Args {
    /// A store path that is a regular file, or a path to a regular file below a store path.
    #[arg(value_name = "PATH")]
    path: String,

    /// Print a JSON object with path, size and contents; bytes that are not valid UTF-8 are replaced.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) store: AnyStoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let from = Readable::open(args.store).await?;
    let named = from.parse(&args.path)?;
    let (file, _held) = file(&*from.store, &named).await?;
    let failed = |source| CliError::File {
        action: "read",
        file: file.clone(),
        source,
    };
    let opened = std::fs::symlink_metadata(&file).and_then(|metadata| match metadata.is_file() {
        true => File::open(&file),
        false => Err(std::io::Error::other("it is not a file")),
    });
    let mut contents = opened.map_err(failed)?;
    if args.json {
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        print([json!({ "path": args.path, "size": bytes.len(), "text": text })])?;
    } else {
        output::write(|out| std::io::copy(&mut contents, out).map(drop))?;
    }
    Ok(ExitCode::SUCCESS)
}
