//! Store paths in use by running processes.
//!
//! The sources are those of Nix (`find-roots`): `exe`, `cwd`, `fd`, `maps` and `environ` of each
//! process, and the programs that the kernel runs by itself. Entries that cannot be read, because
//! they belong to another user or are gone, are left out.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix_compat::store_path::StorePath;

use super::{Places, Root, RootSource};

/// The files that name programs run by the kernel.
const KERNEL: [&str; 3] = [
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/fbsplash",
    "/proc/sys/kernel/poweroff_cmd",
];

/// Maximum length of a store path's base name.
const MAX_BASE: usize = 32 + 1 + 211;

pub(super) fn find(places: &Places<'_>, roots: &mut Vec<Root>) {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            process(places, pid, &entry.path(), roots);
        }
    }
    for file in KERNEL {
        let text = fs::read(file).unwrap_or_default();
        for path in named_in(places, &text) {
            let source = RootSource::Kernel(PathBuf::from(file));
            roots.push(Root { path, source });
        }
    }
}

fn process(places: &Places<'_>, pid: u32, folder: &Path, roots: &mut Vec<Root>) {
    let mut add = |what: String, path: StorePath| {
        let source = RootSource::Process { pid, what };
        roots.push(Root { path, source });
    };
    let link = |file: &Path| {
        let target = fs::read_link(file).ok()?;
        places.containing(target.as_os_str().as_bytes())
    };
    for name in ["exe", "cwd"] {
        if let Some(path) = link(&folder.join(name)) {
            add(name.to_owned(), path);
        }
    }
    for entry in fs::read_dir(folder.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Some(path) = link(&entry.path()) {
            add(format!("fd/{}", entry.file_name().display()), path);
        }
    }
    for name in ["maps", "environ"] {
        let text = fs::read(folder.join(name)).unwrap_or_default();
        for path in named_in(places, &text) {
            add(name.to_owned(), path);
        }
    }
}

/// All store paths that occur in a text.
fn named_in(places: &Places<'_>, text: &[u8]) -> HashSet<StorePath> {
    let logical = places.dir.as_str().as_bytes();
    let real = places.store.as_os_str().as_bytes();
    let mut found = HashSet::new();
    let mut prefixes = vec![logical];
    if real != logical {
        prefixes.push(real);
    }
    for prefix in prefixes {
        for start in positions(text, prefix) {
            let Some(rest) = text[start + prefix.len()..].strip_prefix(b"/") else {
                continue;
            };
            let allowed = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
            let len = rest.iter().take(MAX_BASE).take_while(allowed).count();
            if let Ok(path) = StorePath::from_base_name(&rest[..len]) {
                found.insert(path);
            }
        }
    }
    found
}

fn positions<'a>(text: &'a [u8], prefix: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = *prefix.first()?;
        loop {
            let next = text[from..].iter().position(|byte| *byte == first)?;
            let at = from + next;
            from = at + 1;
            if text[at..].starts_with(prefix) {
                return Some(at);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use nix_compat::store_path::StoreDir;

    use super::*;

    #[test]
    fn paths_are_found_wherever_they_are_mentioned() {
        let dir = StoreDir::default();
        let places = Places {
            dir: &dir,
            store: Path::new("/elsewhere/nix/store"),
            state: Path::new("/elsewhere/nix/var/nix"),
        };
        let hash = "00bgd045z0d4icpbc2yyz4gx48ak44la";
        let text = format!(
            "PATH=/nix/store/{hash}-a/bin:/elsewhere/nix/store/{hash}-b/bin\0X=/nix/store\0\
             Y=//nix/store/{hash}-c:d\07f00-7f01 r-xp /nix/store/{hash}-d (deleted)\n\
             /nix/store/{hash} /other/nix/store/{hash}-e"
        );
        let mut names: Vec<String> = named_in(&places, text.as_bytes())
            .iter()
            .map(|path| path.name().to_string())
            .collect();
        names.sort();
        // The last page is one more than needed, which is harmless.
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
}
