//! The parser of `.narinfo` files.

use thiserror::Error;

use super::{Compression, NarInfo};
use crate::content_address::{ContentAddress, ContentAddressError};
use crate::nixhash::{HashError, NixHash};
use crate::path_info::PathInfo;
use crate::signature::{Signature, SignatureError};
use crate::sorted::SortedSet;
use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Why a text is not a narinfo. Line numbers start at 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NarInfoError {
    /// A line is not `Name: value`.
    #[error("line {line} is not 'Name: value'")]
    NoColon {
        /// Line number.
        line: usize,
    },
    /// The last line lacks its newline: the file is probably truncated.
    #[error("line {line} does not end in a newline")]
    NoNewline {
        /// Line number.
        line: usize,
    },
    /// A duplicate field.
    #[error("line {line}: a second {field}")]
    Duplicate {
        /// Line number of the duplicate.
        line: usize,
        /// Name of the field.
        field: &'static str,
    },
    /// The value of a field is invalid.
    #[error("line {line}: bad {field}")]
    Invalid {
        /// Line number.
        line: usize,
        /// Name of the field.
        field: &'static str,
        /// The reason.
        source: FieldError,
    },
    /// A required field is missing.
    #[error("no {field}")]
    Missing {
        /// Name of the field.
        field: &'static str,
    },
}

/// Why the value of a field is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// An invalid store path, or a path in another store directory.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// An invalid hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The hash of the NAR is not SHA-256.
    #[error("'{0}' is not a SHA-256")]
    NotSha256(String),
    /// An invalid content address.
    #[error(transparent)]
    ContentAddress(#[from] ContentAddressError),
    /// An invalid signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not a decimal number of bytes below 2^64.
    #[error("'{0}' is not a number of bytes")]
    Number(String),
    /// The size is zero, which no NAR has.
    #[error("it is zero")]
    Zero,
    /// The value is empty.
    #[error("it is empty")]
    Empty,
}

#[derive(Default)]
struct Fields {
    path: Option<StorePath>,
    url: Option<String>,
    compression: Option<Compression>,
    file_hash: Option<NixHash>,
    file_size: Option<u64>,
    nar_hash: Option<[u8; 32]>,
    nar_size: Option<u64>,
    references: Option<SortedSet<StorePath>>,
    /// The inner `None` stands for a narinfo that declares its deriver unknown.
    deriver: Option<Option<StorePath>>,
    system: Option<String>,
    signatures: Vec<Signature>,
    ca: Option<Option<ContentAddress>>,
}

pub(super) fn parse(text: &str, dir: &StoreDir) -> Result<NarInfo, NarInfoError> {
    let mut fields = Fields::default();
    let mut line = 0;
    for raw in text.split_inclusive('\n') {
        line += 1;
        let content = raw.strip_suffix('\n');
        let content = content.ok_or(NarInfoError::NoNewline { line })?;
        let (name, value) = content
            .split_once(": ")
            .ok_or(NarInfoError::NoColon { line })?;
        fields.set(name, value, line, dir)?;
    }
    fields.finish()
}

impl Fields {
    fn set(
        &mut self,
        name: &str,
        value: &str,
        line: usize,
        dir: &StoreDir,
    ) -> Result<(), NarInfoError> {
        match name {
            "StorePath" => once(&mut self.path, "StorePath", line, || Ok(dir.parse(value)?)),
            "URL" => once(&mut self.url, "URL", line, || nonempty(value)),
            "Compression" => once(&mut self.compression, "Compression", line, || {
                Ok(value.into())
            }),
            "FileHash" => once(&mut self.file_hash, "FileHash", line, || {
                Ok(NixHash::parse_any(value, None)?)
            }),
            "FileSize" => once(&mut self.file_size, "FileSize", line, || number(value)),
            "NarHash" => once(
                &mut self.nar_hash,
                "NarHash",
                line,
                || match NixHash::parse_any(value, None)? {
                    NixHash::Sha256(hash) => Ok(hash),
                    _ => Err(FieldError::NotSha256(value.to_owned())),
                },
            ),
            "NarSize" => once(&mut self.nar_size, "NarSize", line, || {
                match number(value)? {
                    0 => Err(FieldError::Zero),
                    size => Ok(size),
                }
            }),
            "References" => once(&mut self.references, "References", line, || {
                let words = value.split(' ').filter(|word| !word.is_empty());
                Ok(words
                    .map(StorePath::from_base_name)
                    .collect::<Result<_, _>>()?)
            }),
            "Deriver" => once(&mut self.deriver, "Deriver", line, || match value {
                "unknown-deriver" => Ok(None),
                path => Ok(Some(StorePath::from_base_name(path)?)),
            }),
            "System" => once(&mut self.system, "System", line, || Ok(value.to_owned())),
            "Sig" => {
                let mut one = None;
                once(&mut one, "Sig", line, || Ok(value.parse()?))?;
                self.signatures.extend(one);
                Ok(())
            }
            "CA" => once(&mut self.ca, "CA", line, || match value {
                "" => Ok(None),
                ca => Ok(Some(ca.parse()?)),
            }),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        let missing = |field| NarInfoError::Missing { field };
        let path = self.path.ok_or(missing("StorePath"))?;
        let url = self.url.ok_or(missing("URL"))?;
        let nar_hash = self.nar_hash.ok_or(missing("NarHash"))?;
        let nar_size = self.nar_size.ok_or(missing("NarSize"))?;
        Ok(NarInfo {
            info: PathInfo {
                references: self.references.unwrap_or_default(),
                deriver: self.deriver.flatten(),
                ca: self.ca.flatten(),
                signatures: self.signatures,
                ..PathInfo::new(path, nar_hash, nar_size)
            },
            url,
            compression: self.compression.unwrap_or_default(),
            file_hash: self.file_hash,
            file_size: self.file_size,
            system: self.system,
        })
    }
}

/// Sets a field that must not occur twice.
fn once<T>(
    slot: &mut Option<T>,
    field: &'static str,
    line: usize,
    parse: impl FnOnce() -> Result<T, FieldError>,
) -> Result<(), NarInfoError> {
    if slot.is_some() {
        return Err(NarInfoError::Duplicate { line, field });
    }
    let value = parse().map_err(|source| NarInfoError::Invalid {
        line,
        field,
        source,
    })?;
    *slot = Some(value);
    Ok(())
}

fn nonempty(value: &str) -> Result<String, FieldError> {
    if value.is_empty() {
        return Err(FieldError::Empty);
    }
    Ok(value.to_owned())
}

fn number(value: &str) -> Result<u64, FieldError> {
    // `parse` alone accepts a plus sign.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| FieldError::Number(value.to_owned()))
}
