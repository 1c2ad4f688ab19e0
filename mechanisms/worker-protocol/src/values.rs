//! The form of the types of `nix-compat`.

use bstr::BString;
use data_encoding::HEXLOWER;
use nix_compat::content_address::{ContentAddress, ContentAddressError, ContentAddressMethod};
use nix_compat::derivation::{Output, OutputName};
use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::signature::Signature;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StorePath, StorePathName};

use crate::ProtocolError;
use crate::scan::Shape;
use crate::wire::{Codec, Reader, Writer, message};

/// An absolute path in the store directory.
impl Codec for StorePath {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let text = reader.text()?;
        let path = reader.context.dir.parse(text);
        path.map_err(|error| ProtocolError::invalid("store path", text, error))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(writer.context.dir.path_text(self));
    }
}

/// No path is an empty text.
impl Codec for Option<StorePath> {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.text()? {
            b"" => Ok(None),
            text => {
                let path = reader.context.dir.parse(text);
                let path = path.map_err(|it| ProtocolError::invalid("store path", text, it));
                Ok(Some(path?))
            }
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Some(path) => path.write(writer),
            None => writer.text(""),
        }
    }
}

impl Codec for StorePathName {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let text = reader.text()?;
        let name = Self::from_bytes(text);
        name.map_err(|error| ProtocolError::invalid("name of a store path", text, error))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.as_str());
    }
}

impl Codec for OutputName {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("name of an output", str::parse::<Self>)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.as_str());
    }
}

impl Codec for Signature {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("signature", str::parse::<Self>)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.as_str());
    }
}

impl<T: Codec + Ord> Codec for SortedSet<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(reader.list(T::read)?.into_iter().collect())
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(self.len() as u64);
        for value in self.iter() {
            value.write(writer);
        }
    }
}

/// No address is an empty text.
impl Codec for Option<ContentAddress> {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("content address", |text| match text {
            "" => Ok(None),
            text => text.parse().map(Some),
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let text = self.as_ref().map(ContentAddress::to_string);
        writer.text(text.unwrap_or_default());
    }
}

/// A SHA-256, in base 16 without the algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NarHash(pub [u8; 32]);

impl Codec for NarHash {
    const SHAPE: Shape = Shape::Text;

    /// In any encoding, with or without the algorithm, as Nix reads it.
    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("SHA-256", |text| -> Result<Self, crate::error::BoxError> {
            match NixHash::parse_any(text, Some(HashAlgo::Sha256))? {
                NixHash::Sha256(hash) => Ok(Self(hash)),
                other => Err(format!("the algorithm is {}", other.algo()).into()),
            }
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(HEXLOWER.encode(&self.0));
    }
}

/// The hash part of a store path.
impl Codec for [u8; 20] {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed("hash part of a store path", |text| nixbase32::decode(text))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(nixbase32::encode(self));
    }
}

/// How an object is hashed for its content address, such as `fixed:r:sha256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressing {
    /// The serialisation that is hashed.
    pub method: ContentAddressMethod,
    /// The algorithm.
    pub algo: HashAlgo,
}

impl Codec for Addressing {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.parsed(
            "method of a content address",
            |text| -> Result<_, crate::error::BoxError> {
                let unknown = || ContentAddressError::UnknownMethod(text.to_owned());
                let (method, algo) = match text.strip_prefix("fixed:") {
                    Some(rest) if !rest.starts_with("text:") => {
                        ContentAddressMethod::split_prefixed(rest)?
                    }
                    None if text.starts_with("text:") => {
                        ContentAddressMethod::split_prefixed(text)?
                    }
                    _ => return Err(unknown().into()),
                };
                if method == ContentAddressMethod::Text && algo != HashAlgo::Sha256 {
                    return Err(ContentAddressError::TextAlgo(algo).into());
                }
                Ok(Self { method, algo })
            },
        )
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let fixed = match self.method {
            ContentAddressMethod::Text => "",
            _ => "fixed:",
        };
        writer.text(format!("{fixed}{}{}", self.method.prefix(), self.algo));
    }
}

/// The metadata of a path, without the path: the answer to a question that named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnkeyedPathInfo(InfoFields);

impl UnkeyedPathInfo {
    /// The metadata of `path`.
    #[must_use]
    pub fn of(self, path: StorePath) -> PathInfo {
        self.0.info(path)
    }
}

impl From<PathInfo> for UnkeyedPathInfo {
    fn from(info: PathInfo) -> Self {
        Self(InfoFields::of(&info))
    }
}

message! {
    /// The fields of a path info after the path.
    InfoFields {
        deriver: Option<StorePath>,
        nar_hash: NarHash,
        references: SortedSet<StorePath>,
        registration_time: u64,
        nar_size: u64,
        ultimate: bool,
        signatures: Vec<Signature>,
        ca: Option<ContentAddress>,
    }
}

impl InfoFields {
    fn of(info: &PathInfo) -> Self {
        Self {
            deriver: info.deriver.clone(),
            nar_hash: NarHash(info.nar_hash),
            references: info.references.clone(),
            registration_time: info.registration_time.unwrap_or(0),
            nar_size: info.nar_size,
            ultimate: info.ultimate,
            signatures: info.signatures.clone(),
            ca: info.ca.clone(),
        }
    }

    fn info(self, path: StorePath) -> PathInfo {
        PathInfo {
            path,
            nar_hash: self.nar_hash.0,
            nar_size: self.nar_size,
            references: self.references,
            deriver: self.deriver,
            ca: self.ca,
            signatures: self.signatures,
            registration_time: Some(self.registration_time).filter(|time| *time != 0),
            ultimate: self.ultimate,
        }
    }
}

impl Codec for PathInfo {
    const SHAPE: Shape = Shape::Sequence(&[Shape::Text, InfoFields::SHAPE]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let path = StorePath::read(reader)?;
        Ok(InfoFields::read(reader)?.info(path))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.path.write(writer);
        InfoFields::of(self).write(writer);
    }
}

impl Codec for UnkeyedPathInfo {
    const SHAPE: Shape = InfoFields::SHAPE;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        InfoFields::read(reader).map(Self)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.0.write(writer);
    }
}

/// An output of a derivation: its name, path, method with algorithm, and hash.
pub(crate) const OUTPUT: Shape =
    Shape::Sequence(&[Shape::Text, Shape::Text, Shape::Text, Shape::Text]);

/// Reads an output of the derivation `derivation`.
pub(crate) fn read_output(
    reader: &mut Reader<'_>,
    derivation: &StorePathName,
) -> Result<(OutputName, Output), ProtocolError> {
    let name = OutputName::read(reader)?;
    let path = Option::<StorePath>::read(reader)?;
    let method_algo = reader.parsed("output type", |text| match text {
        "" => Ok(None),
        text => ContentAddressMethod::split_prefixed(text).map(Some),
    })?;
    let hash = BString::read(reader)?;
    let invalid = |reason: &str| ProtocolError::invalid("hash of an output", &hash, reason);
    let output = match (method_algo, path, &hash[..]) {
        (None, Some(path), b"") => Output::InputAddressed(path),
        (None, None, b"") => Output::Deferred,
        (None, _, _) => return Err(invalid("the algorithm is missing")),
        (Some((method, algo)), None, b"") => Output::Floating { method, algo },
        (Some((method, algo)), None, b"impure") => Output::Impure { method, algo },
        (Some(_), Some(_), b"" | b"impure") => {
            return Err(invalid("a floating output has a path"));
        }
        (Some((method, algo)), path, digits) => {
            let text = String::from_utf8_lossy(digits);
            let hash = NixHash::parse_any(&text, Some(algo));
            let hash =
                hash.map_err(|it| ProtocolError::invalid("hash of an output", digits, it))?;
            let output = Output::Fixed(ContentAddress { method, hash });
            if path.is_none() || output.path(&reader.context.dir, derivation, &name) != path {
                return Err(invalid("it is not that of the path"));
            }
            output
        }
    };
    Ok((name, output))
}

pub(crate) fn write_output(
    writer: &mut Writer<'_>,
    derivation: &StorePathName,
    name: &OutputName,
    output: &Output,
) {
    name.write(writer);
    output
        .path(&writer.context.dir, derivation, name)
        .write(writer);
    let algo = |method: ContentAddressMethod, algo: HashAlgo| format!("{}{algo}", method.prefix());
    let (algo, hash) = match output {
        Output::InputAddressed(_) | Output::Deferred => Default::default(),
        Output::Fixed(address) => (
            algo(address.method, address.hash.algo()),
            address.hash.encode(HashEncoding::Base16),
        ),
        Output::Floating { method, algo: it } => (algo(*method, *it), String::new()),
        Output::Impure { method, algo: it } => (algo(*method, *it), "impure".to_owned()),
    };
    writer.text(algo);
    writer.text(hash);
}
