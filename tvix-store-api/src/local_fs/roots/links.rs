//! Roots that are links: the entries of `gcroots` and `profiles`, and their targets.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix_compat::store_path::StorePath;

use super::add::MIRRORED;
use super::{Places, Root, RootSource};

/// The roots below `gcroots` and `profiles`, by Nix's rules: a link into the store; a link to
/// another link, if that leads into the store; and a file named like a store path.
pub(super) fn find(places: &Places<'_>, tidy: bool) -> io::Result<Vec<Root>> {
    let mut roots = Vec::new();
    let mut todo = vec![places.state.join("gcroots"), places.state.join("profiles")];
    while let Some(folder) = todo.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if is_unreadable(&error) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let found = entry
                .file_type()
                .and_then(|kind| look_at(places, tidy, path, kind, &mut todo));
            match found {
                Err(error) if is_unreadable(&error) => {}
                found => roots.extend(found?),
            }
        }
    }
    Ok(roots)
}

/// Errors that Nix also treats as a missing file. All others abort the collection: it must see
/// every root.
fn is_unreadable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
    )
}

fn look_at(
    places: &Places<'_>,
    tidy: bool,
    path: PathBuf,
    kind: FileType,
    todo: &mut Vec<PathBuf>,
) -> io::Result<Option<Root>> {
    if kind.is_dir() {
        todo.push(path);
        return Ok(None);
    }
    if kind.is_file() {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let named = StorePath::from_base_name(name).ok();
        let source = RootSource::Direct(path.clone());
        return Ok(named.map(|path| Root { path, source }));
    }
    if !kind.is_symlink() {
        return Ok(None);
    }
    let target = fs::read_link(&path)?;
    if let Some(found) = places.containing(target.as_os_str().as_bytes()) {
        if is_stale_mirror(places, &path, &found)? {
            if tidy {
                fs::remove_file(&path)?;
            }
            return Ok(None);
        }
        let source = RootSource::Direct(path);
        return Ok(Some(Root {
            path: found,
            source,
        }));
    }
    let link = path.parent().unwrap_or(&path).join(target);
    let metadata = match fs::symlink_metadata(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if tidy && path.starts_with(places.state.join("gcroots/auto")) {
                fs::remove_file(&path)?;
            }
            return Ok(None);
        }
        metadata => metadata?,
    };
    if !metadata.is_symlink() {
        return Ok(None);
    }
    let target = fs::read_link(&link)?;
    let found = places.containing(target.as_os_str().as_bytes());
    Ok(found.map(|found| Root {
        path: found,
        source: RootSource::Indirect {
            link,
            registered: path,
        },
    }))
}

/// Whether the entry stands for a registered link (see [`super::add`]) that leads elsewhere by now.
fn is_stale_mirror(places: &Places<'_>, path: &Path, found: &StorePath) -> io::Result<bool> {
    let mirrored = places.state.join("gcroots").join(MIRRORED);
    let (Ok(_), Some(name)) = (path.strip_prefix(mirrored), path.file_name()) else {
        return Ok(false);
    };
    let registered = places.state.join("gcroots/auto").join(name);
    let target = fs::read_link(registered).and_then(fs::read_link);
    match target {
        Ok(target) => Ok(places.containing(target.as_os_str().as_bytes()).as_ref() != Some(found)),
        // `InvalidInput`: the file is not a link.
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput
    )
}
