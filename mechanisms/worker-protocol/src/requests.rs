//! Requests and answers.

use std::collections::BTreeMap;

use bstr::BString;
use nix_compat::content_address::ContentAddress;
use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::signature::Signature;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StorePath, StorePathName};

use crate::build::{BuildMode, DerivedPath, SingleDerivedPath};
use crate::log::Verbosity;
use crate::scan::Shape;
use crate::values::Addressing;
use crate::wire::{Codec, Obsolete, Reader, Tagged, Writer, message, numbered};
use crate::{Feature, ProtocolError};

/// The answer of an operation that has no other: any number.
pub type Done = Obsolete<1>;

message! {
    /// Whether a path is valid.
    IsValidPath {
        /// The path.
        path: StorePath,
    }

    /// The referrers of a path.
    QueryReferrers {
        /// The path.
        path: StorePath,
    }

    /// Adds an object under the path that follows from its contents, which follow as a framed
    /// stream: a NAR, or the bytes of a file for the other methods.
    AddToStore {
        /// The name of the path.
        name: StorePathName,
        /// How the contents are hashed.
        addressing: Addressing,
        /// The references.
        references: SortedSet<StorePath>,
        /// Replaces a valid path.
        repair: bool,
    }

    /// Adds a text under the path that follows from it. Obsolete.
    AddTextToStore {
        /// The name of the path.
        name: StorePathName,
        /// The text.
        text: BString,
        /// The references.
        references: SortedSet<StorePath>,
    }

    /// Builds or substitutes paths. The operation fails if one fails.
    BuildPaths {
        /// The paths and outputs to make valid.
        paths: Vec<DerivedPath>,
        /// How to build.
        mode: BuildMode,
    }

    /// Builds or substitutes paths, and says how each ended.
    BuildPathsWithResults {
        /// The paths and outputs to make valid.
        paths: Vec<DerivedPath>,
        /// How to build.
        mode: BuildMode,
    }

    /// Substitutes a path unless it is valid.
    EnsurePath {
        /// The path.
        path: StorePath,
    }

    /// Keeps a path until the connection ends, even one that is not valid yet.
    AddTempRoot {
        /// The path.
        path: StorePath,
    }

    /// Registers a symlink outside the store as a root.
    AddIndirectRoot {
        /// The absolute path of the symlink.
        link: BString,
    }

    /// Creates a symlink and registers it as a root. Only for trusted clients.
    AddPermRoot {
        /// The path to keep.
        path: StorePath,
        /// The absolute path of the symlink.
        link: BString,
    }

    /// Does nothing. Obsolete.
    SyncWithGc {}

    /// All roots of the garbage collector.
    FindRoots {}

    /// The derivation that produced a path. Obsolete.
    QueryDeriver {
        /// The path.
        path: StorePath,
    }

    /// The settings of the client. Untrusted clients may set few of them.
    SetOptions {
        /// Keeps the directories of failed builds.
        keep_failed: bool,
        /// Goes on after a failure.
        keep_going: bool,
        /// Builds paths that cannot be substituted.
        try_fallback: bool,
        /// The importance of messages that the client wants.
        verbosity: VerbosityLevel,
        /// Maximum number of concurrent builds.
        max_build_jobs: u64,
        /// Seconds of silence after which a build is ended; 0 for no limit.
        max_silent_time: u64,
        /// Formerly: whether to use a build hook.
        use_build_hook: Obsolete<1>,
        /// The importance of log lines of builds: 0 if they are shown.
        verbose_build: VerbosityLevel,
        /// Formerly: the type of the log.
        log_type: Obsolete<0>,
        /// Formerly: whether to trace builds.
        print_build_trace: Obsolete<0>,
        /// Number of cores for each build; 0 for all.
        build_cores: u64,
        /// Whether to use substituters.
        use_substitutes: bool,
        /// Other settings by name.
        overrides: Vec<(BString, BString)>,
    }

    /// The number and size of substitutable paths. Obsolete.
    QuerySubstitutablePathInfo {
        /// The path.
        path: StorePath,
    }

    /// Infos of the paths that can be substituted.
    QuerySubstitutablePathInfos {
        /// The paths, with their content addresses if known.
        paths: Vec<(StorePath, Option<ContentAddress>)>,
    }

    /// The valid outputs of a derivation. Obsolete.
    QueryDerivationOutputs {
        /// The derivation.
        path: StorePath,
    }

    /// The names of the outputs of a derivation. Obsolete.
    QueryDerivationOutputNames {
        /// The derivation.
        path: StorePath,
    }

    /// The outputs of a derivation.
    QueryDerivationOutputMap {
        /// The derivation.
        path: StorePath,
    }

    /// All valid paths.
    QueryAllValidPaths {}

    /// The metadata of a path.
    QueryPathInfo {
        /// The path.
        path: StorePath,
    }

    /// The valid path with a hash part.
    QueryPathFromHashPart {
        /// The hash part, 20 bytes.
        digest: [u8; 20],
    }

    /// The valid ones among paths.
    QueryValidPaths {
        /// The paths.
        paths: Vec<StorePath>,
        /// Substitutes those that are not valid.
        substitute: bool,
    }

    /// The paths that can be substituted.
    QuerySubstitutablePaths {
        /// The paths.
        paths: Vec<StorePath>,
    }

    /// The valid derivations that have a path as output.
    QueryValidDerivers {
        /// The path.
        path: StorePath,
    }

    /// Replaces equal files by hard links.
    OptimiseStore {}

    /// Verifies the store. The answer is whether errors are left.
    VerifyStore {
        /// Reads the contents.
        check_contents: bool,
        /// Repairs corrupt paths. Only for trusted clients.
        repair: bool,
    }

    /// Adds signatures to a path.
    AddSignatures {
        /// The path.
        path: StorePath,
        /// The signatures.
        signatures: Vec<Signature>,
    }

    /// The NAR of a path, which follows the end of the log.
    NarFromPath {
        /// The path.
        path: StorePath,
    }

    /// Adds a path. Its NAR follows as a framed stream.
    AddToStoreNar {
        /// Its metadata.
        info: PathInfo,
        /// Replaces a valid path.
        repair: bool,
        /// Accepts it without a signature. Only for trusted clients.
        dont_check_signatures: bool,
    }

    /// Adds paths. Their number, infos and NARs follow as a framed stream:
    /// [`PathsDecoder`](crate::PathsDecoder).
    AddMultipleToStore {
        /// Replaces valid paths.
        repair: bool,
        /// Accepts them without signatures. Only for trusted clients.
        dont_check_signatures: bool,
    }

    /// The work that makes paths valid.
    QueryMissing {
        /// The paths.
        paths: Vec<DerivedPath>,
    }

    /// Remembers the path of an output.
    RegisterDrvOutput {
        /// The realisation.
        realisation: Realisation,
    }

    /// The path of an output.
    QueryRealisation {
        /// The output.
        id: DrvOutput,
    }

    /// Adds the log of a build, which follows as a framed stream. Only for trusted clients.
    AddBuildLog {
        /// The base name of the derivation.
        drv: BaseName,
    }

    /// Adds an object as [`AddToStore`], and finds its references. Within builds only.
    AddToStoreScanning {
        /// The name of the path.
        name: StorePathName,
        /// How the contents are hashed.
        addressing: Addressing,
    }

    /// Makes a path an output of the build that runs.
    SubmitOutput {
        /// The path.
        path: SingleDerivedPath,
        /// The output.
        output: OutputName,
    }

    /// A root of the garbage collector.
    Root {
        /// The link, or the process, that refers to the path. Censored for untrusted clients.
        link: BString,
        /// The path.
        path: StorePath,
    }

    /// The answer to [`CollectGarbage`].
    Collected {
        /// The paths that were deleted or found, as absolute paths.
        paths: Vec<BString>,
        /// Number of bytes freed.
        bytes_freed: u64,
        /// Formerly: number of blocks freed.
        blocks_freed: Obsolete<0>,
    }

    /// The answer to [`QueryMissing`].
    Missing {
        /// Derivations that will be built.
        will_build: SortedSet<StorePath>,
        /// Paths that will be substituted.
        will_substitute: SortedSet<StorePath>,
        /// Paths about which nothing is known.
        unknown: SortedSet<StorePath>,
        /// Bytes to download.
        download_size: u64,
        /// Size of the NARs in bytes.
        nar_size: u64,
    }

    /// A substituter's information about a path.
    SubstitutablePathInfo {
        /// The derivation that produced it.
        deriver: Option<StorePath>,
        /// Its references.
        references: SortedSet<StorePath>,
        /// Bytes to download; 0 if unknown.
        download_size: u64,
        /// Size of the NAR in bytes; 0 if unknown.
        nar_size: u64,
    }
}

/// Number of outputs and their paths, as far as known.
pub type DerivationOutputMap = BTreeMap<OutputName, Option<StorePath>>;

/// The answer to [`QuerySubstitutablePathInfo`].
pub type FoundSubstitutable = Tagged<SubstitutablePathInfo>;

/// A store path by its base name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseName(pub StorePath);

impl Codec for BaseName {
    const SHAPE: Shape = Shape::Text;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        reader
            .parsed("base name of a store path", str::parse)
            .map(Self)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(self.0.to_string());
    }
}

/// A verbosity as clients send it: a number above the highest one stands for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerbosityLevel(pub Verbosity);

impl Codec for VerbosityLevel {
    const SHAPE: Shape = Shape::Number;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(Self(match reader.number()? {
            0 => Verbosity::Error,
            1 => Verbosity::Warn,
            2 => Verbosity::Notice,
            3 => Verbosity::Info,
            4 => Verbosity::Talkative,
            5 => Verbosity::Chatty,
            6 => Verbosity::Debug,
            _ => Verbosity::Vomit,
        }))
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.0.write(writer);
    }
}

numbered! {
    /// The action of a garbage collection.
    GcAction: "garbage collection" {
        /// Lists the live paths.
        ReturnLive = 0,
        /// Lists the dead paths.
        ReturnDead = 1,
        /// Deletes the dead paths.
        DeleteDead = 2,
        /// Deletes some paths.
        DeleteSpecific = 3,
    }
}

/// The paths that a garbage collection is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcPaths {
    /// All.
    WholeStore,
    /// Some.
    Specific {
        /// The paths.
        paths: SortedSet<StorePath>,
        /// Deletes their referrers too. Needs [`Feature::DeleteSpecificReferrers`].
        delete_referrers: bool,
    },
}

/// Collects garbage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectGarbage {
    /// What to do.
    pub action: GcAction,
    /// The paths.
    pub paths: GcPaths,
    /// Deletes live paths too. Daemons refuse it.
    pub ignore_liveness: bool,
    /// Stops after so many bytes.
    pub max_freed: u64,
}

const GC_PATHS: &str = "kind of paths to collect";

impl Codec for CollectGarbage {
    const SHAPE: Shape = Shape::Sequence(&[
        Shape::Number,
        Shape::With(
            Feature::DeleteSpecificReferrers,
            &Shape::Choice(
                GC_PATHS,
                &[
                    (
                        0,
                        Shape::Sequence(&[Shape::List(&Shape::Text), Shape::Number]),
                    ),
                    (1, Shape::EMPTY),
                ],
            ),
            &Shape::List(&Shape::Text),
        ),
        Shape::Number,
        Shape::Number,
        Shape::Number,
        Shape::Number,
        Shape::Number,
    ]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let action = GcAction::read(reader)?;
        let paths = match reader.has(Feature::DeleteSpecificReferrers) {
            true => match reader.number()? {
                0 => GcPaths::Specific {
                    paths: SortedSet::read(reader)?,
                    delete_referrers: bool::read(reader)?,
                },
                1 => GcPaths::WholeStore,
                tag => {
                    return Err(ProtocolError::Tag {
                        what: GC_PATHS,
                        tag,
                    });
                }
            },
            false => {
                let paths = SortedSet::read(reader)?;
                match action == GcAction::DeleteSpecific || !paths.is_empty() {
                    true => GcPaths::Specific {
                        paths,
                        delete_referrers: false,
                    },
                    false => GcPaths::WholeStore,
                }
            }
        };
        let (ignore_liveness, max_freed) = (bool::read(reader)?, reader.number()?);
        for _ in 0..3 {
            Obsolete::<0>::read(reader)?;
        }
        Ok(Self {
            action,
            paths,
            ignore_liveness,
            max_freed,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        self.action.write(writer);
        let feature = Feature::DeleteSpecificReferrers;
        match (&self.paths, writer.has(feature)) {
            (GcPaths::WholeStore, true) => writer.number(1),
            (GcPaths::WholeStore, false) => writer.number(0),
            (
                GcPaths::Specific {
                    paths,
                    delete_referrers,
                },
                true,
            ) => {
                writer.number(0);
                paths.write(writer);
                delete_referrers.write(writer);
            }
            (
                GcPaths::Specific {
                    paths,
                    delete_referrers,
                },
                false,
            ) => {
                if *delete_referrers || self.action != GcAction::DeleteSpecific {
                    writer.unsupported("garbage collection of some paths", Some(feature));
                }
                paths.write(writer);
            }
        }
        self.ignore_liveness.write(writer);
        writer.number(self.max_freed);
        for _ in 0..3 {
            writer.number(0);
        }
    }
}
