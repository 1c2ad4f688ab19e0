//! Build directories of failed builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;

use super::SandboxBuilder;
use crate::log::Tail;
use crate::{BuildContext, BuildRequest};
use tvix_sandbox::Scratch;

/// Moves the build directory of a failed build to
/// [`SandboxOptions::keep_failed`](super::SandboxOptions::keep_failed), if possible.
pub(super) async fn keep_failed(
    builder: &SandboxBuilder,
    request: &BuildRequest,
    scratch: &Arc<Scratch>,
    context: &BuildContext,
    tail: &mut Tail,
) {
    let Some(directory) = builder.options.keep_failed.clone() else {
        return;
    };
    // The directory of a built-in builder is not kept, as in Nix.
    if request.derivation.builder.starts_with(b"builtin:") {
        return;
    }
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!(
        "nix-build-{}-{}-{number}",
        request.derivation.name,
        std::process::id()
    );
    let scratch = scratch.clone();
    let kept = directory.join(name);
    let to = kept.clone();
    let moved = builder
        .blocking(move || {
            use std::os::unix::fs::DirBuilderExt as _;
            let build = scratch.build_dir();
            // Private: files of builds are not for other users.
            let mut private = std::fs::DirBuilder::new();
            let _ = private.recursive(true).mode(0o700).create(&directory);
            let moved = std::fs::rename(&build, to);
            if moved.is_ok() {
                let _ = std::fs::create_dir(&build);
            }
            Ok(moved)
        })
        .await;
    let line = match moved {
        Ok(Ok(())) => format!("note: keeping build directory '{}'", kept.display()),
        Ok(Err(error)) => format!("note: cannot keep the build directory: {error}"),
        Err(_) => return,
    };
    let line = Bytes::from(line);
    tail.push(&line);
    // Does not wait, because the reader of the log may have cancelled the build.
    let _ = context.log.send(line).now_or_never();
}
