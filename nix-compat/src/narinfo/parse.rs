//! Parses `.narinfo` files.

use thiserror::Error;

use super::{Compression, NarInfo};
use crate::content_address::{ContentAddress, ContentAddressError};
use crate::nixhash::{HashError, NixHash};
use crate::path_info::PathInfo;
use crate::signature::{Signature, SignatureError};
use crate::sorted::SortedSet;
use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Why a text is no narinfo. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NarInfoError {
    /// A line is not `Name: value`.
    #[error("line {line} is not 'Name: value'")]
    NoColon {
        /// Which.
        line: usize,
    },
    /// The last line does not end: the file is probably truncated.
    #[error("line {line} does not end in a newline")]
    NoNewline {
        /// Which.
        line: usize,
    },
    /// A field comes a second time.
    #[error("line {line}: a second {field}")]
    Duplicate {
        /// The second one's.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// A field's value does not parse.
    #[error("line {line}: bad {field}")]
    Invalid {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: FieldError,
    },
    /// A field that must be there is not.
    #[error("no {field}")]
    Missing {
        /// Which.
        field: &'static str,
    },
}

/// What is wrong with a field's value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// It is no store path, or not one of this store directory.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// It is no hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// It is no SHA-256, as a NAR's hash must be.
    #[error("'{0}' is not a SHA-256")]
    NotSha256(String),
    /// It is no content address.
    #[error(transparent)]
    ContentAddress(#[from] ContentAddressError),
    /// It is no signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is no decimal number of bytes below 2^64.
    #[error("'{0}' is not a number of bytes")]
    Number(String),
    /// It is zero, which no NAR's size is.
    #[error("it is zero")]
    Zero,
    /// It is empty.
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
    /// The inner one is `None` for what a file says if it does not know.
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

/// Fills a field that may come only once.
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
    // `parse` alone would take a plus sign.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| FieldError::Number(value.to_owned()))
}
