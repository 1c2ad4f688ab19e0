//! Strict ATerm parser: serialising a parsed derivation returns the same bytes.

use bstr::BString;
use thiserror::Error;

use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::derivation::{Derivation, Output, OutputAddressError, OutputName, OutputNameError};
use crate::nixhash::{HashAlgo, HashError, NixHash};
use crate::sorted::{SortedMap, SortedSet};
use crate::store_path::{StoreDir, StorePath, StorePathError, StorePathName};

/// A parse error of a `.drv` file, with its position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("derivation '{name}' is malformed at byte {offset}")]
#[non_exhaustive]
pub struct AtermError {
    /// The derivation's name.
    pub name: StorePathName,
    /// Byte offset of the offending token.
    pub offset: usize,
    /// The kind of error.
    #[source]
    pub kind: AtermErrorKind,
}

/// The kinds of ATerm parse errors.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AtermErrorKind {
    /// Another token is expected here.
    #[error("expected '{}'", .0.escape_default())]
    Expected(&'static str),
    /// The bytes end inside a string.
    #[error("a string is not terminated")]
    UnterminatedString,
    /// A string that holds a character which is always escaped, such as a newline.
    #[error("a string holds '{}', which is never written so", .0.escape_ascii())]
    NonCanonicalString(BString),
    /// The elements of a list are not in ascending order, or an element is a duplicate.
    #[error("'{0}' is out of order or a duplicate")]
    OutOfOrder(BString),
    /// An unsupported version of the format, such as the one for dynamic derivations.
    #[error("the format version '{0}' is not supported")]
    UnsupportedVersion(BString),
    /// A text that has to be UTF-8 is not.
    #[error("'{0}' is not UTF-8")]
    NotUtf8(BString),
    /// An invalid store path.
    #[error("not a store path")]
    StorePath(#[from] StorePathError),
    /// An invalid output name.
    #[error("not the name of an output")]
    OutputName(#[from] OutputNameError),
    /// An invalid hash, or an unknown hash algorithm.
    #[error("not a hash")]
    Hash(#[from] HashError),
    /// The hash of an output is not written in lower-case base 16.
    #[error("the hash '{0}' is not written in lower-case base 16")]
    NonCanonicalHash(String),
    /// A fixed output for which no store path exists.
    #[error("not a valid output")]
    Output(#[from] OutputAddressError),
    /// The path of a fixed output differs from the path that its hash determines.
    #[error("the path of the fixed output should be '{expected}'")]
    FixedPathMismatch {
        /// The path that the hash determines.
        expected: StorePath,
    },
    /// An output has a path that only a build can determine.
    #[error("an output has a path that cannot be known before the build")]
    UnexpectedPath,
    /// A hash without its algorithm.
    #[error("an output has a hash without an algorithm")]
    HashWithoutAlgo,
    /// The derivation has no outputs.
    #[error("the derivation has no outputs")]
    NoOutputs,
    /// An input derivation with an empty set of outputs.
    #[error("no output of an input derivation is used")]
    NoInputOutputs,
    /// The path of an input derivation does not end in `.drv`.
    #[error("an input derivation does not end in '.drv'")]
    InputNotDerivation,
    /// Bytes follow the end of the derivation.
    #[error("bytes follow the end")]
    TrailingBytes,
}

impl Derivation {
    /// Parses the contents of a `.drv` file.
    ///
    /// `name` is the name of the file's store path without `.drv`. Any serialisation that differs
    /// from the one of C++ Nix is an error.
    ///
    /// Input-addressed output paths are not checked, because this takes the input derivations: see
    /// [`Derivation::check_output_paths`].
    pub fn from_aterm(
        dir: &StoreDir,
        name: StorePathName,
        bytes: &[u8],
    ) -> Result<Self, AtermError> {
        let mut parser = Parser {
            bytes,
            position: 0,
            mark: 0,
            dir,
            name: &name,
        };
        match parser.derivation() {
            Ok(derivation) => Ok(derivation),
            Err(kind) => {
                let offset = parser.mark;
                Err(AtermError { name, offset, kind })
            }
        }
    }
}

type Result2<T> = Result<T, AtermErrorKind>;

struct Parser<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Offset of the current token, for errors.
    mark: usize,
    dir: &'a StoreDir,
    name: &'a StorePathName,
}

impl Parser<'_> {
    fn derivation(&mut self) -> Result2<Derivation> {
        if self.bytes.starts_with(b"DrvWithVersion(") {
            self.position = b"DrvWithVersion(".len();
            let version = self.string()?;
            return Err(AtermErrorKind::UnsupportedVersion(version));
        }
        self.expect("Derive(")?;
        let outputs = self.map(Self::output_name, Self::output)?;
        if outputs.is_empty() {
            return Err(AtermErrorKind::NoOutputs);
        }
        self.expect(",")?;
        let input_drvs = self.map(Self::drv_path, Self::input_outputs)?;
        self.expect(",")?;
        let input_srcs = self.set(Self::path)?;
        self.expect(",")?;
        let system = self.plain_string()?;
        self.expect(",")?;
        let builder = self.string()?;
        self.expect(",")?;
        let mut args = Vec::new();
        self.list(|parser| {
            args.push(parser.string()?);
            Ok(())
        })?;
        self.expect(",")?;
        let env = self.map(Self::string, |parser, _| {
            parser.expect(",")?;
            parser.string()
        })?;
        self.expect(")")?;
        if self.position != self.bytes.len() {
            self.mark = self.position;
            return Err(AtermErrorKind::TrailingBytes);
        }
        let name = self.name.clone();
        Ok(Derivation {
            name,
            outputs,
            input_drvs,
            input_srcs,
            system,
            builder,
            args,
            env,
        })
    }

    fn expect(&mut self, token: &'static str) -> Result2<()> {
        self.mark = self.position;
        if !self.bytes[self.position..].starts_with(token.as_bytes()) {
            return Err(AtermErrorKind::Expected(token));
        }
        self.position += token.len();
        Ok(())
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.bytes.get(self.position) == Some(&byte);
        self.position += usize::from(taken);
        taken
    }

    fn list(&mut self, mut element: impl FnMut(&mut Self) -> Result2<()>) -> Result2<()> {
        self.expect("[")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.take(b']') {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn set<T: Ord + ToString>(
        &mut self,
        element: impl Fn(&mut Self) -> Result2<T>,
    ) -> Result2<SortedSet<T>> {
        let mut values: Vec<T> = Vec::new();
        self.list(|parser| {
            let at = parser.position;
            let value = element(parser)?;
            if values.last().is_some_and(|last| *last >= value) {
                parser.mark = at;
                return Err(AtermErrorKind::OutOfOrder(value.to_string().into()));
            }
            values.push(value);
            Ok(())
        })?;
        values.shrink_to_fit();
        Ok(values.into_iter().collect())
    }

    fn map<K: Ord + ToString, V>(
        &mut self,
        key: impl Fn(&mut Self) -> Result2<K>,
        value: impl Fn(&mut Self, &K) -> Result2<V>,
    ) -> Result2<SortedMap<K, V>> {
        let mut entries: Vec<(K, V)> = Vec::new();
        self.list(|parser| {
            parser.expect("(")?;
            let at = parser.position;
            let key = key(parser)?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                parser.mark = at;
                return Err(AtermErrorKind::OutOfOrder(key.to_string().into()));
            }
            let value = value(parser, &key)?;
            entries.push((key, value));
            parser.expect(")")
        })?;
        entries.shrink_to_fit();
        Ok(SortedMap::from_sorted(entries))
    }

    /// The bytes between two quotes, and whether they contain escapes.
    fn raw_string(&mut self) -> Result2<(&[u8], bool)> {
        self.expect("\"")?;
        let start = self.position;
        let mut escaped = false;
        loop {
            let rest = &self.bytes[self.position..];
            let stop = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t'))
                .ok_or(AtermErrorKind::UnterminatedString)?;
            match rest[stop] {
                b'"' => {
                    self.position += stop + 1;
                    return Ok((&self.bytes[start..self.position - 1], escaped));
                }
                b'\\' => {
                    escaped = true;
                    match rest.get(stop + 1) {
                        Some(b'"' | b'\\' | b'n' | b'r' | b't') => self.position += stop + 2,
                        Some(_) => {
                            self.mark = self.position + stop;
                            let bad = rest[stop..stop + 2].into();
                            return Err(AtermErrorKind::NonCanonicalString(bad));
                        }
                        None => return Err(AtermErrorKind::UnterminatedString),
                    }
                }
                other => {
                    self.mark = self.position + stop;
                    return Err(AtermErrorKind::NonCanonicalString(vec![other].into()));
                }
            }
        }
    }

    fn string(&mut self) -> Result2<BString> {
        let (raw, escaped) = self.raw_string()?;
        if !escaped {
            return Ok(raw.into());
        }
        let mut text = Vec::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(backslash) = memchr::memchr(b'\\', rest) {
            text.extend_from_slice(&rest[..backslash]);
            text.push(match rest[backslash + 1] {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                other => other,
            });
            rest = &rest[backslash + 2..];
        }
        text.extend_from_slice(rest);
        Ok(text.into())
    }

    /// A string that C++ Nix writes without escaping.
    fn plain_string(&mut self) -> Result2<BString> {
        let (raw, escaped) = self.raw_string()?;
        if escaped {
            return Err(AtermErrorKind::NonCanonicalString(raw.into()));
        }
        Ok(raw.into())
    }

    fn text(&mut self) -> Result2<&str> {
        let (raw, escaped) = self.raw_string()?;
        if escaped {
            return Err(AtermErrorKind::NonCanonicalString(raw.into()));
        }
        std::str::from_utf8(raw).map_err(|_| AtermErrorKind::NotUtf8(raw.into()))
    }

    fn path(&mut self) -> Result2<StorePath> {
        let dir = self.dir;
        Ok(dir.parse(self.text()?)?)
    }

    fn drv_path(&mut self) -> Result2<StorePath> {
        let path = self.path()?;
        if path.is_derivation() {
            Ok(path)
        } else {
            Err(AtermErrorKind::InputNotDerivation)
        }
    }

    fn output_name(&mut self) -> Result2<OutputName> {
        Ok(self.text()?.parse()?)
    }

    fn input_outputs(&mut self, _drv: &StorePath) -> Result2<SortedSet<OutputName>> {
        self.expect(",")?;
        let outputs = self.set(Self::output_name)?;
        if outputs.is_empty() {
            Err(AtermErrorKind::NoInputOutputs)
        } else {
            Ok(outputs)
        }
    }

    fn output(&mut self, name: &OutputName) -> Result2<Output> {
        self.expect(",")?;
        let path_at = self.position;
        let path = match self.text()? {
            "" => None,
            path => {
                let path = path.to_owned();
                Some(self.dir.parse(path)?)
            }
        };
        self.expect(",")?;
        let method_algo = match self.text()? {
            "" => None,
            text => Some(ContentAddressMethod::split_prefixed(text)?),
        };
        self.expect(",")?;
        let hash = self.text()?.to_owned();
        match (method_algo, path, hash.as_str()) {
            (None, Some(path), "") => Ok(Output::InputAddressed(path)),
            (None, None, "") => Ok(Output::Deferred),
            (None, _, _) => Err(AtermErrorKind::HashWithoutAlgo),
            (Some((method, algo)), None, "") => Ok(Output::Floating { method, algo }),
            (Some((method, algo)), None, "impure") => Ok(Output::Impure { method, algo }),
            (Some(_), Some(_), "" | "impure") => {
                self.mark = path_at;
                Err(AtermErrorKind::UnexpectedPath)
            }
            (Some((method, algo)), path, digits) => {
                let address = ContentAddress {
                    method,
                    hash: base16(digits, algo)?,
                };
                let expected = Output::fixed_path(&address, self.dir, self.name, name)?;
                if path.as_ref() != Some(&expected) {
                    self.mark = path_at;
                    return Err(AtermErrorKind::FixedPathMismatch { expected });
                }
                Ok(Output::Fixed(address))
            }
        }
    }
}

fn base16(digits: &str, algo: HashAlgo) -> Result2<NixHash> {
    let hash = NixHash::parse_digits(digits, algo)?;
    if hash.encode(crate::nixhash::HashEncoding::Base16) != digits {
        return Err(AtermErrorKind::NonCanonicalHash(digits.to_owned()));
    }
    Ok(hash)
}
