//! Derivations as JSON, in the two forms that `nix derivation show` prints.
//!
//! JSON is UTF-8, and a `.drv` file need not be: a derivation with other bytes has no JSON form
//! ([`JsonError::NotUtf8`]).
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

use super::{Derivation, Output, OutputAddressError, OutputName, OutputNameError};
use crate::content_address::ContentAddressMethod;
use crate::nixhash::HashError;
use crate::sorted::SortedMap;
use crate::store_path::{
    DRV_SUFFIX, NameError, StoreDir, StorePath, StorePathError, StorePathName,
};

/// The JSON forms of derivations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JsonForm {
    /// The form of `nix show-derivation` in Nix 2.8: absolute paths, no version.
    Legacy,
    /// Version 4, the form of Nix 2.34: base names of store paths, structured attributes as JSON.
    V4,
}

/// Why a derivation has no JSON form, or why a JSON value is not a derivation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// A part of the derivation is not UTF-8.
    #[error("{place} of derivation '{derivation}' is not UTF-8: '{}'", .value.escape_ascii())]
    NotUtf8 {
        /// The derivation's name.
        derivation: StorePathName,
        /// The part of the derivation, in words.
        place: String,
        /// Its bytes.
        value: BString,
    },
    /// The JSON value has another structure.
    #[error("not a derivation")]
    Structure(#[from] serde_json::Error),
    /// The JSON value is not a map of derivations by path.
    #[error("not derivations by their paths")]
    NotMap,
    /// An unsupported version of the form.
    #[error("version {0} of the JSON form of derivations is not supported")]
    UnsupportedVersion(Value),
    /// A field holds an invalid store path.
    #[error("'{field}' holds something that is not a store path")]
    StorePath {
        /// The field's name.
        field: &'static str,
        /// The reason.
        source: StorePathError,
    },
    /// A field that names a derivation does not end in `.drv`.
    #[error("'{0}' does not end in '.drv'")]
    NotDerivation(StorePath),
    /// An invalid derivation name.
    #[error("'{name}' cannot be the name of a derivation")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        source: NameError,
    },
    /// The derivation's name differs from the name in its path.
    #[error("the derivation is called '{found}', not '{expected}'")]
    NameMismatch {
        /// The name in the field `name`.
        found: StorePathName,
        /// The name in the path.
        expected: StorePathName,
    },
    /// An invalid output name.
    #[error(transparent)]
    OutputName(#[from] OutputNameError),
    /// The derivation has no outputs, or an input has an empty list of outputs.
    #[error("'{0}' names no output")]
    NoOutputs(String),
    /// An input of a dynamic derivation, which is not supported.
    #[error("the input '{0}' is dynamic, which is not supported")]
    Dynamic(String),
    /// An output has an invalid hash or hash algorithm.
    #[error("the output '{output}' has an invalid hash")]
    Hash {
        /// The output.
        output: OutputName,
        /// The reason.
        source: HashError,
    },
    /// The combination of an output's fields is not valid.
    #[error("the fields of the output '{0}' do not go together")]
    OutputFields(OutputName),
    /// No store path exists for the fixed output.
    #[error(transparent)]
    Output(#[from] OutputAddressError),
    /// The path of a fixed output differs from the path that its hash determines.
    #[error("the path of the fixed output should be '{expected}'")]
    FixedPathMismatch {
        /// The path that the hash determines.
        expected: StorePath,
    },
    /// `__json`, which holds structured attributes, is not a JSON object.
    #[error("the structured attributes of derivation '{derivation}' are not a JSON object")]
    StructuredAttrs {
        /// The derivation's name.
        derivation: StorePathName,
    },
    /// The derivation differs from the one that its path names.
    #[error("what stands under '{claimed}' is the derivation '{computed}'")]
    PathMismatch {
        /// The path in the map.
        claimed: StorePath,
        /// The path computed from the derivation.
        computed: StorePath,
    },
}

/// The output of `nix derivation show` for these derivations.
///
/// # Errors
///
/// [`JsonError::NotUtf8`] and [`JsonError::StructuredAttrs`], as for [`Derivation::to_nix_json`].
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

/// Parses the output of `nix derivation show`, in either form. Each derivation is verified against
/// its path.
///
/// # Errors
///
/// [`JsonError`] for the first invalid derivation.
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
    /// The JSON value that `nix derivation show` prints under the derivation's path.
    ///
    /// Fails if the derivation holds bytes that are not UTF-8, and in [`JsonForm::V4`] if its
    /// structured attributes are not a JSON object.
    pub fn to_nix_json(&self, dir: &StoreDir, form: JsonForm) -> Result<Value, JsonError> {
        match form {
            JsonForm::Legacy => legacy::write(self, dir),
            JsonForm::V4 => v4::write(self),
        }
    }

    /// Parses the JSON value that `nix derivation show` prints under the path of a derivation
    /// called `name`, in either form.
    ///
    /// [`JsonForm::V4`] holds the value of structured attributes but not their text, which is
    /// assumed to be compact JSON, as Nix writes it. [`parse`] verifies this assumption, because it
    /// knows the path.
    ///
    /// # Errors
    ///
    /// [`JsonError`].
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

/// The text fields that both forms have.
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
    let mut all = SortedMap::new();
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

/// An output with a path that is known only after the build.
fn unfixed(method: ContentAddressMethod, algo: crate::nixhash::HashAlgo, impure: bool) -> Output {
    if impure {
        Output::Impure { method, algo }
    } else {
        Output::Floating { method, algo }
    }
}
