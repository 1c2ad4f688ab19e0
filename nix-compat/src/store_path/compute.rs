//! Computation of store paths (Nix manual, "Complete store path calculation").

use super::{DIGEST_LEN, HASH_PART_LEN, NameError, StoreDir, StorePath, StorePathName};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::derivation::OutputName;
use crate::nixhash::{NixHash, hex, sha256, sha256_of};
use crate::sorted::SortedSet;

/// The references of a content-addressed store path, from which the path is computed too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathReferences {
    /// References to other store paths.
    pub others: SortedSet<StorePath>,
    /// Whether the path refers to itself. Its hash is then computed with its own hash part replaced
    /// by zeroes in the contents.
    pub to_self: bool,
}

impl PathReferences {
    /// References to other store paths only.
    pub fn others(others: SortedSet<StorePath>) -> Self {
        Self {
            others,
            to_self: false,
        }
    }

    /// Whether there are no references.
    pub fn is_empty(&self) -> bool {
        self.others.is_empty() && !self.to_self
    }
}

/// Folds a hash to `N` bytes by XOR, as store paths do with SHA-256.
pub fn compress_hash<const N: usize>(hash: &[u8]) -> [u8; N] {
    let mut folded = [0; N];
    for (index, byte) in hash.iter().enumerate() {
        folded[index % N] ^= byte;
    }
    folded
}

/// The digest of a store path: `type:sha256:<hex>:<store directory>:<name>`, hashed and folded.
fn store_path(dir: &StoreDir, path_type: &str, inner: &[u8; 32], name: StorePathName) -> StorePath {
    let digest = hex(inner);
    // One text: most of these are short, and hashing several pieces takes longer than joining them.
    let text = [
        path_type.as_bytes(),
        b":sha256:",
        digest.as_flattened(),
        b":",
        dir.as_str().as_bytes(),
        b":",
        name.as_str().as_bytes(),
    ];
    let hash = sha256(&text.concat());
    StorePath::new(compress_hash::<DIGEST_LEN>(&hash), name)
}

fn path_type_with_references(
    dir: &StoreDir,
    path_type: &str,
    references: &SortedSet<StorePath>,
    to_self: bool,
) -> String {
    let lengths = references.iter().map(|path| path.name().as_str().len());
    let each = dir.as_str().len() + HASH_PART_LEN + 3;
    let room = lengths.sum::<usize>() + references.len() * each;
    let mut text = String::with_capacity(path_type.len() + room + ":self".len());
    text.push_str(path_type);
    for reference in references.iter() {
        text.push(':');
        dir.push_path(reference, &mut text);
    }
    if to_self {
        text.push_str(":self");
    }
    text
}

/// The store path of a text, such as a `.drv` file or the result of `builtins.toFile`.
pub fn text_path(
    dir: &StoreDir,
    name: StorePathName,
    contents: &[u8],
    references: &SortedSet<StorePath>,
) -> StorePath {
    text_path_of_hash(dir, name, &sha256(contents), references)
}

/// [`text_path`] of contents with the SHA-256 `hash`.
pub(crate) fn text_path_of_hash(
    dir: &StoreDir,
    name: StorePathName,
    hash: &[u8; 32],
    references: &SortedSet<StorePath>,
) -> StorePath {
    let path_type = path_type_with_references(dir, "text", references, false);
    store_path(dir, &path_type, hash, name)
}

/// The store path of contents with the content address `address`.
///
/// `None` if the address does not allow these references: a text may not refer to itself, and only
/// a text or a NAR hashed with SHA-256 may have references.
pub fn content_addressed_path(
    dir: &StoreDir,
    name: StorePathName,
    address: &ContentAddress,
    references: &PathReferences,
) -> Option<StorePath> {
    match (address.method, &address.hash) {
        (ContentAddressMethod::Text, NixHash::Sha256(hash)) if !references.to_self => {
            let path_type = path_type_with_references(dir, "text", &references.others, false);
            Some(store_path(dir, &path_type, hash, name))
        }
        (ContentAddressMethod::Text, _) => None,
        (ContentAddressMethod::NixArchive, NixHash::Sha256(hash)) => {
            let PathReferences { others, to_self } = references;
            let path_type = path_type_with_references(dir, "source", others, *to_self);
            Some(store_path(dir, &path_type, hash, name))
        }
        (method, hash) if references.is_empty() => {
            let hex = data_encoding::HEXLOWER.encode(hash.digest_bytes());
            let inner = sha256_of(&[
                b"fixed:out:",
                method.prefix().as_bytes(),
                hash.algo().name().as_bytes(),
                b":",
                hex.as_bytes(),
                b":",
            ]);
            Some(store_path(dir, "output:out", &inner, name))
        }
        _ => None,
    }
}

/// The store path of a fixed output without references.
pub fn fixed_output_path(
    dir: &StoreDir,
    name: StorePathName,
    address: &ContentAddress,
) -> Option<StorePath> {
    content_addressed_path(dir, name, address, &PathReferences::default())
}

/// The name of an output's store path: the derivation's name, with `-<output>` appended unless the
/// output is `out`.
///
/// # Errors
///
/// If the resulting name is too long.
pub fn output_path_name(
    derivation: &StorePathName,
    output: &OutputName,
) -> Result<StorePathName, NameError> {
    if output.as_str() == "out" {
        return Ok(derivation.clone());
    }
    [derivation.as_str(), "-", output.as_str()].concat().parse()
}

/// The store path of an input-addressed output. `hash_modulo` is the derivation's hash modulo fixed
/// outputs.
///
/// # Errors
///
/// If the resulting name is too long.
pub fn output_path(
    dir: &StoreDir,
    derivation: &StorePathName,
    output: &OutputName,
    hash_modulo: &[u8; 32],
) -> Result<StorePath, NameError> {
    let name = output_path_name(derivation, output)?;
    Ok(store_path(
        dir,
        &["output:", output.as_str()].concat(),
        hash_modulo,
        name,
    ))
}
