//! Symlinks to store paths.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix_compat::store_path::StorePath;

/// The real location of a link that may be created or replaced: its directory may be reached through
/// symlinks, which may change. Refuses what is neither missing nor a link into a store, and places
/// below `stores`.
pub(crate) fn place(link: &Path, stores: &[&Path]) -> io::Result<PathBuf> {
    let (folder, name) = match (link.parent(), link.file_name()) {
        (Some(folder), Some(name)) => (fs::canonicalize(folder)?, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let link = folder.join(name);
    if stores.iter().any(|store| link.starts_with(store)) {
        return Err(io::Error::other("a root cannot be in the store"));
    }
    match fs::read_link(&link) {
        Ok(target) if leads_to_a_store(&target) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => {
            let message = "a link to something that is in no store is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(_) => {
            let message = "something that is not a link is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    Ok(link)
}

/// Whether a symlink target is in any store.
fn leads_to_a_store(target: &Path) -> bool {
    let mut names = target.components().map(|name| name.as_os_str().as_bytes());
    names.any(|name| StorePath::from_base_name(name).is_ok())
}

/// Creates or atomically replaces a symlink.
pub(crate) fn replace(link: &Path, target: &Path) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut temporary = link.as_os_str().to_owned();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".tmp-{}-{number}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &temporary)?;
    fs::rename(&temporary, link).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
