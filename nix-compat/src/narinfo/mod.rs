//! `.narinfo` files: the metadata of a store path in a binary cache, and the location of its NAR.
//!
//! A file consists of lines `Name: value`, as `nix copy --to file://…` writes them. The parser is
//! as strict as C++ Nix, and additionally rejects duplicates of all fields but `Sig`. Both ignore
//! unknown fields.
//!
//! The contents of a narinfo are unverified. [`PathInfo::signed_by`] checks signatures, which do
//! not cover `URL`, `Compression`, `FileHash`, `FileSize`, `Deriver` and `System`. `URL` may be any
//! text: resolve it below the cache, and verify the downloaded NAR against `NarHash`.
//!
//! ```
//! use nix_compat::narinfo::NarInfo;
//! use nix_compat::store_path::StoreDir;
//!
//! let text = "\
//! StorePath: /nix/store/z9ziz7ipnh5x6xdw46pb1wdlw0ss1m78-t
//! URL: nar/18z4yyrr4d19j50irxxczhxnd6rxkgbzbmrfi11k2ill9bvggxpm.nar.xz
//! Compression: xz
//! FileHash: sha256:18z4yyrr4d19j50irxxczhxnd6rxkgbzbmrfi11k2ill9bvggxpm
//! FileSize: 168
//! NarHash: sha256:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247
//! NarSize: 288
//! References: \n";
//! let dir = StoreDir::default();
//! let narinfo = NarInfo::parse(text, &dir)?;
//! assert_eq!(narinfo.info.nar_size, 288);
//! assert_eq!(narinfo.display(&dir).to_string(), text);
//! # Ok::<(), nix_compat::narinfo::NarInfoError>(())
//! ```

mod parse;

use std::fmt;

pub use crate::signature::{Signature, SignatureError};
#[cfg(feature = "signing")]
pub use crate::signature::{SigningKey, VerifyingKey};
pub use parse::{FieldError, NarInfoError};

use crate::nixhash::NixHash;
use crate::path_info::PathInfo;
use crate::store_path::StoreDir;

/// How a NAR in a cache is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// `none`.
    None,
    /// `xz`.
    Xz,
    /// `bzip2`, which is also the default for a narinfo without this field.
    #[default]
    Bzip2,
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
    /// `br`: Brotli.
    Brotli,
    /// `lz4`.
    Lz4,
    /// Any other name. Such a narinfo can be read, but its NAR cannot.
    Other(String),
}

impl Compression {
    /// The name in a narinfo.
    pub fn as_str(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Compression {
    fn from(name: &str) -> Self {
        match name {
            "none" => Self::None,
            "xz" => Self::Xz,
            // As in C++ Nix: caches used bzip2 before there was a choice.
            "bzip2" | "" => Self::Bzip2,
            "gzip" => Self::Gzip,
            "zstd" => Self::Zstd,
            "br" => Self::Brotli,
            "lz4" => Self::Lz4,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The contents of a `.narinfo` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path's metadata: `StorePath`, `NarHash`, `NarSize`, `References`, `Deriver`, `Sig`,
    /// `CA`.
    pub info: PathInfo,
    /// Location of the NAR, usually relative to the cache. Unverified.
    pub url: String,
    /// Compression of the file at `url`.
    pub compression: Compression,
    /// Hash of the compressed file.
    pub file_hash: Option<NixHash>,
    /// Size of the compressed file in bytes.
    pub file_size: Option<u64>,
    /// The system that the path was built for, if given.
    pub system: Option<String>,
}

impl NarInfo {
    /// Parses a complete `.narinfo` file.
    ///
    /// # Errors
    ///
    /// [`NarInfoError`], which names the line and the field.
    pub fn parse(text: &str, dir: &StoreDir) -> Result<Self, NarInfoError> {
        parse::parse(text, dir)
    }

    /// Displays the file, byte for byte as C++ Nix writes it.
    ///
    /// Texts in a narinfo must not contain line breaks. This always holds for parsed texts.
    pub fn display<'a>(&'a self, dir: &'a StoreDir) -> impl fmt::Display + 'a {
        Shown { narinfo: self, dir }
    }

    fn write(&self, dir: &StoreDir, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        writeln!(f, "StorePath: {}", dir.display(&info.path))?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression)?;
        if let Some(hash) = &self.file_hash {
            writeln!(f, "FileHash: {}", hash.base32())?;
        }
        if let Some(size) = self.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
        writeln!(f, "NarHash: {}", info.nix_hash().base32())?;
        writeln!(f, "NarSize: {}", info.nar_size)?;
        // The space is written even without references.
        f.write_str("References: ")?;
        for (index, reference) in info.references.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{reference}")?;
        }
        writeln!(f)?;
        if let Some(deriver) = &info.deriver {
            writeln!(f, "Deriver: {deriver}")?;
        }
        if let Some(system) = &self.system {
            writeln!(f, "System: {system}")?;
        }
        for signature in &info.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        match &info.ca {
            Some(ca) => writeln!(f, "CA: {ca}"),
            None => Ok(()),
        }
    }
}

/// See [`NarInfo::display`].
struct Shown<'a> {
    narinfo: &'a NarInfo,
    dir: &'a StoreDir,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.narinfo.write(self.dir, f)
    }
}
