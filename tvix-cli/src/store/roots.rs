//! `tvix store roots`.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use nix_compat::store_path::StorePath;
use serde_json::json;
use tvix_store_api::StoreError;
use tvix_store_api::local_fs::{Root, RootSource};

use super::paths::parse_all;
use super::{StoreOption, print};
use crate::error::CliError;
use crate::stores::{self, MainStore};

/// List garbage collector roots, or add one.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Create a symbolic link to a store path. The path is kept for as long as the link exists.
    #[arg(long, num_args = 2, value_names = ["LINK", "PATH"])]
    add: Option<Vec<String>>,

    /// Print the roots as a JSON list.
    #[arg(long, conflicts_with = "add")]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    if let Some([link, path]) = args.add.as_deref() {
        let store = stores::open(args.store.store).await?;
        for path in parse_all(&store, std::slice::from_ref(path))? {
            let made = store.add_root(Path::new(link), &path).await;
            made.map_err(CliError::store)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let store = stores::open_to_read(args.store.store).await?;
    let roots = listed(&store).await.map_err(CliError::store)?;
    let dir = store.store_dir();
    if args.json {
        let roots: Vec<_> = roots
            .iter()
            .map(|root| {
                json!({
                    "path": dir.path_text(&root.path),
                    "kind": root.kind,
                    "source": root.source,
                })
            })
            .collect();
        print([serde_json::Value::from(roots)])?;
    } else {
        let lines = roots.iter();
        print(lines.map(|root| format!("{} -> {}", root.source, dir.display(&root.path))))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A root as it is shown.
struct Listed {
    path: StorePath,
    kind: &'static str,
    source: String,
}

async fn listed(store: &MainStore) -> Result<Vec<Listed>, StoreError> {
    Ok(match store {
        MainStore::Local(store) => {
            let roots = store.roots().await?.into_iter().map(|root| Listed {
                kind: kind(&root),
                source: root.source.to_string(),
                path: root.path,
            });
            roots.collect()
        }
        MainStore::Daemon(store) => {
            // Only the link is known.
            let roots = store.roots().await?.into_iter().map(|root| Listed {
                kind: "daemon",
                source: root.link,
                path: root.path,
            });
            roots.collect()
        }
    })
}

fn kind(root: &Root) -> &'static str {
    match root.source {
        RootSource::Direct(_) => "direct",
        RootSource::Indirect { .. } => "indirect",
        RootSource::Process { .. } => "process",
        RootSource::Kernel(_) => "kernel",
        RootSource::Temporary { .. } => "temporary",
        _ => "other",
    }
}
