//! Names and signatures of codings.

use std::fmt;

use thiserror::Error;

/// Enough of a stream for [`Coding::sniff`].
pub(super) const SNIFFED: usize = 4096;

/// How contents are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Coding {
    /// xz.
    Xz,
    /// The format of LZMA Utils, `.lzma`.
    Lzma,
    /// lzip.
    Lzip,
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
    /// zlib, or raw deflate, as HTTP servers send it under that name.
    Deflate,
    /// bzip2.
    Bzip2,
    /// Brotli.
    Brotli,
    /// LZ4 frames.
    Lz4,
}

/// A coding that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown coding '{name}'")]
#[non_exhaustive]
pub struct UnknownCoding {
    /// The name as given.
    pub name: String,
}

impl From<UnknownCoding> for std::io::Error {
    fn from(error: UnknownCoding) -> Self {
        Self::new(std::io::ErrorKind::Unsupported, error)
    }
}

impl Coding {
    /// Every coding.
    pub const ALL: [Self; 9] = [
        Self::Xz,
        Self::Lzma,
        Self::Lzip,
        Self::Zstd,
        Self::Gzip,
        Self::Deflate,
        Self::Bzip2,
        Self::Brotli,
        Self::Lz4,
    ];

    /// The value of an `Accept-Encoding` header that asks for the content codings that servers
    /// use.
    pub const ACCEPT: &'static str = "zstd, br, gzip, deflate";

    /// The name: that of Nix's compression methods, and of HTTP's content coding.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lzip => "lzip",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Bzip2 => "bzip2",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
        }
    }

    /// The coding of a compression method that Nix names; `None` is no compression (`none`,
    /// `identity`, empty).
    ///
    /// # Errors
    ///
    /// [`UnknownCoding`].
    pub fn from_compression(name: &str) -> Result<Option<Self>, UnknownCoding> {
        match name {
            "" | "none" | "identity" => Ok(None),
            "deflate" => Err(UnknownCoding { name: name.into() }),
            name => match Self::ALL.into_iter().find(|it| it.name() == name) {
                Some(coding) => Ok(Some(coding)),
                None => Err(UnknownCoding { name: name.into() }),
            },
        }
    }

    /// The codings in the value of a `Content-Encoding` header, in the order in which they were
    /// applied. Names are case-insensitive; `identity`, `none` and empty elements are no coding.
    ///
    /// # Errors
    ///
    /// [`UnknownCoding`].
    pub fn from_header(value: &str) -> Result<Vec<Self>, UnknownCoding> {
        let mut codings = Vec::new();
        for name in value.split(',').map(str::trim) {
            let lower = name.to_ascii_lowercase();
            let coding = match lower.as_str() {
                "x-gzip" => Some(Self::Gzip),
                "deflate" => Some(Self::Deflate),
                "x-bzip2" => Some(Self::Bzip2),
                "x-xz" => Some(Self::Xz),
                other => Self::from_compression(other).map_err(|_| UnknownCoding {
                    name: name.to_owned(),
                })?,
            };
            codings.extend(coding);
        }
        Ok(codings)
    }

    /// The coding of a stream by its first bytes, of which a few hundred are enough. `None` if
    /// they show none; Brotli and deflate have no signature.
    pub fn sniff(start: &[u8]) -> Option<Self> {
        let mut rest = start;
        // A stream of zstd or lz4 may begin with skippable frames of the same form.
        let mut skipped = false;
        while let Some(length) = skippable(rest) {
            skipped = true;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            rest = rest.get(8..).and_then(|it| it.get(length..)).unwrap_or(b"");
        }
        let coding = match rest {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x04 | 0x02, ..] if is_lz4(rest) => Some(Self::Lz4),
            _ if skipped => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [b'L', b'Z', b'I', b'P', ..] => Some(Self::Lzip),
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            _ => None,
        };
        coding.or_else(|| is_lzma(start).then_some(Self::Lzma))
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The length of the contents of a skippable frame.
pub(super) fn skippable(start: &[u8]) -> Option<u32> {
    match *start {
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    }
}

/// Whether a frame of LZ4 begins here, also one of the legacy form.
pub(super) fn is_lz4(start: &[u8]) -> bool {
    matches!(
        start,
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..]
    )
}

/// Files of LZMA Utils have no signature: the usual properties, a dictionary of a power of two and
/// a plausible or unknown size stand for one.
fn is_lzma(start: &[u8]) -> bool {
    let Some(&header) = start.first_chunk::<13>() else {
        return false;
    };
    let [properties, d0, d1, d2, d3, size @ ..] = header;
    let dictionary = u32::from_le_bytes([d0, d1, d2, d3]);
    let size = u64::from_le_bytes(size);
    properties == 0x5d
        && (dictionary.is_power_of_two() || dictionary % (1 << 20) == 0)
        && (1 << 12..=1 << 30).contains(&dictionary)
        && (size == u64::MAX || size < 1 << 40)
}
