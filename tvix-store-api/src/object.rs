//! Verified store objects in memory.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use bytes::Bytes;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::nar::{self, Event, NarError, Parser};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{
    DRV_SUFFIX, PathReferences, StoreDir, StorePath, StorePathName, content_addressed_path,
    text_path,
};
use rustix::fs::{FileType, Mode, OFlags};
use thiserror::Error;

use crate::StoreError;
use crate::verify::{NarVerifier, check_address, digest, path_references};

/// The reason that a tree did not become the expected store path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ChangedError {
    #[error("it changed while it was being added")]
    Meanwhile,
    #[error("it has changed since its store path was computed: its path would be '{0}' now")]
    Since(StorePath),
}

/// A store object in memory with contents that match its info: either the contents were verified,
/// or the info was computed from them. A store only checks that the references are valid.
///
/// Meant for small objects; the argument of [`Store::add_many`](crate::Store::add_many).
#[derive(Debug, Clone)]
pub struct VerifiedObject {
    dir: StoreDir,
    info: PathInfo,
    nar: Bytes,
    outputs: Vec<(OutputName, StorePath)>,
}

impl VerifiedObject {
    /// Verifies `nar` against `info`, as [`Store::add`](crate::Store::add) does.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`], and those of [`NarVerifier`].
    pub fn verify(dir: &StoreDir, info: PathInfo, nar: Bytes) -> Result<Self, StoreError> {
        check_address(dir, &info)?;
        let mut verifier = NarVerifier::new(&info);
        verifier.update(&nar, |_| Ok(()))?;
        verifier.finish()?;
        Ok(Self::checked(dir, info, nar))
    }

    /// An object with contents and an address that were verified by the caller.
    pub(crate) fn checked(dir: &StoreDir, info: PathInfo, nar: Bytes) -> Self {
        let mut object = Self {
            dir: dir.clone(),
            info,
            nar,
            outputs: Vec::new(),
        };
        if object.info.path.is_derivation()
            && let Some((_, contents)) = object.single_file()
        {
            object.outputs = derivation_outputs(dir, &object.info.path, contents);
        }
        object
    }

    /// A text, under the path that follows from its contents and references.
    pub fn text(
        dir: &StoreDir,
        name: StorePathName,
        contents: &[u8],
        references: SortedSet<StorePath>,
    ) -> Self {
        let path = text_path(dir, name, contents, &references);
        let mut object = Self::addressed(dir, path, contents, ContentAddressMethod::Text);
        object.info.references = references;
        if object.info.path.is_derivation() {
            object.outputs = derivation_outputs(dir, &object.info.path, contents);
        }
        object
    }

    /// The `.drv` file of a derivation, under a path that was computed earlier.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if the path does not follow from the derivation.
    pub fn derivation_as(
        dir: &StoreDir,
        path: &StorePath,
        derivation: &Derivation,
    ) -> Result<Self, StoreError> {
        let contents = derivation.to_aterm(dir);
        let method = ContentAddressMethod::Text;
        let object = Self::file_as(dir, path, &contents, method, derivation.references())?;
        let outputs = known_outputs(dir, derivation);
        Ok(Self { outputs, ..object })
    }

    /// A file with these contents, under a path that was computed earlier by `method`:
    /// [`ContentAddressMethod::Flat`] or [`ContentAddressMethod::Text`].
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if the path does not follow from the contents.
    pub fn file_as(
        dir: &StoreDir,
        path: &StorePath,
        contents: &[u8],
        method: ContentAddressMethod,
        references: SortedSet<StorePath>,
    ) -> Result<Self, StoreError> {
        let mut object = Self::addressed(dir, path.clone(), contents, method);
        object.info.references = references;
        check_address(dir, &object.info)?;
        Ok(object)
    }

    /// A tree as a NAR, under a path that was computed earlier.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if the path does not follow from the NAR,
    /// [`StoreError::MalformedNar`].
    pub fn archive_as(
        dir: &StoreDir,
        path: &StorePath,
        nar: Bytes,
        references: SortedSet<StorePath>,
    ) -> Result<Self, StoreError> {
        let hash = digest(&nar);
        let mut info = PathInfo::new(path.clone(), hash, nar.len() as u64);
        info.references = references;
        info.ca = Some(ContentAddress {
            method: ContentAddressMethod::NixArchive,
            hash: NixHash::Sha256(hash),
        });
        Self::verify(dir, info, nar)
    }

    /// The file or tree at `file`, under a path that was computed earlier; `None` if its NAR
    /// exceeds `limit` bytes. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] if the tree cannot be read, or its path is no longer `path`.
    pub fn tree_as(
        file: &Path,
        dir: &StoreDir,
        path: &StorePath,
        method: ContentAddressMethod,
        references: SortedSet<StorePath>,
        limit: usize,
    ) -> Result<Option<Self>, StoreError> {
        let failed = |source: crate::BoxError| StoreError::Source {
            file: file.to_owned(),
            path: path.clone(),
            source,
        };
        let Some(nar) = small_nar(file, limit).map_err(|error| failed(error.into()))? else {
            return Ok(None);
        };
        let nar_hash = digest(&nar);
        let hash = match method {
            ContentAddressMethod::NixArchive => NixHash::Sha256(nar_hash),
            _ => match single_file(&nar) {
                Some((false, contents)) => NixHash::digest(HashAlgo::Sha256, contents),
                _ => return Err(failed(StoreError::NotAFile { path: path.clone() }.into())),
            },
        };
        let mut info = PathInfo::new(path.clone(), nar_hash, nar.len() as u64);
        info.references = references;
        let address = ContentAddress { method, hash };
        let references = path_references(&info);
        match content_addressed_path(dir, path.name().clone(), &address, &references) {
            Some(now) if now == *path => {}
            Some(now) => return Err(failed(ChangedError::Since(now).into())),
            None => {
                return Err(StoreError::AddressMismatch {
                    path: path.clone(),
                    address: Box::new(address),
                });
            }
        }
        info.ca = Some(address);
        Ok(Some(Self {
            dir: dir.clone(),
            info,
            nar,
            outputs: Vec::new(),
        }))
    }

    /// The file or tree at `file`, under the path that follows from its contents and `name`; `None`
    /// if its NAR exceeds `limit` bytes. Blocks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] if the tree cannot be read, or is not a regular file although
    /// `method` requires one.
    pub fn tree(
        file: &Path,
        dir: &StoreDir,
        name: &StorePathName,
        method: ContentAddressMethod,
        limit: usize,
    ) -> Result<Option<Self>, StoreError> {
        // The path is not known yet: errors show a placeholder with the right name.
        let unknown = StorePath::new([0; 20], name.clone());
        let failed = |source: crate::BoxError| StoreError::Source {
            file: file.to_owned(),
            path: unknown.clone(),
            source,
        };
        let Some(nar) = small_nar(file, limit).map_err(|error| failed(error.into()))? else {
            return Ok(None);
        };
        let nar_hash = digest(&nar);
        let file_contents = single_file(&nar);
        let hash = match (method, file_contents) {
            (ContentAddressMethod::NixArchive, _) => NixHash::Sha256(nar_hash),
            (_, Some((false, contents))) => NixHash::digest(HashAlgo::Sha256, contents),
            _ => {
                let path = unknown.clone();
                return Err(failed(StoreError::NotAFile { path }.into()));
            }
        };
        let address = ContentAddress { method, hash };
        let none = PathReferences::others(SortedSet::new());
        let path = content_addressed_path(dir, name.clone(), &address, &none);
        let path = path.ok_or_else(|| StoreError::AddressMismatch {
            path: unknown.clone(),
            address: Box::new(address.clone()),
        })?;
        let outputs = match file_contents {
            Some((_, contents)) if path.is_derivation() => derivation_outputs(dir, &path, contents),
            _ => Vec::new(),
        };
        let mut info = PathInfo::new(path, nar_hash, nar.len() as u64);
        info.ca = Some(address);
        Ok(Some(Self {
            dir: dir.clone(),
            info,
            nar,
            outputs,
        }))
    }

    /// The info of the object.
    pub fn info(&self) -> &PathInfo {
        &self.info
    }

    /// The store path of the object.
    pub fn path(&self) -> &StorePath {
        &self.info.path
    }

    /// The contents of the object, as a NAR.
    pub fn nar(&self) -> &Bytes {
        &self.nar
    }

    /// The store directory that the path was computed for.
    pub fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// The outputs with known paths, if the object is a derivation that could be parsed. Empty
    /// otherwise.
    pub fn outputs(&self) -> &[(OutputName, StorePath)] {
        &self.outputs
    }

    /// If the object is a single file: whether it is executable, and its contents.
    pub fn single_file(&self) -> Option<(bool, &[u8])> {
        single_file(&self.nar)
    }

    /// The info and the contents of the object.
    pub fn into_parts(self) -> (PathInfo, Bytes) {
        (self.info, self.nar)
    }

    /// A file with these contents and their content address under `path`, without checking `path`.
    fn addressed(
        dir: &StoreDir,
        path: StorePath,
        contents: &[u8],
        method: ContentAddressMethod,
    ) -> Self {
        let nar = nar_of_file(false, contents);
        let hash = match method {
            ContentAddressMethod::NixArchive => NixHash::digest(HashAlgo::Sha256, &nar),
            _ => NixHash::digest(HashAlgo::Sha256, contents),
        };
        let mut info = PathInfo::new(path, digest(&nar), nar.len() as u64);
        info.ca = Some(ContentAddress { method, hash });
        Self {
            dir: dir.clone(),
            info,
            nar,
            outputs: Vec::new(),
        }
    }
}

/// The outputs of a derivation with paths known from the derivation itself, as Nix keeps them in
/// its database.
fn known_outputs(dir: &StoreDir, derivation: &Derivation) -> Vec<(OutputName, StorePath)> {
    let outputs = derivation.output_paths(dir);
    outputs
        .filter_map(|(name, path)| Some((name.clone(), path?)))
        .collect()
}

/// The same for the contents of a `.drv` file. A file that does not parse (a later version of the
/// format, or another file with that suffix) is stored like any other file.
pub(crate) fn derivation_outputs(
    dir: &StoreDir,
    path: &StorePath,
    contents: &[u8],
) -> Vec<(OutputName, StorePath)> {
    let name = path.name().as_str().strip_suffix(DRV_SUFFIX);
    let Some(Ok(name)) = name.map(str::parse) else {
        return Vec::new();
    };
    match Derivation::from_aterm(dir, name, contents) {
        Ok(derivation) => known_outputs(dir, &derivation),
        Err(_) => Vec::new(),
    }
}

fn nar_of_file(executable: bool, contents: &[u8]) -> Bytes {
    let mut writer = nar::Writer::new(Vec::with_capacity(contents.len() + 256));
    let written = writer
        .regular(executable, contents)
        .and_then(|()| writer.finish());
    match written {
        Ok(nar) => nar.into(),
        Err(_) => unreachable!("one file, in memory"),
    }
}

/// The file in `nar`, if the NAR is a single file.
fn single_file(nar: &[u8]) -> Option<(bool, &[u8])> {
    let mut parser = Parser::new();
    let step = parser.feed(nar).ok()?;
    let Event::RegularStart { executable, size } = step.event? else {
        return None;
    };
    let rest = nar.get(step.consumed..)?;
    // The archive was verified as well-formed when the object was created.
    Some((executable, rest.get(..usize::try_from(size).ok()?)?))
}

/// The NAR of a file or tree; `None` if it exceeds `limit` bytes.
pub(crate) fn small_nar(file: &Path, limit: usize) -> Result<Option<Bytes>, NarError> {
    if let Some(nar) = small_file(file, limit).map_err(|source| NarError::File {
        action: "read",
        path: file.to_owned(),
        source,
    })? {
        return Ok(Some(nar));
    }
    let mut limited = Limited {
        written: Vec::new(),
        limit,
        exceeded: false,
    };
    match tvix_tree::dump_path(file, &mut limited) {
        Ok(()) => Ok(Some(limited.written.into())),
        Err(_) if limited.exceeded => Ok(None),
        Err(error) => Err(error),
    }
}

/// The NAR of a small regular file; `None` for anything else and for a file that changes meanwhile.
fn small_file(file: &Path, limit: usize) -> io::Result<Option<Bytes>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(file, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    let stat = rustix::fs::fstat(&opened)?;
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > limit {
        return Ok(None);
    }
    // One byte more: a read that fills it shows that the file has grown, and a short read is the
    // end of the file.
    let mut contents = vec![0; size + 1];
    let (mut file, mut len) = (File::from(opened), 0);
    loop {
        match file.read(&mut contents[len..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => match read? {
                0 => break,
                more => len += more,
            },
        }
        if len >= size {
            break;
        }
    }
    contents.truncate(len);
    let executable = stat.st_mode & 0o100 != 0;
    Ok((contents.len() == size).then(|| nar_of_file(executable, &contents)))
}

struct Limited {
    written: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > self.limit {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix_compat::store_path::PathReferences;

    use super::*;

    fn dir() -> StoreDir {
        StoreDir::default()
    }

    #[test]
    fn a_tree_is_read_if_it_is_small_and_what_it_was() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        std::fs::write(&file, "contents").unwrap();
        let (recursive, none) = (ContentAddressMethod::NixArchive, SortedSet::new);
        let nar = nar_of_file(false, b"contents");
        let address = ContentAddress {
            method: recursive,
            hash: NixHash::digest(HashAlgo::Sha256, &nar),
        };
        let name: StorePathName = "file".parse().unwrap();
        let references = PathReferences::default();
        let path = content_addressed_path(&dir(), name, &address, &references).unwrap();
        let tree = |limit| VerifiedObject::tree_as(&file, &dir(), &path, recursive, none(), limit);
        let object = tree(1000).unwrap().unwrap();
        assert_eq!(object.single_file(), Some((false, &b"contents"[..])));
        assert_eq!(object.nar(), &nar);
        assert!(tree(7).unwrap().is_none());
        let archive = |references| VerifiedObject::archive_as(&dir(), &path, nar, references);
        assert!(archive(none()).is_ok_and(|it| it.path() == &path));
        std::fs::write(&file, "changed!").unwrap();
        assert!(matches!(tree(1000), Err(StoreError::Source { .. })));
    }

    #[test]
    fn contents_must_be_those_of_the_path() {
        let text = VerifiedObject::text(&dir(), "x".parse().unwrap(), b"x", SortedSet::new());
        let method = ContentAddressMethod::Text;
        let as_text = |contents: &[u8]| {
            VerifiedObject::file_as(&dir(), text.path(), contents, method, SortedSet::new())
        };
        assert_eq!(as_text(b"x").unwrap().info(), text.info());
        let error = as_text(b"y").unwrap_err();
        assert!(
            matches!(error, StoreError::AddressMismatch { .. }),
            "{error}"
        );
        let mut lie = text.info().clone();
        lie.nar_size += 1;
        assert!(VerifiedObject::verify(&dir(), lie, text.nar().clone()).is_err());
        VerifiedObject::verify(&dir(), text.info().clone(), text.nar().clone()).unwrap();
    }
}
