//! Derivations as JSON: what `nix derivation show` prints, in the two forms that are about.
//!
//! JSON is text, and a derivation need not be: one that holds something else than UTF-8 has no
//! JSON ([`JsonError::NotUtf8`]).
//!
//! ```
//! use nix_compat::derivation::DerivationBuilder;
//! use nix_compat::derivation::json::{self, JsonForm};
//! use nix_compat::store_path::StoreDir;
//!
//! let dir = StoreDir::default();
//! let hello = DerivationBuilder::new("hello", "x86_64-linux", "/bin/sh").instantiate(&dir)?;
//! let shown = json::show([(&hello.path, &*hello.derivation)], &dir, JsonForm::V4)?;
//! assert_eq!(shown["version"], 4);
//! let read = json::parse(&shown, &dir)?;
//! assert_eq!(read, [(hello.path, (*hello.derivation).clone())]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod legacy;
mod v4;

use bstr::{BStr, BString};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Derivation, Output, OutputName, OutputNameError, OutputOptionError};
use crate::content_address::ContentAddressMethod;
use crate::nixhash::HashError;
use crate::sorted::SortedMap;
use crate::store_path::{
    DRV_SUFFIX, NameError, StoreDir, StorePath, StorePathError, StorePathName,
};

/// How derivations are written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JsonForm {
    /// That of `nix show-derivation` in Nix 2.8: absolute paths, no version.
    Legacy,
    /// Version 4, of Nix 2.34: base names of paths, structured attributes as such.
    V4,
}

/// Why a derivation has no JSON, or JSON is not a derivation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The derivation holds something that JSON cannot.
    #[error("{place} of derivation '{derivation}' is not UTF-8: '{}'", .value.escape_ascii())]
    NotUtf8 {
        /// The derivation's name.
        derivation: StorePathName,
        /// Where, in words.
        place: String,
        /// What is there.
        value: BString,
    },
    /// It is no JSON of this shape.
    #[error("not a derivation")]
    Shape(#[from] serde_json::Error),
    /// It is not a map of derivations by path.
    #[error("not derivations by their paths")]
    NotMap,
    /// A version that is not known.
    #[error("version {0} of the JSON form of derivations is not supported")]
    UnsupportedVersion(Value),
    /// A field holds no store path.
    #[error("'{field}' holds something that is not a store path")]
    StorePath {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// A field that is to name a derivation names something else.
    #[error("'{0}' does not end in '.drv'")]
    NotDerivation(StorePath),
    /// The name of the derivation is not one.
    #[error("'{name}' cannot be the name of a derivation")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The derivation is called otherwise than its path says.
    #[error("the derivation is called '{found}', not '{expected}'")]
    OtherName {
        /// What it says.
        found: StorePathName,
        /// What its path says.
        expected: StorePathName,
    },
    /// Not the name of an output.
    #[error(transparent)]
    OutputName(#[from] OutputNameError),
    /// There is no output, or none is used of an input.
    #[error("'{0}' names no output")]
    NoOutputs(String),
    /// Dynamic derivations are not supported.
    #[error("the input '{0}' is dynamic, which is not supported")]
    Dynamic(String),
    /// The hash of an output, or its algorithm, is none.
    #[error("the output '{output}' has an invalid hash")]
    Hash {
        /// The output.
        output: OutputName,
        /// What is wrong with it.
        source: HashError,
    },
    /// The fields of an output do not go together.
    #[error("the fields of the output '{0}' do not go together")]
    OutputFields(OutputName),
    /// The fixed output can have no path.
    #[error(transparent)]
    Output(#[from] OutputOptionError),
    /// The path of a fixed output is not the one that its hash gives.
    #[error("the path of the fixed output should be '{expected}'")]
    FixedPathMismatch {
        /// What the hash gives.
        expected: StorePath,
    },
    /// `__json`, which holds structured attributes, is no JSON object.
    #[error("the structured attributes of derivation '{derivation}' are not a JSON object")]
    StructuredAttrs {
        /// The derivation's name.
        derivation: StorePathName,
    },
    /// The derivation is not the one whose path it stands under.
    #[error("what stands under '{claimed}' is the derivation '{computed}'")]
    PathMismatch {
        /// The path that is written there.
        claimed: StorePath,
        /// The path that follows from the contents.
        computed: StorePath,
    },
}

/// What `nix derivation show` prints of these.
pub fn show<'a>(
    derivations: impl IntoIterator<Item = (&'a StorePath, &'a Derivation)>,
    dir: &StoreDir,
    form: JsonForm,
) -> Result<Value, JsonError> {
    let mut all = Map::new();
    let mut sorted: Vec<_> = derivations.into_iter().collect();
    sorted.sort_by_key(|(path, _)| *path);
    for (path, derivation) in sorted {
        let key = match form {
            JsonForm::Legacy => dir.display(path).to_string(),
            JsonForm::V4 => path.to_string(),
        };
        all.insert(key, derivation.to_nix_json(dir, form)?);
    }
    Ok(match form {
        JsonForm::Legacy => Value::Object(all),
        JsonForm::V4 => serde_json::json!({ "derivations": all, "version": v4::VERSION }),
    })
}

/// Reads what `nix derivation show` prints, in either form. Every derivation must be the one of
/// its path.
pub fn parse(value: &Value, dir: &StoreDir) -> Result<Vec<(StorePath, Derivation)>, JsonError> {
    let versioned = value.get("derivations");
    if versioned.is_some() {
        v4::check_version(value.get("version"))?;
    }
    let all = versioned.unwrap_or(value).as_object();
    let mut derivations = Vec::new();
    for (key, value) in all.ok_or(JsonError::NotMap)? {
        let path = match versioned {
            None => dir.parse(key),
            Some(_) => key.parse(),
        };
        let claimed = path.map_err(store_path("derivations"))?;
        let name = drv_name(&claimed)?;
        let derivation = Derivation::from_nix_json(name, value, dir)?;
        let computed = derivation.path(dir);
        let computed = computed.map_err(name_error(derivation.name.as_str()))?;
        if computed != claimed {
            return Err(JsonError::PathMismatch { claimed, computed });
        }
        derivations.push((claimed, derivation));
    }
    Ok(derivations)
}

impl Derivation {
    /// What `nix derivation show` prints under the derivation's path.
    ///
    /// Fails if it holds something that is not UTF-8, and in [`JsonForm::V4`] if its structured
    /// attributes are no JSON object.
    pub fn to_nix_json(&self, dir: &StoreDir, form: JsonForm) -> Result<Value, JsonError> {
        match form {
            JsonForm::Legacy => legacy::write(self, dir),
            JsonForm::V4 => v4::write(self),
        }
    }

    /// Reads what `nix derivation show` prints under the path of a derivation of this name,
    /// in either form.
    ///
    /// The text of structured attributes is not in [`JsonForm::V4`], only what it says: it is
    /// taken to have been without needless spaces, as Nix writes it. Whoever knows the path of
    /// the derivation can tell whether it was ([`parse`] does).
    pub fn from_nix_json(
        name: StorePathName,
        value: &Value,
        dir: &StoreDir,
    ) -> Result<Self, JsonError> {
        match value.get("version") {
            None => legacy::read(name, value, dir),
            version => {
                v4::check_version(version)?;
                v4::read(name, value, dir)
            }
        }
    }
}

/// The texts of a derivation that both forms have.
struct Texts {
    system: String,
    builder: String,
    args: Vec<String>,
    env: Map<String, Value>,
}

impl Texts {
    fn of(derivation: &Derivation) -> Result<Self, JsonError> {
        let text = |value: &BString, place: &dyn Fn() -> String| match str::from_utf8(value) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(JsonError::NotUtf8 {
                derivation: derivation.name.clone(),
                place: place(),
                value: value.clone(),
            }),
        };
        let mut env = Map::new();
        for (name, value) in derivation.env.iter() {
            let place = || format!("environment variable '{}'", BStr::new(name));
            let key = text(name, &|| "the name of an environment variable".to_owned())?;
            env.insert(key, text(value, &place)?.into());
        }
        let args = derivation.args.iter().enumerate();
        let args = args.map(|(index, arg)| text(arg, &|| format!("argument {index}")));
        Ok(Self {
            system: text(&derivation.system, &|| "the system".to_owned())?,
            builder: text(&derivation.builder, &|| "the builder".to_owned())?,
            args: args.collect::<Result<_, _>>()?,
            env,
        })
    }
}

fn drv_name(path: &StorePath) -> Result<StorePathName, JsonError> {
    let name = path.name().as_str();
    let name = name.strip_suffix(DRV_SUFFIX);
    let name = name.ok_or_else(|| JsonError::NotDerivation(path.clone()))?;
    name.parse().map_err(name_error(name))
}

fn name_error(name: &str) -> impl FnOnce(NameError) -> JsonError {
    move |source| JsonError::Name {
        name: name.to_owned(),
        source,
    }
}

fn store_path(field: &'static str) -> impl Fn(StorePathError) -> JsonError {
    move |source| JsonError::StorePath { field, source }
}

fn output_names(
    of: &str,
    names: &[String],
) -> Result<crate::sorted::SortedSet<OutputName>, JsonError> {
    if names.is_empty() {
        return Err(JsonError::NoOutputs(of.to_owned()));
    }
    let names = names.iter().map(|name| name.parse());
    Ok(names.collect::<Result<_, _>>()?)
}

fn outputs<'a, T: 'a>(
    outputs: impl IntoIterator<Item = (&'a String, &'a T)>,
    read: impl Fn(&OutputName, &T) -> Result<Output, JsonError>,
) -> Result<SortedMap<OutputName, Output>, JsonError> {
    let mut all = SortedMap::new_vec();
    for (name, output) in outputs {
        let name: OutputName = name.parse()?;
        let output = read(&name, output)?;
        all.insert(name, output);
    }
    if all.is_empty() {
        return Err(JsonError::NoOutputs("outputs".to_owned()));
    }
    Ok(all)
}

/// Outputs whose paths are known only after the build.
fn unfixed(method: ContentAddressMethod, algo: crate::nixhash::HashAlgo, impure: bool) -> Output {
    if impure {
        Output::Impure { method, algo }
    } else {
        Output::Floating { method, algo }
    }
}
