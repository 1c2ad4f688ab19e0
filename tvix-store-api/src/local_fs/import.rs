//! Adding a local tree in a single read: it is copied to the store's file system and hashed at the
//! same time, and gets its name once the hash is known.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar::{NarError, Parser};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{PathReferences, StorePath, content_addressed_path};
use tvix_tree::{RestoreOptions, TreeError, Unpacker};

use super::add::{NewPath, Tree};
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::ext::expect;
use crate::object::derivation_outputs;
use crate::verify::sha256;
use crate::{SourceTree, StoreError};
use tvix_tree::hash as hash_file;

/// Size limit, in bytes, of objects that are hashed and written by one thread.
const INLINE: usize = 1 << 20;

/// Size of the buffers for the hashing thread, in bytes, and number of buffers in flight.
const PIECE: usize = 256 << 10;
const PIECES: usize = 16;

/// Size limit, in bytes, of NARs that are held in memory and added in groups.
pub(super) const SMALL: usize = 64 << 10;

impl LocalStore {
    /// Adds a tree, and reads it only once: it is hashed while it is written. Only a few chunks of it
    /// are in memory at a time.
    ///
    /// If the future is dropped, the tree is either added as a whole or not at all.
    pub(super) async fn import_source(
        &self,
        tree: SourceTree,
    ) -> Result<Arc<PathInfo>, StoreError> {
        self.0.scratch()?;
        let permit = self.0.additions.clone().acquire_owned().await;
        let inner = self.0.clone();
        blocking(&self.0.uri, move || {
            let _held = permit;
            inner.import(tree)
        })
        .await
    }
}

impl Inner {
    /// Imports a tree. Blocks.
    pub(super) fn import(&self, tree: SourceTree) -> Result<Arc<PathInfo>, StoreError> {
        let SourceTree {
            file,
            expected,
            method,
            references,
        } = tree;
        let (file, name) = (file.as_path(), expected.name());
        // The path is not known yet: errors show a placeholder with the right name.
        let unknown = StorePath::new([0; 20], name.clone());
        let source = |error: TreeError| StoreError::Source {
            file: file.to_owned(),
            path: unknown.clone(),
            source: error.into(),
        };
        let unpacking = |error: TreeError| StoreError::Backend {
            store: self.uri.clone(),
            action: format!("write the contents of '{name}'"),
            retryable: false,
            source: error.into(),
        };
        if method != ContentAddressMethod::NixArchive {
            let kind = std::fs::symlink_metadata(file).map(|metadata| metadata.is_file());
            if matches!(kind, Ok(false)) {
                let error = StoreError::NotAFile {
                    path: unknown.clone(),
                };
                return Err(StoreError::Source {
                    file: file.to_owned(),
                    path: unknown.clone(),
                    source: error.into(),
                });
            }
        }
        let scratch = self.scratch()?.reserve();
        let options = RestoreOptions::default().with_canonical(true);
        let mut copy = Copy {
            unpacker: Unpacker::new(scratch.path(), options).map_err(unpacking)?,
            parser: Parser::new(),
            hashing: Hashing::new(),
            size: 0,
            failure: None,
        };
        let dumped = tvix_tree::dump_path(file, &mut copy);
        if let Some(error) = copy.failure.take() {
            return Err(unpacking(error));
        }
        dumped.map_err(source)?;
        copy.unpacker.finish().map_err(unpacking)?;
        let nar_hash = sha256(
            copy.hashing
                .finish()
                .map_err(|error| unpacking(NarError::Io(error).into()))?,
        );
        let hash = match method {
            ContentAddressMethod::NixArchive => NixHash::Sha256(nar_hash),
            method => hash_file(scratch.path(), method, HashAlgo::Sha256).map_err(source)?,
        };
        let address = ContentAddress { method, hash };
        let path_references = PathReferences::others(references.clone());
        let path =
            content_addressed_path(&self.store_dir, name.clone(), &address, &path_references);
        let path = path.ok_or_else(|| StoreError::AddressMismatch {
            path: unknown.clone(),
            address: Box::new(address.clone()),
        })?;
        expect(file, &expected, &path)?;
        let outputs = match path.is_derivation() && copy.size <= SMALL as u64 {
            true => std::fs::read(scratch.path())
                .map(|contents| derivation_outputs(&self.store_dir, &path, &contents))
                .unwrap_or_default(),
            false => Vec::new(),
        };
        let mut info = PathInfo::new(path, nar_hash, copy.size);
        info.references = references;
        info.ca = Some(address);
        let new = NewPath {
            info,
            outputs,
            scratch: Tree::Ours(scratch),
        };
        let mut registered = self.register_new(vec![new], &[])?;
        registered.pop().ok_or_else(|| StoreError::Bug {
            store: self.uri.clone(),
            message: "the registered path is missing from the result".to_owned(),
        })
    }
}

/// Unpacks and hashes a NAR.
struct Copy {
    unpacker: Unpacker,
    parser: Parser,
    hashing: Hashing,
    size: u64,
    /// An error of writing, as opposed to one of reading.
    failure: Option<TreeError>,
}

impl Copy {
    fn take(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let mut rest = bytes;
        loop {
            let step = self.parser.feed(rest)?;
            rest = &rest[step.consumed..];
            let Some(event) = step.event else {
                return Ok(());
            };
            self.unpacker.event(event)?;
        }
    }
}

impl io::Write for Copy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len() as u64;
        self.hashing.update(bytes)?;
        match self.take(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failure = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A hash that moves to another thread once there are many bytes.
enum Hashing {
    Here(Box<NixHasher>, usize),
    There(Other),
}

struct Other {
    piece: Vec<u8>,
    sender: SyncSender<Vec<u8>>,
    /// Empty buffers for reuse.
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<NixHasher>,
}

impl Hashing {
    fn new() -> Self {
        Self::Here(Box::new(NixHasher::new(HashAlgo::Sha256)), 0)
    }

    fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Here(hasher, size) => {
                hasher.update(bytes);
                *size += bytes.len();
                if *size > INLINE {
                    let hasher = NixHasher::clone(hasher);
                    *self = Self::There(Other::start(hasher)?);
                }
                Ok(())
            }
            Self::There(other) => {
                other.piece.extend_from_slice(bytes);
                match other.piece.len() >= PIECE {
                    true => other.send(),
                    false => Ok(()),
                }
            }
        }
    }

    fn finish(self) -> io::Result<NixHasher> {
        match self {
            Self::Here(hasher, _) => Ok(*hasher),
            Self::There(mut other) => {
                other.send()?;
                drop(other.sender);
                other
                    .thread
                    .join()
                    .map_err(|_| io::Error::other("hashing has panicked"))
            }
        }
    }
}

impl Other {
    fn start(mut hasher: NixHasher) -> io::Result<Self> {
        let (sender, pieces) = sync_channel::<Vec<u8>>(PIECES);
        let (back, empty) = sync_channel(PIECES + 2);
        let thread = std::thread::Builder::new()
            .name("hash".into())
            .spawn(move || {
                while let Ok(mut piece) = pieces.recv() {
                    hasher.update(&piece);
                    piece.clear();
                    let _ = back.try_send(piece);
                }
                hasher
            })?;
        Ok(Self {
            piece: Vec::with_capacity(2 * PIECE),
            sender,
            empty,
            thread,
        })
    }

    fn send(&mut self) -> io::Result<()> {
        let next = self.empty.try_recv();
        let next = next.unwrap_or_else(|_| Vec::with_capacity(2 * PIECE));
        let piece = std::mem::replace(&mut self.piece, next);
        let sent = self.sender.send(piece);
        sent.map_err(|_| io::Error::other("hashing has panicked"))
    }
}
