//! Reading and writing values: numbers, texts, lists and their compounds.

use std::collections::BTreeMap;

use bstr::BString;

use crate::scan::{Shape, padded, read_number};
use crate::{Context, Feature, ProtocolError};

/// A value that has a form on the wire.
pub trait Codec: Sized {
    /// Its form.
    const SHAPE: Shape;

    /// Reads it from a complete message.
    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError>;

    /// Appends it.
    fn write(&self, writer: &mut Writer<'_>);
}

/// A complete message that is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    pub context: &'a Context,
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8], context: &'a Context) -> Self {
        let rest = message;
        Self { rest, context }
    }

    pub fn number(&mut self) -> Result<u64, ProtocolError> {
        let number = read_number(self.rest).ok_or(ProtocolError::Truncated)?;
        self.rest = &self.rest[8..];
        Ok(number)
    }

    pub fn text(&mut self) -> Result<&'a [u8], ProtocolError> {
        let length = self.number()?;
        let with_padding = usize::try_from(padded(length)).ok();
        let split = with_padding.and_then(|end| self.rest.split_at_checked(end));
        let (text, rest) = split.ok_or(ProtocolError::Truncated)?;
        let (text, padding) = text.split_at(length as usize);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(ProtocolError::Padding);
        }
        self.rest = rest;
        Ok(text)
    }

    /// A text that `parse` turns into a value of the type `what`.
    pub fn parsed<T, E: Into<crate::error::BoxError>>(
        &mut self,
        what: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ProtocolError> {
        let text = self.text()?;
        let valid = str::from_utf8(text);
        let valid = valid.map_err(|error| ProtocolError::invalid(what, text, error))?;
        parse(valid).map_err(|error| ProtocolError::invalid(what, text, error))
    }

    /// The elements of a list.
    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>, ProtocolError> {
        let count = self.number()?;
        // Each takes eight bytes at least, so a count cannot ask for more memory than has arrived.
        let most = self.rest.len() / 8;
        let mut list = Vec::with_capacity(usize::try_from(count).unwrap_or(most).min(most));
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.context.features.contains(feature)
    }

    pub fn since(&self, minor: u8) -> bool {
        self.context.version.minor >= minor
    }
}

/// A message that is encoded.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    pub context: &'a Context,
    error: Option<ProtocolError>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>, context: &'a Context) -> Self {
        Self {
            out,
            context,
            error: None,
        }
    }

    pub fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    pub fn text(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        self.number(text.len() as u64);
        self.out.extend_from_slice(text);
        self.out.resize(self.out.len() + padding(text.len()), 0);
    }

    pub fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        for value in list {
            write(self, value);
        }
    }

    /// Remembers that a value cannot be expressed.
    pub fn unsupported(&mut self, what: &'static str, feature: Option<Feature>) {
        let version = self.context.version;
        self.error.get_or_insert(ProtocolError::Unsupported {
            what,
            version,
            feature,
        });
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.context.features.contains(feature)
    }

    pub fn since(&self, minor: u8) -> bool {
        self.context.version.minor >= minor
    }

    pub fn finish(self) -> Result<(), ProtocolError> {
        self.error.map_or(Ok(()), Err)
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 8
}

impl Codec for () {
    const SHAPE: Shape = Shape::EMPTY;

    fn read(_reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(())
    }

    fn write(&self, _writer: &mut Writer<'_>) {}
}

impl Codec for u64 {
    const SHAPE: Shape = Shape::Number;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.number()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(*self);
    }
}

impl Codec for bool {
    const SHAPE: Shape = Shape::Number;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.number()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(ProtocolError::Number {
                what: "boolean",
                value,
            }),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(u64::from(*self));
    }
}

impl Codec for BString {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(reader.text()?.into())
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self);
    }
}

impl<T: Codec> Codec for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.list(T::read)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.list(self, |writer, value| value.write(writer));
    }
}

impl<A: Codec, B: Codec> Codec for (A, B) {
    const SHAPE: Shape = Shape::Sequence(&[A::SHAPE, B::SHAPE]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok((A::read(reader)?, B::read(reader)?))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.0.write(writer);
        self.1.write(writer);
    }
}

/// Of equal keys the last one stays.
impl<K: Codec + Ord, V: Codec> Codec for BTreeMap<K, V> {
    const SHAPE: Shape = Shape::List(&<(K, V)>::SHAPE);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(reader.list(<(K, V)>::read)?.into_iter().collect())
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(self.len() as u64);
        for (key, value) in self {
            key.write(writer);
            value.write(writer);
        }
    }
}

/// A value that the number 1 precedes, or 0 and nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<T>(pub Option<T>);

impl<T: Codec> Codec for Tagged<T> {
    const SHAPE: Shape = Shape::Choice(
        "tag of an optional value",
        &[(0, Shape::EMPTY), (1, T::SHAPE)],
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.number()? {
            0 => Ok(Self(None)),
            1 => Ok(Self(Some(T::read(reader)?))),
            tag => Err(ProtocolError::Tag {
                what: "tag of an optional value",
                tag,
            }),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(u64::from(self.0.is_some()));
        if let Some(value) = &self.0 {
            value.write(writer);
        }
    }
}

/// A field that has no meaning any more. It is read as any number, and written as `N`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Obsolete<const N: u64>;

impl<const N: u64> Codec for Obsolete<N> {
    const SHAPE: Shape = Shape::Number;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader.number()?;
        Ok(Self)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(N);
    }
}

/// A struct and its form: its fields in order.
macro_rules! message {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::wire::Codec for $name {
            const SHAPE: $crate::scan::Shape = $crate::scan::Shape::Sequence(&[
                $(<$type as $crate::wire::Codec>::SHAPE,)*
            ]);

            // Messages without fields use neither reader nor writer.
            fn read(_reader: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::ProtocolError> {
                $(let $field = <$type as $crate::wire::Codec>::read(_reader)?;)*
                Ok(Self { $($field,)* })
            }

            fn write(&self, _writer: &mut $crate::wire::Writer<'_>) {
                $($crate::wire::Codec::write(&self.$field, _writer);)*
            }
        }
    )*};
}

/// A fieldless enum and its numbers.
macro_rules! numbered {
    ($($(#[$meta:meta])* $name:ident: $what:literal { $($(#[$variant_meta:meta])* $variant:ident = $number:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $crate::wire::Codec for $name {
            const SHAPE: $crate::scan::Shape = $crate::scan::Shape::Number;

            fn read(reader: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::ProtocolError> {
                match reader.number()? {
                    $($number => Ok(Self::$variant),)*
                    tag => Err($crate::ProtocolError::Tag { what: $what, tag }),
                }
            }

            fn write(&self, writer: &mut $crate::wire::Writer<'_>) {
                writer.number(match self { $(Self::$variant => $number,)* });
            }
        }
    )*};
}

pub(crate) use {message, numbered};
