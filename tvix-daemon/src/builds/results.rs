//! The results of several requests as the error of one operation.

use std::collections::BTreeSet;

use nix_compat::store_path::{StoreDir, StorePath};
use tvix_worker_protocol::{BuildResult, BuildStatus, DerivedPath, RemoteError, Verbosity};

use super::activities::Activities;
use super::texts::{Wording, as_line, several_failed};

/// The end of a request.
#[derive(Debug)]
pub(super) struct Ended {
    pub path: DerivedPath,
    /// `None` if the operation ended before.
    pub result: Option<BuildResult>,
    /// Whether the client has got the error as a message.
    pub logged: bool,
}

fn store_path(path: &DerivedPath) -> &StorePath {
    match path {
        DerivedPath::Opaque(path) | DerivedPath::Built { drv: path, .. } => path,
    }
}

/// The error of an operation that makes all of `ended` valid, if one failed. If there are several errors, all are
/// messages, the first one last.
pub(super) async fn error_of(
    mut ended: Vec<Ended>,
    dir: &StoreDir,
    wording: Wording,
    activities: &Activities,
) -> Option<RemoteError> {
    // As Nix goes through its goals: by kind, name and path.
    ended.sort_by(|a, b| {
        let key = |it: &Ended| {
            let path = store_path(&it.path).clone();
            let is_built = matches!(it.path, DerivedPath::Built { .. });
            (is_built, path.name().clone(), path)
        };
        key(a).cmp(&key(b))
    });
    ended.dedup_by(|a, b| {
        let same = store_path(&a.path) == store_path(&b.path);
        // The failure counts.
        let failed = |it: &Ended| !it.result.as_ref().is_some_and(|it| it.status.is_success());
        if same && failed(a) && !failed(b) {
            std::mem::swap(a, b);
        }
        same
    });
    let (mut first, mut failed) = (None, BTreeSet::new());
    for ended in ended {
        if ended
            .result
            .as_ref()
            .is_some_and(|it| it.status.is_success())
        {
            continue;
        }
        failed.insert(store_path(&ended.path).clone());
        // Nix 2.34 repeats the error of something that others waited for.
        let repeated = |_: &BuildResult| !ended.logged || wording == Wording::Current;
        let Some(result) = ended.result.filter(repeated) else {
            continue;
        };
        // Nix 2.8 says no more of it than that it failed.
        if wording == Wording::Old && result.status == BuildStatus::NoSubstituters {
            continue;
        }
        match first {
            None => first = Some(result.error),
            Some(_) => {
                let text = as_line(&result.error.to_string());
                activities.message(Verbosity::Error, text).await;
            }
        }
    }
    match (first, failed.len()) {
        (_, 0) => None,
        (Some(error), 1) => Some(RemoteError::new(error)),
        (first, _) => {
            if let Some(error) = first {
                let text = as_line(&error.to_string());
                activities.message(Verbosity::Error, text).await;
            }
            let paths: Vec<String> = failed.iter().map(|path| dir.path_text(path)).collect();
            Some(RemoteError::new(several_failed(&paths)))
        }
    }
}
