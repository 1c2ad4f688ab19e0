//! Verification of contents against their info: the checks that `add` of every back end does.
//!
//! ```
//! use nix_compat::nar::Writer;
//! use tvix_store_api::verify::{NarVerifier, digest};
//! use tvix_store_api::PathInfo;
//!
//! let mut writer = Writer::new(Vec::new());
//! writer.regular(false, b"hello")?;
//! let nar = writer.finish()?;
//! let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse()?;
//! let info = PathInfo::new(path, digest(&nar), nar.len() as u64);
//!
//! let mut verifier = NarVerifier::new(&info);
//! for chunk in nar.chunks(7) {
//!     verifier.update(chunk, |_event| Ok(()))?;
//! }
//! verifier.finish()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar::{Event, NarError, Parser, Violation};
#[cfg(doc)]
use nix_compat::nixhash::SelfReferenceHashes;
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher, SelfReferenceHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{PathReferences, StoreDir, StorePath, content_addressed_path};

use crate::StoreError;

/// The SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = NixHasher::new(HashAlgo::Sha256);
    hasher.update(bytes);
    sha256(hasher)
}

/// Finishes a SHA-256 hasher.
pub(crate) fn sha256(hasher: NixHasher) -> [u8; 32] {
    match hasher.finish() {
        NixHash::Sha256(hash) => hash,
        _ => unreachable!("made for SHA-256"),
    }
}

/// The references of `info`, in the form that the path is computed from.
pub fn path_references(info: &PathInfo) -> PathReferences {
    let others = info.references.iter().filter(|path| **path != info.path);
    PathReferences {
        others: others.cloned().collect(),
        to_self: info.references.contains(&info.path),
    }
}

/// Checks that `info.path` follows from its content address, if it has one.
///
/// # Errors
///
/// [`StoreError::AddressMismatch`].
pub fn check_address(dir: &StoreDir, info: &PathInfo) -> Result<(), StoreError> {
    let Some(address) = &info.ca else {
        return Ok(());
    };
    let references = path_references(info);
    match content_addressed_path(dir, info.path.name().clone(), address, &references) {
        Some(path) if path == info.path => Ok(()),
        _ => Err(StoreError::AddressMismatch {
            path: info.path.clone(),
            address: Box::new(address.clone()),
        }),
    }
}

/// Verifies a NAR stream against its [`PathInfo`]: syntax, size, hash, and the hash of the content
/// address. Never holds more of the NAR than a name.
///
/// The content address of a NAR that refers to itself may have either form of
/// [`SelfReferenceHashes`]; paths of Nix 2.17 to 2.34 have the second one. The second form
/// identifies the contents only together with the NAR hash.
/// [`BinaryCache`](crate::cache::BinaryCache) accepts only the first form where nothing else
/// authenticates the NAR hash.
///
/// Not verified here: that the path follows from the content address ([`check_address`]), and that
/// the references are valid.
pub struct NarVerifier {
    path: StorePath,
    nar_hash: [u8; 32],
    nar_size: u64,
    parser: Parser,
    hasher: NixHasher,
    size: u64,
    address: Option<AddressVerifier>,
}

/// Recomputes a content address that does not follow from the NAR's hash.
pub(crate) struct AddressVerifier {
    path: StorePath,
    expected: NixHash,
    hashed: Hashed,
}

enum Hashed {
    /// A hash of the contents of the single file; `None` if the NAR is something else.
    File(Option<NixHasher>),
    /// A hash of the NAR, by another algorithm.
    Nar(NixHasher),
    /// A hash of the NAR without its references to itself.
    Modulo(Box<SelfReferenceHasher>),
}

impl AddressVerifier {
    /// `None` if there is no content address, or it follows from the NAR hash.
    pub(crate) fn new(info: &PathInfo) -> Option<Self> {
        let ContentAddress { method, hash } = info.ca.as_ref()?;
        let algo = hash.algo();
        let hashed = match method {
            ContentAddressMethod::Text | ContentAddressMethod::Flat => {
                Hashed::File(Some(NixHasher::new(algo)))
            }
            ContentAddressMethod::NixArchive if info.references.contains(&info.path) => {
                Hashed::Modulo(Box::new(SelfReferenceHasher::new(algo, &info.path)))
            }
            ContentAddressMethod::NixArchive => match hash {
                NixHash::Sha256(hash) if *hash == info.nar_hash => return None,
                _ => Hashed::Nar(NixHasher::new(algo)),
            },
        };
        Some(Self {
            path: info.path.clone(),
            expected: hash.clone(),
            hashed,
        })
    }

    /// Takes an event of the archive. The contents of a single file are hashed.
    pub(crate) fn event(&mut self, event: Event<'_>) {
        let Hashed::File(file) = &mut self.hashed else {
            return;
        };
        match event {
            Event::Contents(bytes) => {
                if let Some(hasher) = file {
                    hasher.update(bytes);
                }
            }
            // Only a single file that is not executable has such an address.
            Event::DirectoryStart
            | Event::Symlink { .. }
            | Event::RegularStart {
                executable: true, ..
            } => *file = None,
            _ => {}
        }
    }

    /// Takes bytes of the archive.
    pub(crate) fn nar(&mut self, bytes: &[u8]) {
        match &mut self.hashed {
            Hashed::File(_) => {}
            Hashed::Nar(hasher) => hasher.update(bytes),
            Hashed::Modulo(hasher) => hasher.update(bytes),
        }
    }

    /// Takes the end of the archive.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        let Self {
            path,
            expected,
            hashed,
        } = self;
        let actual = match hashed {
            Hashed::File(Some(hasher)) | Hashed::Nar(hasher) => hasher.finish(),
            Hashed::Modulo(hasher) => {
                let hashes = hasher.finish_both();
                if hashes.contains(&expected) {
                    return Ok(());
                }
                hashes.with_offsets
            }
            Hashed::File(None) => return Err(StoreError::NotAFile { path }),
        };
        match actual == expected {
            true => Ok(()),
            false => Err(StoreError::HashMismatch {
                path,
                expected,
                actual,
            }),
        }
    }
}

impl std::fmt::Debug for NarVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NarVerifier")
            .field("path", &self.path)
            .field("offset", &self.size)
            .finish_non_exhaustive()
    }
}

impl NarVerifier {
    /// A verifier for the NAR of `info`, before its first byte.
    pub fn new(info: &PathInfo) -> Self {
        Self {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            parser: Parser::new(),
            hasher: NixHasher::new(HashAlgo::Sha256),
            size: 0,
            address: AddressVerifier::new(info),
        }
    }

    /// Takes more of the NAR, in chunks of any size, and passes its events to `on_event`.
    ///
    /// The events are those of a prefix of a well-formed archive. Nothing else is verified before
    /// [`finish`](Self::finish) returns.
    ///
    /// # Errors
    ///
    /// [`StoreError::MalformedNar`]; [`StoreError::SizeMismatch`] as soon as there are more bytes
    /// than announced; and errors of `on_event`. The verifier must not be used after an error.
    pub fn update(
        &mut self,
        bytes: &[u8],
        mut on_event: impl FnMut(Event<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.size += bytes.len() as u64;
        if self.size > self.nar_size {
            return Err(self.size_mismatch());
        }
        self.hasher.update(bytes);
        if let Some(address) = &mut self.address {
            address.nar(bytes);
        }
        let mut rest = bytes;
        loop {
            let step = self
                .parser
                .feed(rest)
                .map_err(|error| malformed(&self.path, error))?;
            rest = &rest[step.consumed..];
            let Some(event) = step.event else {
                break;
            };
            if let Some(address) = &mut self.address {
                address.event(event);
            }
            on_event(event)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let error = NarError::Malformed {
            offset: self.parser.offset(),
            path: self.parser.path(),
            violation: Violation::TrailingBytes,
        };
        Err(malformed(&self.path, error))
    }

    /// Takes the end of the NAR.
    ///
    /// # Errors
    ///
    /// [`StoreError::MalformedNar`] if the NAR is incomplete, [`StoreError::SizeMismatch`], and
    /// [`StoreError::HashMismatch`], also for the content address.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.parser
            .finish()
            .map_err(|error| malformed(&self.path, error))?;
        if self.size != self.nar_size {
            return Err(self.size_mismatch());
        }
        let actual = sha256(self.hasher);
        if actual != self.nar_hash {
            return Err(StoreError::HashMismatch {
                path: self.path,
                expected: NixHash::Sha256(self.nar_hash),
                actual: NixHash::Sha256(actual),
            });
        }
        self.address.map_or(Ok(()), AddressVerifier::finish)
    }

    fn size_mismatch(&self) -> StoreError {
        StoreError::SizeMismatch {
            path: self.path.clone(),
            expected: self.nar_size,
            actual: self.size,
        }
    }
}

pub(crate) fn malformed(path: &StorePath, error: NarError) -> StoreError {
    StoreError::MalformedNar {
        path: path.clone(),
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use nix_compat::nar::Writer;
    use nix_compat::nixhash::SelfReferenceHashes;
    use nix_compat::sorted::SortedSet;
    use nix_compat::store_path::fixed_output_path;

    use super::*;

    fn nar(executable: bool, contents: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.regular(executable, contents).unwrap();
        writer.finish().unwrap()
    }

    fn verify(info: &PathInfo, nar: &[u8]) -> Result<(), StoreError> {
        check_address(&StoreDir::default(), info)?;
        let mut verifier = NarVerifier::new(info);
        verifier.update(nar, |_| Ok(()))?;
        verifier.finish()
    }

    fn fixed(method: ContentAddressMethod, hash: NixHash, nar: &[u8]) -> PathInfo {
        let address = ContentAddress { method, hash };
        let path = fixed_output_path(&StoreDir::default(), "x".parse().unwrap(), &address);
        let mut info = PathInfo::new(path.unwrap(), digest(nar), nar.len() as u64);
        info.ca = Some(address);
        info
    }

    #[test]
    fn addresses_are_recomputed() {
        let nar_bytes = nar(false, b"x");
        let flat = ContentAddressMethod::Flat;
        for algo in [HashAlgo::Md5, HashAlgo::Sha256, HashAlgo::Sha512] {
            let info = fixed(flat, NixHash::digest(algo, b"x"), &nar_bytes);
            verify(&info, &nar_bytes).unwrap();
            let lie = fixed(flat, NixHash::digest(algo, b"y"), &nar_bytes);
            let error = verify(&lie, &nar_bytes).unwrap_err();
            assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
            let recursive = ContentAddressMethod::NixArchive;
            let info = fixed(recursive, NixHash::digest(algo, &nar_bytes), &nar_bytes);
            verify(&info, &nar_bytes).unwrap();
        }
        let executable = nar(true, b"x");
        let info = fixed(flat, NixHash::digest(HashAlgo::Sha256, b"x"), &executable);
        let error = verify(&info, &executable).unwrap_err();
        assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
    }

    /// A NAR that refers to itself, under the path of its content address in the form that `form`
    /// selects.
    fn addressed_to_itself(
        form: impl Fn(SelfReferenceHashes) -> NixHash,
        contents: impl Fn(&str) -> String,
    ) -> (PathInfo, Vec<u8>) {
        let dir = StoreDir::default();
        let scratch: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-self".parse().unwrap();
        let made = nar(false, contents(&scratch.hash_part()).as_bytes());
        let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &scratch);
        hasher.update(&made);
        let address = ContentAddress {
            method: ContentAddressMethod::NixArchive,
            hash: form(hasher.finish_both()),
        };
        let references = PathReferences {
            to_self: true,
            ..Default::default()
        };
        let name = scratch.name().clone();
        let path = content_addressed_path(&dir, name, &address, &references).unwrap();
        let made = nar(false, contents(&path.hash_part()).as_bytes());
        let mut info = PathInfo::new(path.clone(), digest(&made), made.len() as u64);
        info.references = SortedSet::from([path]);
        info.ca = Some(address);
        (info, made)
    }

    #[test]
    fn contents_that_refer_to_themselves_have_two_forms() {
        let contents = |own: &str| format!("{own} and {own}");
        let forms: [fn(SelfReferenceHashes) -> NixHash; 2] =
            [|it| it.with_offsets, |it| it.without_offsets];
        let mut paths = Vec::new();
        for form in forms {
            let (info, made) = addressed_to_itself(form, contents);
            verify(&info, &made).unwrap();
            // Either form is a hash of all contents.
            let mut info = info;
            let own = info.path.hash_part();
            let changed = nar(false, format!("{own} or  {own}").as_bytes());
            info.nar_hash = digest(&changed);
            let error = verify(&info, &changed).unwrap_err();
            assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
            paths.push(info.path);
        }
        assert_ne!(paths[0], paths[1]);
        // Neither of the forms.
        let other = |_| NixHash::digest(HashAlgo::Sha256, b"something else");
        let (info, made) = addressed_to_itself(other, contents);
        let error = verify(&info, &made).unwrap_err();
        assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
    }

    #[test]
    fn the_path_must_follow_from_the_address() {
        let nar_bytes = nar(false, b"x");
        let hash = NixHash::digest(HashAlgo::Sha256, b"x");
        let mut info = fixed(ContentAddressMethod::Flat, hash, &nar_bytes);
        let other: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-y".parse().unwrap();
        info.references = SortedSet::from([other.clone()]);
        let error = verify(&info, &nar_bytes).unwrap_err();
        assert!(
            matches!(error, StoreError::AddressMismatch { .. }),
            "{error}"
        );
        info.references = SortedSet::new();
        info.path = other;
        assert!(verify(&info, &nar_bytes).is_err());
    }

    #[test]
    fn truncated_trailing_and_oversized() {
        let nar_bytes = nar(false, b"x");
        let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-y".parse().unwrap();
        let mut info = PathInfo::new(path, digest(&nar_bytes), nar_bytes.len() as u64);
        let short = verify(&info, &nar_bytes[..100]).unwrap_err();
        assert!(matches!(short, StoreError::MalformedNar { .. }), "{short}");
        let long = [&nar_bytes[..], b"more"].concat();
        let error = verify(&info, &long).unwrap_err();
        assert!(matches!(error, StoreError::SizeMismatch { .. }), "{error}");
        info.nar_size = nar_bytes.len() as u64 + 8;
        let error = verify(&info, &nar_bytes).unwrap_err();
        assert!(matches!(error, StoreError::SizeMismatch { .. }), "{error}");
        info.nar_size = long.len() as u64;
        let error = verify(&info, &long).unwrap_err();
        assert!(matches!(error, StoreError::MalformedNar { .. }), "{error}");
    }
}
