//! The operations: their numbers, requests and answers.

use std::fmt;

use bstr::BString;
use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;

use crate::build::{BuildDerivation, BuildResult, KeyedBuildResult};
use crate::decode::{Decoder, Message};
use crate::realisation::FoundRealisation;
use crate::requests::*;
use crate::scan::Shape;
use crate::values::UnkeyedPathInfo;
use crate::wire::{Codec, Reader, Tagged, Writer};
use crate::{Context, Feature, ProtocolError};

/// A request, and the type of the answer after [`LogMessage::Last`](crate::LogMessage::Last).
pub trait Call: Message {
    /// The operation.
    const OPERATION: Operation;
    /// The answer.
    type Answer: Message;
}

macro_rules! operations {
    ($($(#[$meta:meta])* $name:ident = $number:literal -> $answer:ty;)*) => {
        /// An operation of a daemon.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Operation {
            $(#[doc = concat!("[`", stringify!($name), "`].")] $name,)*
        }

        impl Operation {
            /// All operations, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub const fn number(self) -> u64 {
                match self { $(Self::$name => $number,)* }
            }

            /// The name, such as `QueryPathInfo`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        /// A request of a client, as a daemon reads it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Request {
            $(#[doc = concat!("[`", stringify!($name), "`].")] $name($name),)*
        }

        impl Request {
            /// The operation.
            pub const fn operation(&self) -> Operation {
                match self { $(Self::$name(_) => Operation::$name,)* }
            }
        }

        impl Codec for Request {
            const SHAPE: Shape = Shape::Operation(&[$(($number, $name::SHAPE),)*]);

            fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
                match reader.number()? {
                    $($number => Ok(Self::$name($name::read(reader)?)),)*
                    number => Err(ProtocolError::UnknownOperation(number)),
                }
            }

            fn write(&self, writer: &mut Writer<'_>) {
                writer.number(self.operation().number());
                match self { $(Self::$name(request) => request.write(writer),)* }
            }
        }

        /// The answer to an operation, whichever it is. Clients mostly know the operation by its
        /// type: [`Call::Answer`].
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Answer {
            $(#[doc = concat!("To [`", stringify!($name), "`].")] $name($answer),)*
        }

        /// Decodes the answer to an operation.
        #[derive(Debug, Clone)]
        pub struct AnswerDecoder(AnyDecoder);

        #[derive(Debug, Clone)]
        enum AnyDecoder {
            $($name(Decoder<$answer>),)*
        }

        impl AnswerDecoder {
            /// A decoder of the answer to `operation`.
            pub fn new(operation: Operation) -> Self {
                Self(match operation { $(Operation::$name => AnyDecoder::$name(Decoder::new()),)* })
            }

            /// As [`Decoder::feed`].
            ///
            /// # Errors
            ///
            /// [`ProtocolError`].
            pub fn feed(
                &mut self,
                input: &[u8],
                context: &Context,
            ) -> Result<(usize, Option<Answer>), ProtocolError> {
                match &mut self.0 {
                    $(AnyDecoder::$name(decoder) => {
                        let (taken, answer) = decoder.feed(input, context)?;
                        Ok((taken, answer.map(Answer::$name)))
                    })*
                }
            }
        }

        impl Answer {
            /// Appends the answer.
            ///
            /// # Errors
            ///
            /// [`ProtocolError::Unsupported`].
            pub fn encode(&self, context: &Context, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
                match self { $(Self::$name(answer) => context.encode(answer, out),)* }
            }
        }

        $(
            impl Call for $name {
                const OPERATION: Operation = Operation::$name;
                type Answer = $answer;
            }

            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }
        )*
    };
}

operations! {
    IsValidPath = 1 -> bool;
    QueryReferrers = 6 -> SortedSet<StorePath>;
    AddToStore = 7 -> PathInfo;
    AddTextToStore = 8 -> StorePath;
    BuildPaths = 9 -> Done;
    EnsurePath = 10 -> Done;
    AddTempRoot = 11 -> Done;
    AddIndirectRoot = 12 -> Done;
    SyncWithGc = 13 -> Done;
    FindRoots = 14 -> Vec<Root>;
    QueryDeriver = 18 -> Option<StorePath>;
    SetOptions = 19 -> ();
    CollectGarbage = 20 -> Collected;
    QuerySubstitutablePathInfo = 21 -> FoundSubstitutable;
    QueryDerivationOutputs = 22 -> SortedSet<StorePath>;
    QueryAllValidPaths = 23 -> SortedSet<StorePath>;
    QueryPathInfo = 26 -> Tagged<UnkeyedPathInfo>;
    QueryDerivationOutputNames = 28 -> Vec<OutputName>;
    QueryPathFromHashPart = 29 -> Option<StorePath>;
    QuerySubstitutablePathInfos = 30 -> Vec<(StorePath, SubstitutablePathInfo)>;
    QueryValidPaths = 31 -> SortedSet<StorePath>;
    QuerySubstitutablePaths = 32 -> SortedSet<StorePath>;
    QueryValidDerivers = 33 -> SortedSet<StorePath>;
    OptimiseStore = 34 -> Done;
    VerifyStore = 35 -> bool;
    BuildDerivation = 36 -> BuildResult;
    AddSignatures = 37 -> Done;
    NarFromPath = 38 -> ();
    AddToStoreNar = 39 -> ();
    QueryMissing = 40 -> Missing;
    QueryDerivationOutputMap = 41 -> DerivationOutputMap;
    RegisterDrvOutput = 42 -> ();
    QueryRealisation = 43 -> FoundRealisation;
    AddMultipleToStore = 44 -> ();
    AddBuildLog = 45 -> Done;
    BuildPathsWithResults = 46 -> Vec<KeyedBuildResult>;
    AddPermRoot = 47 -> BString;
    SubmitOutput = 1000 -> Done;
    AddToStoreScanning = 1001 -> PathInfo;
}

impl Operation {
    /// Whether a framed stream follows the request: [`FrameDecoder`](crate::FrameDecoder).
    pub const fn has_stream(self) -> bool {
        matches!(
            self,
            Self::AddToStore
                | Self::AddToStoreNar
                | Self::AddMultipleToStore
                | Self::AddBuildLog
                | Self::AddToStoreScanning
        )
    }

    /// The feature that both sides must have; `None` if there is none.
    pub const fn feature(self) -> Option<Feature> {
        match self {
            Self::SubmitOutput => Some(Feature::SubmitOutput),
            Self::AddToStoreScanning => Some(Feature::AddToStoreScanning),
            _ => None,
        }
    }

    /// Whether the operation leaves the store as it is, so that it may be repeated after a failure
    /// of the connection.
    pub const fn is_query(self) -> bool {
        matches!(
            self,
            Self::IsValidPath
                | Self::QueryReferrers
                | Self::SyncWithGc
                | Self::FindRoots
                | Self::QueryDeriver
                | Self::SetOptions
                | Self::QuerySubstitutablePathInfo
                | Self::QueryDerivationOutputs
                | Self::QueryAllValidPaths
                | Self::QueryPathInfo
                | Self::QueryDerivationOutputNames
                | Self::QueryPathFromHashPart
                | Self::QuerySubstitutablePathInfos
                | Self::QueryValidPaths
                | Self::QuerySubstitutablePaths
                | Self::QueryValidDerivers
                | Self::NarFromPath
                | Self::QueryMissing
                | Self::QueryDerivationOutputMap
                | Self::QueryRealisation
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Context {
    /// Appends a request: the number of the operation and its arguments.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Unsupported`] if the operation or an argument of it needs another version
    /// or feature. Nothing is appended then.
    pub fn encode_call<C: Call>(&self, call: &C, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let operation = C::OPERATION;
        if let Some(feature) = operation.feature()
            && !self.features.contains(feature)
        {
            return Err(ProtocolError::Unsupported {
                what: operation.name(),
                version: self.version,
                feature: Some(feature),
            });
        }
        let before = out.len();
        out.extend_from_slice(&operation.number().to_le_bytes());
        let encoded = self.encode(call, out);
        if encoded.is_err() {
            out.truncate(before);
        }
        encoded
    }
}
