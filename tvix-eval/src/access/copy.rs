//! Copying sources to the store: paths in strings, `builtins.path`, `filterSource`, `toFile`.

use std::collections::hash_map::Entry;

use bytes::Bytes;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar;
use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{
    MAX_NAME_LEN, NameError, PathReferences, StoreDir, StorePath, StorePathName, compress_hash,
    content_addressed_path, text_path,
};
use tvix_eval_api::{SourceAddition, SourceContent};

use crate::error::{Error, ErrorKind, Result};
use crate::files::FileKind;
use crate::interp::Interp;
use crate::interp::cancelled;
use crate::paths;
use crate::value::{ContextElement, NixPath, NixString, Value};

use super::{Links, io_error, join, lossy};

/// Files below this size in bytes are read into memory.
const SMALL: u64 = 1 << 20;

/// The filter of a source tree: takes a path and its kind, returns whether to include it.
pub(crate) type Keep<'a> = dyn FnMut(&[u8], FileKind) -> Result<bool> + 'a;

/// A file or tree to add to the store as a source.
pub(crate) struct Tree<'a> {
    /// The name of the store path.
    pub(crate) name: &'a [u8],
    /// Its location, without symbolic links.
    pub(crate) path: &'a [u8],
    pub(crate) method: ContentAddressMethod,
    /// The references of the new store path: those of the store path that it is copied from.
    pub(crate) references: SortedSet<StorePath>,
    /// The expected store path, and the path to name in an error.
    pub(crate) expected: Option<(&'a StorePath, &'a [u8])>,
}

impl<'a> Tree<'a> {
    /// A tree without references, hashed as a NAR.
    fn new(name: &'a [u8], path: &'a [u8]) -> Self {
        Self {
            name,
            path,
            method: ContentAddressMethod::NixArchive,
            references: SortedSet::new(),
            expected: None,
        }
    }
}

/// The default name of the source at `path`.
pub(crate) fn source_name(path: &[u8]) -> &[u8] {
    match paths::base_name(path) {
        b"" => b"source",
        name => name,
    }
}

impl<'h> Interp<'h> {
    /// The store path of a path that is interpolated into a string.
    pub(crate) fn copy_to_store(&self, path: &NixPath<'h>) -> Result<&'h NixString<'h>> {
        if let Some(known) = self.world.copied.borrow().get(path.bytes) {
            return Ok(known);
        }
        let name = source_name(path.bytes);
        if name.ends_with(b".drv") {
            return Err(Error::new(
                ErrorKind::Other,
                "file names are not allowed to end in '.drv'",
            ));
        }
        let resolved = self.resolve(path.bytes, Links::Parents)?;
        let store_path = self.add_tree(Tree::new(name, &resolved), None)?;
        let text = self.store_path_string(&store_path);
        self.world.copied.borrow_mut().insert(path.bytes, text);
        Ok(text)
    }

    /// A store path as a string, with itself as context.
    pub(crate) fn store_path_string(&self, path: &StorePath) -> &'h NixString<'h> {
        let text = self.world.settings.store_dir.display(path).to_string();
        let context = self.contexts.single(ContextElement::Opaque(path.clone()));
        match self.string(text, context) {
            Value::String(string) => string,
            _ => self.shared.empty_string,
        }
    }

    /// Adds a file or tree to the store as a source. `keep` filters the files below the root.
    pub(crate) fn add_tree(
        &self,
        tree: Tree<'_>,
        keep: Option<&mut Keep<'_>>,
    ) -> Result<StorePath> {
        let Tree {
            name,
            path: resolved,
            method,
            references,
            expected,
        } = tree;
        self.kind(resolved)?;
        let local = self.local(resolved);
        let all = (!self.is_confined() || self.may_read_all(resolved))
            && !self.has_excluded_files(resolved);
        let made = self.made_contents(resolved);
        let on_disk = match made {
            None if all => self.world.files.on_disk(paths::to_os(&local)),
            _ => None,
        };
        let mut excluded = Vec::new();
        let (hash, content) = match (method, keep, on_disk) {
            (ContentAddressMethod::Flat, _, disk) => {
                let bytes = self.read_file(resolved)?;
                let hash = NixHash::digest(HashAlgo::Sha256, &bytes);
                let content = match disk {
                    Some(disk) => SourceContent::Tree(disk),
                    None => SourceContent::Text(Bytes::from(bytes)),
                };
                (hash, content)
            }
            // Such a file is mostly a patch, for which a thread and buffers would be wasted.
            (_, None, Some(disk)) if self.is_small_file(resolved)? => {
                let (hash, _) = self.hash_kept(resolved, None, &mut excluded)?;
                (hash, SourceContent::Tree(disk))
            }
            (_, None, Some(disk)) => {
                let (hash, _) = tvix_tree::hash_path(&disk, HashAlgo::Sha256)
                    .map_err(|error| Error::new(ErrorKind::Io, describe(&error)))?;
                (hash, SourceContent::Tree(disk))
            }
            (_, keep, _) => self.hash_kept(resolved, keep, &mut excluded)?,
        };
        let store_path = self.source_path(name, method, hash, &references)?;
        if let Some((expected, given)) = expected
            && *expected != store_path
        {
            let message = format!(
                "store path mismatch in (possibly filtered) path added from '{}'",
                lossy(given)
            );
            return Err(Error::new(ErrorKind::Other, message));
        }
        let dir = &self.world.settings.store_dir;
        let object = dir.display(&store_path).to_string().into_bytes();
        // Reads can use the first location that this object was copied from; its excluded files are
        // known.
        if let Some(made) = made {
            let mut texts = self.world.texts.borrow_mut();
            texts.insert(store_path.clone(), self.heap.alloc_slice_copy(&made));
        } else if let Entry::Vacant(entry) = self.world.copied_from.borrow_mut().entry(object) {
            self.exclude(entry.key(), resolved, &excluded);
            entry.insert(local);
        }
        self.offer(
            SourceAddition::new(store_path.clone(), method, content).with_references(references),
        )?;
        Ok(store_path)
    }

    /// The store path of a source with this hash.
    pub(crate) fn source_path(
        &self,
        name: &[u8],
        method: ContentAddressMethod,
        hash: NixHash,
        references: &SortedSet<StorePath>,
    ) -> Result<StorePath> {
        let dir = &self.world.settings.store_dir;
        let name = match method {
            ContentAddressMethod::NixArchive => named(dir, "source", name, || hash.clone()),
            _ => named(dir, "output:out", name, || {
                let inner = format!("fixed:out:{}:", hash.base16());
                NixHash::digest(HashAlgo::Sha256, inner)
            }),
        }?;
        if method != ContentAddressMethod::NixArchive && !references.is_empty() {
            let message = format!(
                "fixed output derivation '{name}' is not allowed to refer to other store paths.\n\
                 You may need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for more details."
            );
            return Err(Error::new(ErrorKind::Other, message));
        }
        let address = ContentAddress { method, hash };
        // A reference of the original store path to itself is a reference to another path now.
        let all = PathReferences {
            others: references.clone(),
            to_self: false,
        };
        content_addressed_path(dir, name, &address, &all).ok_or_else(|| {
            let message = format!("no store path has the content address {address}");
            Error::new(ErrorKind::Other, message)
        })
    }

    /// Adds a text to the store as a source.
    pub(crate) fn add_text(
        &self,
        name: &[u8],
        contents: &[u8],
        references: SortedSet<StorePath>,
    ) -> Result<StorePath> {
        let dir = &self.world.settings.store_dir;
        let kind = references
            .iter()
            .fold("text".to_owned(), |kind, reference| {
                format!("{kind}:{}", dir.display(reference))
            });
        let name = named(dir, &kind, name, || {
            NixHash::digest(HashAlgo::Sha256, contents)
        })?;
        let path = text_path(dir, name, contents, &references);
        self.offer(
            SourceAddition::new(
                path.clone(),
                ContentAddressMethod::Text,
                SourceContent::Text(Bytes::copy_from_slice(contents)),
            )
            .with_references(references),
        )?;
        Ok(path)
    }

    pub(super) fn offer(&self, source: SourceAddition) -> Result<()> {
        self.allow(&source.path);
        if !self.world.offered.borrow_mut().insert(source.path.clone()) {
            return Ok(());
        }
        if !source.references.is_empty() {
            let mut known = self.world.references.borrow_mut();
            known.insert(source.path.clone(), source.references.clone());
        }
        if self.world.host.source(source) {
            return Ok(());
        }
        Err(cancelled())
    }

    /// The hash of the included files of a tree, which are read through [`crate::files::Files`].
    /// Excluded files are added to `excluded`.
    fn hash_kept(
        &self,
        root: &[u8],
        keep: Option<&mut Keep<'_>>,
        excluded: &mut Vec<Vec<u8>>,
    ) -> Result<(NixHash, SourceContent)> {
        let mut archive = nar::Writer::new(Vec::new());
        let mut all = |_: &[u8], _: FileKind| Ok(true);
        let keep: &mut Keep<'_> = match keep {
            Some(keep) => keep,
            None => &mut all,
        };
        let mut keep = |path: &[u8], kind| {
            let kept = keep(path, kind)?;
            if !kept {
                excluded.push(path.to_vec());
            }
            Ok(kept)
        };
        self.archive(root, &mut archive, &mut keep)?;
        let archive = archive
            .finish()
            .map_err(|error| Error::new(ErrorKind::Io, describe(&error)))?;
        let hash = NixHash::digest(HashAlgo::Sha256, &archive);
        Ok((hash, SourceContent::Archive(Bytes::from(archive))))
    }

    fn is_small_file(&self, path: &[u8]) -> Result<bool> {
        let local = self.local(path);
        let is_file = matches!(self.kind(path)?, FileKind::Regular { .. });
        Ok(is_file && self.world.files.len(paths::to_os(&local)) < SMALL)
    }

    fn archive(
        &self,
        path: &[u8],
        archive: &mut nar::Writer<Vec<u8>>,
        keep: &mut Keep<'_>,
    ) -> Result<()> {
        self.check_stack()?;
        let failed = |error: nar::NarError| {
            Error::new(
                ErrorKind::Io,
                format!("'{}': {}", lossy(path), describe(&error)),
            )
        };
        let local = self.local(path);
        let local = paths::to_os(&local);
        let files = &self.world.files;
        match self.kind(path)? {
            FileKind::Regular { executable } => {
                let contents = match self.made_contents(path) {
                    Some(made) => made,
                    None => files
                        .read(local)
                        .map_err(|error| io_error("reading file", path, &error))?,
                };
                archive.regular(executable, &contents).map_err(failed)
            }
            FileKind::Symlink => {
                let target = self.link_target(path)?;
                archive.symlink(&target).map_err(failed)
            }
            FileKind::Directory => {
                let mut entries = files
                    .entries(local)
                    .map_err(|error| io_error("reading directory", path, &error))?;
                self.hide_unseen(path, &mut entries);
                entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                archive.directory_start().map_err(failed)?;
                for (name, kind) in entries {
                    let child = join(path, &name);
                    if !keep(&child, kind)? {
                        continue;
                    }
                    archive.entry(&name).map_err(failed)?;
                    self.archive(&child, archive, keep)?;
                }
                archive.directory_end().map_err(failed)
            }
            FileKind::Other => Err(Error::new(
                ErrorKind::Io,
                format!("file '{}' has an unsupported type", lossy(path)),
            )),
        }
    }
}

/// A valid name of a store path. For an invalid name, C++ Nix reports the path that the source
/// would have, which is computed here from kind and hash.
fn named(
    dir: &StoreDir,
    kind: &str,
    name: &[u8],
    hash: impl FnOnce() -> NixHash,
) -> Result<StorePathName> {
    StorePathName::from_bytes(name).map_err(|error| {
        let name = lossy(name);
        let of = format!("{kind}:{}:{}:{name}", hash().base16(), dir.as_str());
        let of = NixHash::digest(HashAlgo::Sha256, of);
        let hash = nixbase32::encode(&compress_hash::<20>(of.digest_bytes()));
        let why = name_error(&name, &error);
        let message = format!("path '{hash}-{name}' is not a valid store path: {why}");
        Error::new(ErrorKind::Other, message)
    })
}

/// The error of an invalid name of a store path, as worded by C++ Nix.
pub(crate) fn name_error(name: &str, error: &NameError) -> String {
    match error {
        NameError::Empty => "name must not be empty".to_owned(),
        NameError::TooLong(_) => {
            format!("name '{name}' must be no longer than {MAX_NAME_LEN} characters")
        }
        NameError::InvalidByte { byte, .. } => {
            let byte = lossy(&[*byte]);
            format!("name '{name}' contains illegal character '{byte}'")
        }
        NameError::Dots => match name.split_once('-') {
            None => format!("name '{name}' is not valid"),
            Some((first, _)) => format!(
                "name '{name}' is not valid: first dash-separated component must not be '{first}'"
            ),
        },
        other => format!("name '{name}' is not valid: {other}"),
    }
}

/// An error with all of its sources.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
