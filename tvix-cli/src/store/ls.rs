//! `tvix store ls`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Map, Value, json};

use super::paths::{Readable, file};
use super::{AnyStoreOption, print};
use crate::error::CliError;

/// List the contents of a store path.
#[derive(Debug, Parser)]
pub struct Args {
    /// A store path, or a path below one.
    #[arg(value_name = "PATH")]
    path: String,

    /// List subdirectories too.
    #[arg(long, short = 'R')]
    recursive: bool,

    /// Show file types and sizes in bytes.
    #[arg(long, short)]
    long: bool,

    /// Print JSON in the format of Nix's NAR listings (`.ls` files).
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) store: AnyStoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let from = Readable::open(args.store).await?;
    let named = from.parse(&args.path)?;
    let (root, _held) = file(&*from.store, &named).await?;
    if args.json {
        print([listing(&root, args.recursive, true)?])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = Vec::new();
    if !metadata(&root)?.is_dir() {
        let name = root.file_name().unwrap_or_default();
        lines.push(line(args.long, &root, &name.to_string_lossy())?);
    }
    // Paths and how they are shown, last first.
    let mut todo = match metadata(&root)?.is_dir() {
        true => below(&root, ".")?,
        false => Vec::new(),
    };
    while let Some((path, shown)) = todo.pop() {
        lines.push(line(args.long, &path, &shown)?);
        if args.recursive && metadata(&path)?.is_dir() {
            todo.extend(below(&path, &shown)?);
        }
    }
    print(lines)?;
    Ok(ExitCode::SUCCESS)
}

fn below(folder: &Path, shown: &str) -> Result<Vec<(PathBuf, String)>, CliError> {
    let mut names = names(folder)?;
    names.reverse();
    let entry = |name: String| (folder.join(&name), format!("{shown}/{name}"));
    Ok(names.into_iter().map(entry).collect())
}

fn line(long: bool, path: &Path, shown: &str) -> Result<String, CliError> {
    if !long {
        return Ok(shown.to_owned());
    }
    let metadata = metadata(path)?;
    let (kind, size) = match metadata.file_type() {
        kind if kind.is_dir() => ("dr-xr-xr-x", 0),
        kind if kind.is_symlink() => ("lrwxrwxrwx", 0),
        _ if metadata.permissions().mode() & 0o100 != 0 => ("-r-xr-xr-x", metadata.len()),
        _ => ("-r--r--r--", metadata.len()),
    };
    let mut line = format!("{kind} {size:>20} {shown}");
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(|error| unreadable(path, error))?;
        line.push_str(&format!(" -> {}", target.display()));
    }
    Ok(line)
}

/// No tree in a store is deep enough for this to need much stack: its names are at most 4096 bytes.
fn listing(path: &Path, recursive: bool, top: bool) -> Result<Value, CliError> {
    let metadata = metadata(path)?;
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(|error| unreadable(path, error))?;
        return Ok(json!({ "type": "symlink", "target": target.to_string_lossy() }));
    }
    if metadata.is_dir() {
        if !top && !recursive {
            return Ok(json!({ "type": "directory" }));
        }
        let mut entries = Map::new();
        for name in names(path)? {
            let entry = listing(&path.join(&name), recursive, false)?;
            entries.insert(name, entry);
        }
        return Ok(json!({ "type": "directory", "entries": entries }));
    }
    let mut file = json!({ "type": "regular", "size": metadata.len() });
    if metadata.permissions().mode() & 0o100 != 0 {
        file["executable"] = true.into();
    }
    Ok(file)
}

fn names(folder: &Path) -> Result<Vec<String>, CliError> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn metadata(path: &Path) -> Result<fs::Metadata, CliError> {
    fs::symlink_metadata(path).map_err(|error| unreadable(path, error))
}

fn unreadable(file: &Path, source: io::Error) -> CliError {
    CliError::File {
        action: "read",
        file: file.to_owned(),
        source,
    }
}
