//! Build directories of failed builds.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tvix_sandbox::Scratch;

use crate::BuildRequest;

/// Name of the directory that keeps the files of a build; `None` for built-in builders, whose files
/// are not kept, as in Nix.
pub(super) fn kept_name(request: &BuildRequest) -> Option<String> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    if request.derivation.builder.starts_with(b"builtin:") {
        return None;
    }
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let (name, process) = (&request.derivation.name, std::process::id());
    Some(format!("nix-build-{name}-{process}-{number}"))
}

/// Moves the build directory to `directory/name`, if possible. Returns a line for the log. Blocks.
pub(super) fn keep_failed(scratch: &Scratch, directory: &Path, name: &str) -> String {
    let build = scratch.build_dir();
    // Private: files of builds are not for other users.
    let mut private = DirBuilder::new();
    let _ = private.recursive(true).mode(0o700).create(directory);
    let kept = directory.join(name);
    match std::fs::rename(&build, &kept) {
        Ok(()) => {
            let _ = std::fs::create_dir(&build);
            format!("note: keeping build directory '{}'", kept.display())
        }
        Err(error) => format!("note: cannot keep the build directory: {error}"),
    }
}
