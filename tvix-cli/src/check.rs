//! `tvix build --check`: building again what is valid, and comparing.

use std::path::Path;
use std::sync::Arc;

use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::sandbox::SandboxBuilder;
use tvix_build_api::{BuildContext, BuildRequest, CheckOutcome, Difference, check, log_channel};
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store as _, StoreExt as _};

use crate::error::{CliError, describe};
use crate::output::say;
use crate::resolved::Resolver;

/// Builds each of these again. Says on standard error what came out differently, and returns whether nothing
/// did. What differs is kept in the directory `keep`, if there is one.
pub async fn run(
    builder: &SandboxBuilder,
    store: &Arc<LocalStore>,
    derivations: &[StorePath],
    cores: usize,
    keep: Option<&Path>,
) -> Result<bool, CliError> {
    let dir = store.store_dir();
    let mut same = true;
    for path in derivations {
        let shown = dir.display(path);
        let mut request = request(store, path).await?;
        request.cores = cores;
        say!("checking outputs of '{shown}'...");
        let (log, mut lines) = log_channel(64);
        let mut context = BuildContext::new(store.clone());
        context.log = log;
        let checking = check(builder, request, context, keep);
        let showing = async {
            while let Some(line) = lines.recv().await {
                let text = String::from_utf8_lossy(&line.text);
                for line in crate::display::shown(&text).log_lines() {
                    say!("{}> {line}", crate::display::short_name(path));
                }
            }
        };
        let (outcome, ()) = futures::join!(checking, showing);
        let failed = |source| CliError::Check {
            derivation: shown.to_string(),
            source: Box::new(source),
        };
        match outcome.map_err(failed)? {
            CheckOutcome::Same => {}
            CheckOutcome::Differs(differences) => {
                same = false;
                for difference in &differences {
                    say!("error: {}", describe_difference(dir, path, difference));
                }
            }
            CheckOutcome::Failed(failure) => {
                same = false;
                say!("error: '{shown}' does not build again: {failure}");
            }
            other => say!("warning: {other:?}"),
        }
    }
    Ok(same)
}

fn describe_difference(dir: &StoreDir, path: &StorePath, difference: &Difference) -> String {
    let from = match &difference.kept {
        Some(kept) => format!(" from '{}'", kept.display()),
        None => String::new(),
    };
    format!(
        "derivation '{}' may not be deterministic: output '{}' differs{from}",
        dir.display(path),
        dir.display(&difference.path),
    )
}

/// What a builder is to be asked for. All that it needs is in the store.
async fn request(store: &Arc<LocalStore>, path: &StorePath) -> Result<BuildRequest, CliError> {
    let unreadable = |message: String| CliError::CannotCheck {
        derivation: store.store_dir().display(path).to_string(),
        message,
    };
    let resolved = Resolver::new(store).resolve(path).await;
    let (derivation, inputs) = resolved.map_err(unreadable)?;
    let closure = store.closure(&inputs).await;
    let mut request = BuildRequest::new(path.clone(), derivation);
    request.inputs = closure.map_err(|error| unreadable(describe(&error)))?;
    Ok(request)
}
