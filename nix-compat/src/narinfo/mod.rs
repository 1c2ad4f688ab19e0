//! `.narinfo` files: what a binary cache says of a store path, and where it has its NAR.
//!
//! A file is lines of `Name: value`, as `nix copy --to file://…` writes them. Parsing is as
//! strict as C++ Nix is, and stricter in that no field but `Sig` may come twice; unknown
//! fields are ignored by both.
//!
//! A narinfo is a claim. [`PathInfo::signed_by`] tells who made it; `URL`, `Compression`,
//! `FileHash`, `FileSize`, `Deriver` and `System` are signed by nobody, and `URL` may be any
//! text: resolve it below the cache, and check the NAR that comes against `NarHash`.
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

pub use crate::signature::{Signature, SignatureError, SigningKey, VerifyingKey};
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
    /// `bzip2`, which also holds where a file says nothing.
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
    /// Another one. It is no error to know of such a NAR, only to read it.
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
            // As C++ Nix has it: nothing is what caches had before there was a choice.
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

/// What a `.narinfo` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path: `StorePath`, `NarHash`, `NarSize`, `References`, `Deriver`, `Sig`, `CA`.
    pub info: PathInfo,
    /// Where the NAR is: usually relative to the cache, not checked.
    pub url: String,
    /// How what is there is compressed.
    pub compression: Compression,
    /// Hash of what is there, compressed as it is.
    pub file_hash: Option<NixHash>,
    /// Size of what is there, in bytes, compressed as it is.
    pub file_size: Option<u64>,
    /// For which system it was built, where that is said.
    pub system: Option<String>,
}

impl NarInfo {
    /// Parses a whole file.
    ///
    /// # Errors
    ///
    /// [`NarInfoError`], which names line and field.
    pub fn parse(text: &str, dir: &StoreDir) -> Result<Self, NarInfoError> {
        parse::parse(text, dir)
    }

    /// Shows the file, byte for byte as C++ Nix would write it.
    ///
    /// Texts in it must have no line breaks, which for those that were parsed is so.
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
        // The space is there even if nothing follows.
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
