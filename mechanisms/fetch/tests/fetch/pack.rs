//! Archives, as hostile as they may be.

use tar::EntryType;

/// An entry of an archive, as hostile as it may be.
pub struct Entry {
    pub kind: EntryType,
    pub path: &'static [u8],
    pub target: &'static [u8],
    pub mode: u32,
    pub contents: Vec<u8>,
    /// What the header says that the size is.
    pub size: Option<u64>,
}

pub fn file(path: &'static str, contents: &str) -> Entry {
    Entry {
        kind: EntryType::Regular,
        path: path.as_bytes(),
        target: b"",
        mode: 0o644,
        contents: contents.into(),
        size: None,
    }
}

pub fn special(kind: EntryType, path: &'static str) -> Entry {
    Entry {
        kind,
        ..file(path, "")
    }
}

pub fn link(kind: EntryType, path: &'static str, target: &'static str) -> Entry {
    Entry {
        target: target.as_bytes(),
        ..special(kind, path)
    }
}

pub fn archive(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        // Past the checks of the library.
        let old = header.as_old_mut();
        old.name[..entry.path.len()].copy_from_slice(entry.path);
        old.linkname[..entry.target.len()].copy_from_slice(entry.target);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_mtime(1_000_000_000);
        header.set_size(entry.size.unwrap_or(entry.contents.len() as u64));
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&entry.contents);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
