//! Requests to build, and their results.

use std::collections::BTreeMap;

use bstr::BString;
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::realisation::DrvOutput;
use nix_compat::sorted::{SortedMap, SortedSet};
use nix_compat::store_path::{DRV_SUFFIX, StorePath, StorePathName};

use crate::realisation::{JsonRealisation, Realised, by_hash};
use crate::scan::Shape;
use crate::values::{OUTPUT, read_output, write_output};
use crate::wire::{Codec, Reader, Tagged, Writer, message, numbered};
use crate::{Feature, ProtocolError};

numbered! {
    /// How something is built.
    BuildMode: "build mode" {
        /// Builds invalid outputs.
        Normal = 0,
        /// Builds corrupt outputs again.
        Repair = 1,
        /// Builds valid outputs again, and compares.
        Check = 2,
    }

    /// How a build ended.
    BuildStatus: "build status" {
        /// It was built.
        Built = 0,
        /// Its outputs were substituted.
        Substituted = 1,
        /// Its outputs were valid.
        AlreadyValid = 2,
        /// The builder failed.
        PermanentFailure = 3,
        /// The derivation or its inputs were refused.
        InputRejected = 4,
        /// The outputs were refused.
        OutputRejected = 5,
        /// It failed, and may succeed when tried again.
        TransientFailure = 6,
        /// It failed before. No longer used.
        CachedFailure = 7,
        /// It took too long.
        TimedOut = 8,
        /// It failed in another way.
        MiscFailure = 9,
        /// A dependency failed.
        DependencyFailed = 10,
        /// It logged too much.
        LogLimitExceeded = 11,
        /// Two builds differ.
        NotDeterministic = 12,
        /// Its resolved derivation was built before.
        ResolvesToAlreadyValid = 13,
        /// No substituter has the path.
        NoSubstituters = 14,
    }
}

impl BuildStatus {
    /// Whether the outputs are valid.
    pub fn is_success(self) -> bool {
        matches!(
            self,
            Self::Built | Self::Substituted | Self::AlreadyValid | Self::ResolvesToAlreadyValid
        )
    }
}

/// The outputs of a derivation that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedOutputs {
    /// All of them: `*`.
    All,
    /// These: `out,dev`. Never empty.
    Names(SortedSet<OutputName>),
}

/// A request for validity: a store path, or outputs of a derivation, `/nix/store/….drv!out,dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DerivedPath {
    /// A store path.
    Opaque(StorePath),
    /// Outputs of a derivation.
    Built {
        /// The derivation.
        drv: StorePath,
        /// Its outputs.
        outputs: WantedOutputs,
    },
}

impl Codec for DerivedPath {
    const SHAPE: Shape = Shape::Text;

    /// Outputs of derivations that are themselves outputs are refused.
    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let dir = &reader.context.dir;
        reader.parsed(
            "path to build",
            |text| -> Result<_, crate::error::BoxError> {
                let Some((drv, outputs)) = text.split_once('!') else {
                    return Ok(Self::Opaque(dir.parse(text)?));
                };
                let outputs = match outputs {
                    "*" => WantedOutputs::All,
                    names => {
                        let names = names.split(',').map(str::parse);
                        WantedOutputs::Names(
                            names.collect::<Result<Vec<_>, _>>()?.into_iter().collect(),
                        )
                    }
                };
                let drv = dir.parse(drv)?;
                Ok(Self::Built { drv, outputs })
            },
        )
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Opaque(path) => path.write(writer),
            Self::Built { drv, outputs } => {
                let mut text = writer.context.dir.path_text(drv);
                text.push('!');
                match outputs {
                    WantedOutputs::All => text.push('*'),
                    WantedOutputs::Names(names) => {
                        for (index, name) in names.iter().enumerate() {
                            text.push_str(if index == 0 { "" } else { "," });
                            text.push_str(name.as_str());
                        }
                    }
                }
                writer.text(text);
            }
        }
    }
}

message! {
    /// The fields of a [`BuildResult`] before the outputs.
    ResultFields {
        status: BuildStatus,
        error: BString,
        times_built: u64,
        is_non_deterministic: bool,
        start_time: u64,
        stop_time: u64,
    }
}

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildResult {
    /// How it ended.
    pub status: BuildStatus,
    /// Why it failed.
    pub error: BString,
    /// How often it was built.
    pub times_built: u64,
    /// Whether builds differed.
    pub is_non_deterministic: bool,
    /// When the build began, in seconds since 1970; 0 if there was none.
    pub start_time: u64,
    /// When the build ended, in seconds since 1970; 0 if there was none.
    pub stop_time: u64,
    /// User time in microseconds, since version 1.37.
    pub cpu_user: Option<u64>,
    /// System time in microseconds, since version 1.37.
    pub cpu_system: Option<u64>,
    /// The outputs of a success.
    pub built_outputs: BTreeMap<OutputName, Realised>,
}

impl BuildResult {
    /// A result without times and outputs.
    pub fn new(status: BuildStatus) -> Self {
        Self {
            status,
            error: BString::default(),
            times_built: 0,
            is_non_deterministic: false,
            start_time: 0,
            stop_time: 0,
            cpu_user: None,
            cpu_system: None,
            built_outputs: BTreeMap::new(),
        }
    }

    /// Sets why the build failed.
    #[must_use]
    pub fn with_error(mut self, error: impl Into<BString>) -> Self {
        self.error = error.into();
        self
    }

    /// Sets the outputs.
    #[must_use]
    pub fn with_outputs(
        mut self,
        outputs: impl IntoIterator<Item = (OutputName, Realised)>,
    ) -> Self {
        self.built_outputs = outputs.into_iter().collect();
        self
    }
}

const TIMES: Shape = Shape::Sequence(&[Tagged::<u64>::SHAPE, Tagged::<u64>::SHAPE]);

impl Codec for BuildResult {
    const SHAPE: Shape = Shape::Sequence(&[
        ResultFields::SHAPE,
        Shape::Since(37, &TIMES),
        Shape::With(
            Feature::RealisationWithPath,
            &BTreeMap::<OutputName, Realised>::SHAPE,
            &Shape::List(&Shape::Sequence(&[Shape::Text, Shape::Text])),
        ),
    ]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let fields = ResultFields::read(reader)?;
        let (mut cpu_user, mut cpu_system) = (None, None);
        if reader.since(37) {
            cpu_user = Tagged::read(reader)?.0;
            cpu_system = Tagged::read(reader)?.0;
        }
        let built_outputs = match reader.has(Feature::RealisationWithPath) {
            true => BTreeMap::read(reader)?,
            false => {
                let outputs = Vec::<(DrvOutput, JsonRealisation)>::read(reader)?;
                let outputs = outputs.into_iter().map(|(id, JsonRealisation(found))| {
                    let realised = Realised {
                        id: Some(id.clone()),
                        ..found.into()
                    };
                    (id.output, realised)
                });
                outputs.collect()
            }
        };
        Ok(Self {
            status: fields.status,
            error: fields.error,
            times_built: fields.times_built,
            is_non_deterministic: fields.is_non_deterministic,
            start_time: fields.start_time,
            stop_time: fields.stop_time,
            cpu_user,
            cpu_system,
            built_outputs,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let fields = ResultFields {
            status: self.status,
            error: self.error.clone(),
            times_built: self.times_built,
            is_non_deterministic: self.is_non_deterministic,
            start_time: self.start_time,
            stop_time: self.stop_time,
        };
        fields.write(writer);
        if writer.since(37) {
            Tagged(self.cpu_user).write(writer);
            Tagged(self.cpu_system).write(writer);
        }
        if writer.has(Feature::RealisationWithPath) {
            return self.built_outputs.write(writer);
        }
        let outputs = self.built_outputs.iter().map(|(name, realised)| {
            let realisation = by_hash(realised.clone(), name.clone());
            (realisation.0.id.clone(), realisation)
        });
        let outputs: Vec<_> = outputs.collect();
        outputs.write(writer);
    }
}

message! {
    /// The result of something that was to be built.
    KeyedBuildResult {
        /// The request.
        path: DerivedPath,
        /// The result.
        result: BuildResult,
    }

    /// The part of a derivation after its outputs.
    DerivationRest {
        input_srcs: SortedSet<StorePath>,
        system: BString,
        builder: BString,
        args: Vec<BString>,
        env: BTreeMap<BString, BString>,
    }
}

/// Builds a derivation that need not be in the store. Its inputs must be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildDerivation {
    /// The path of the derivation. The name of the derivation follows from it.
    pub path: StorePath,
    /// The derivation, without input derivations.
    pub derivation: Derivation,
    /// How to build it.
    pub mode: BuildMode,
}

impl Codec for BuildDerivation {
    const SHAPE: Shape = Shape::Sequence(&[
        Shape::Text,
        Shape::List(&OUTPUT),
        DerivationRest::SHAPE,
        Shape::Number,
    ]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let path = StorePath::read(reader)?;
        let name = path.name().as_str().strip_suffix(DRV_SUFFIX);
        let name = name.and_then(|name| name.parse::<StorePathName>().ok());
        let name = name.ok_or_else(|| {
            let text = path.to_string();
            ProtocolError::invalid(
                "path of a derivation",
                text.as_bytes(),
                "no name before .drv",
            )
        })?;
        let outputs: SortedMap<OutputName, Output> = reader
            .list(|reader| read_output(reader, &name))?
            .into_iter()
            .collect();
        if outputs.is_empty() {
            return Err(ProtocolError::Number {
                what: "number of outputs",
                value: 0,
            });
        }
        let rest = DerivationRest::read(reader)?;
        let derivation = Derivation {
            name,
            outputs,
            input_drvs: SortedMap::new(),
            input_srcs: rest.input_srcs,
            system: rest.system,
            builder: rest.builder,
            args: rest.args,
            env: rest.env.into_iter().collect(),
        };
        let mode = BuildMode::read(reader)?;
        Ok(Self {
            path,
            derivation,
            mode,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let derivation = &self.derivation;
        if !derivation.input_drvs.is_empty() {
            writer.unsupported("a derivation with input derivations", None);
        }
        self.path.write(writer);
        writer.number(derivation.outputs.len() as u64);
        for (name, output) in derivation.outputs.iter() {
            write_output(writer, &derivation.name, name, output);
        }
        derivation.input_srcs.write(writer);
        derivation.system.write(writer);
        derivation.builder.write(writer);
        derivation.args.write(writer);
        writer.number(derivation.env.len() as u64);
        for (name, value) in derivation.env.iter() {
            name.write(writer);
            value.write(writer);
        }
        self.mode.write(writer);
    }
}

/// A store path, or an output of something that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SingleDerivedPath {
    /// A store path.
    Opaque(StorePath),
    /// An output of a derivation, which may itself be an output.
    Built {
        /// The derivation.
        drv: Box<SingleDerivedPath>,
        /// The output.
        output: OutputName,
    },
}

const SINGLE: &str = "tag of a path to build";

/// Maximum number of derivations that are outputs of each other.
const MAX_NESTED: usize = 16;

impl Codec for SingleDerivedPath {
    const SHAPE: Shape = Shape::Choice(
        SINGLE,
        &[
            (0, Shape::Text),
            (
                1,
                Shape::Sequence(&[Shape::Recursive(|| SingleDerivedPath::SHAPE), Shape::Text]),
            ),
        ],
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        // Without recursion: the outputs come after the innermost path.
        let mut depth = 0;
        loop {
            match reader.number()? {
                0 => break,
                1 if depth == MAX_NESTED => return Err(ProtocolError::TooDeep(MAX_NESTED)),
                1 => depth += 1,
                tag => return Err(ProtocolError::Tag { what: SINGLE, tag }),
            }
        }
        let mut path = Self::Opaque(StorePath::read(reader)?);
        for _ in 0..depth {
            let output = OutputName::read(reader)?;
            path = Self::Built {
                drv: Box::new(path),
                output,
            };
        }
        Ok(path)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Opaque(path) => {
                writer.number(0);
                path.write(writer);
            }
            Self::Built { drv, output } => {
                writer.number(1);
                drv.write(writer);
                output.write(writer);
            }
        }
    }
}
