//! Version 4, the form of Nix 2.34: base names of paths, hashes as SRI.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{JsonError, Texts, name_error, output_names, outputs, store_path, unfixed};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::derivation::{Derivation, Output, OutputName};
use crate::nixhash::{HashAlgo, NixHash};
use crate::sorted::SortedMap;
use crate::store_path::{StoreDir, StorePathName};

pub(super) const VERSION: u64 = 4;

/// The environment variable that holds structured attributes.
const STRUCTURED: &str = "__json";

/// The fields in the order in which Nix writes them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    args: Vec<String>,
    builder: String,
    env: BTreeMap<String, String>,
    inputs: Inputs,
    name: String,
    outputs: BTreeMap<String, JsonOutput>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    structured_attrs: Option<Map<String, Value>>,
    system: String,
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Inputs {
    drvs: BTreeMap<String, InputOutputs>,
    srcs: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InputOutputs {
    #[serde(default)]
    dynamic_outputs: Map<String, Value>,
    outputs: Vec<String>,
}

impl InputOutputs {
    pub(super) fn names(self, input: &str) -> Result<Vec<String>, JsonError> {
        if self.dynamic_outputs.is_empty() {
            Ok(self.outputs)
        } else {
            Err(JsonError::Dynamic(input.to_owned()))
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonOutput {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash_algo: Option<HashAlgo>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    impure: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<Method>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Text,
    Flat,
    Nar,
}

impl From<ContentAddressMethod> for Method {
    fn from(method: ContentAddressMethod) -> Self {
        match method {
            ContentAddressMethod::Text => Self::Text,
            ContentAddressMethod::Flat => Self::Flat,
            ContentAddressMethod::NixArchive => Self::Nar,
        }
    }
}

impl From<Method> for ContentAddressMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Text => Self::Text,
            Method::Flat => Self::Flat,
            Method::Nar => Self::NixArchive,
        }
    }
}

pub(super) fn check_version(version: Option<&Value>) -> Result<(), JsonError> {
    match version {
        Some(version) if version.as_u64() == Some(VERSION) => Ok(()),
        other => Err(JsonError::UnsupportedVersion(
            other.cloned().unwrap_or_default(),
        )),
    }
}

pub(super) fn write(derivation: &Derivation) -> Result<Value, JsonError> {
    let texts = Texts::of(derivation)?;
    let mut env = BTreeMap::new();
    let mut structured_attrs = None;
    for (name, value) in texts.env {
        match value {
            Value::String(text) if name == STRUCTURED => {
                let attrs = serde_json::from_str(&text);
                structured_attrs = Some(attrs.map_err(|_| JsonError::StructuredAttrs {
                    derivation: derivation.name.clone(),
                })?);
            }
            Value::String(text) => {
                env.insert(name, text);
            }
            _ => {}
        }
    }
    let outputs = derivation.outputs.iter().map(|(name, output)| {
        let mut json = JsonOutput::default();
        match output {
            Output::InputAddressed(path) => json.path = Some(path.to_string()),
            Output::Deferred => {}
            Output::Fixed(ContentAddress { method, hash }) => {
                json.hash = Some(hash.to_string());
                json.method = Some((*method).into());
            }
            Output::Floating { method, algo } | Output::Impure { method, algo } => {
                json.hash_algo = Some(*algo);
                json.impure = matches!(output, Output::Impure { .. });
                json.method = Some((*method).into());
            }
        }
        (name.to_string(), json)
    });
    let drvs = derivation.input_drvs.iter().map(|(path, outputs)| {
        let outputs = InputOutputs {
            dynamic_outputs: Map::new(),
            outputs: outputs.iter().map(ToString::to_string).collect(),
        };
        (path.to_string(), outputs)
    });
    let srcs = derivation.input_srcs.iter().map(ToString::to_string);
    Ok(serde_json::to_value(Json {
        args: texts.args,
        builder: texts.builder,
        env,
        inputs: Inputs {
            drvs: drvs.collect(),
            srcs: srcs.collect(),
        },
        name: derivation.name.to_string(),
        outputs: outputs.collect(),
        structured_attrs,
        system: texts.system,
        version: VERSION,
    })?)
}

pub(super) fn read(
    name: StorePathName,
    value: &Value,
    dir: &StoreDir,
) -> Result<Derivation, JsonError> {
    let json = Json::deserialize(value)?;
    let own: StorePathName = json.name.parse().map_err(name_error(&json.name))?;
    let mut input_drvs = SortedMap::new();
    for (text, names) in json.inputs.drvs {
        let path: crate::store_path::StorePath = text.parse().map_err(store_path("inputs"))?;
        if !path.is_derivation() {
            return Err(JsonError::NotDerivation(path));
        }
        input_drvs.insert(path, output_names(&text, &names.names(&text)?)?);
    }
    let sources = json.inputs.srcs.iter().map(|path| path.parse());
    let mut env: SortedMap<_, _> = json
        .env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    if let Some(attrs) = &json.structured_attrs {
        env.insert(STRUCTURED.into(), serde_json::to_string(attrs)?.into());
    }
    if own != name {
        return Err(JsonError::NameMismatch {
            found: own,
            expected: name,
        });
    }
    Ok(Derivation {
        outputs: outputs(&json.outputs, |output, json| {
            read_output(&name, output, json, dir)
        })?,
        name,
        input_drvs,
        input_srcs: sources
            .collect::<Result<_, _>>()
            .map_err(store_path("inputs"))?,
        system: json.system.into(),
        builder: json.builder.into(),
        args: json.args.into_iter().map(Into::into).collect(),
        env,
    })
}

fn read_output(
    derivation: &StorePathName,
    name: &OutputName,
    json: &JsonOutput,
    dir: &StoreDir,
) -> Result<Output, JsonError> {
    match (&json.path, &json.hash, json.hash_algo, json.method) {
        (Some(path), None, None, None) if !json.impure => Ok(Output::InputAddressed(
            path.parse().map_err(store_path("path"))?,
        )),
        (None, None, None, None) if !json.impure => Ok(Output::Deferred),
        (None, None, Some(algo), Some(method)) => Ok(unfixed(method.into(), algo, json.impure)),
        (None, Some(hash), None, Some(method)) if !json.impure => {
            let hash = NixHash::parse_sri(hash).map_err(|source| JsonError::Hash {
                output: name.clone(),
                source,
            })?;
            let method = method.into();
            let address = ContentAddress { method, hash };
            Output::fixed_path(&address, dir, derivation, name)?;
            Ok(Output::Fixed(address))
        }
        _ => Err(JsonError::OutputFields(name.clone())),
    }
}
