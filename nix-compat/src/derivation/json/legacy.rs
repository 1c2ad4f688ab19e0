//! The JSON form of Nix 2.8: absolute paths, and the method of an output as a prefix of its
//! algorithm.
//!
//! The forms between Nix 2.8 and the versioned form nest the outputs of inputs and may have a field
//! for the name; the parser accepts both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{JsonError, Texts, output_names, outputs, store_path, unfixed};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::derivation::{Derivation, Output, OutputName};
use crate::nixhash::{HashEncoding, NixHash};
use crate::sorted::SortedMap;
use crate::store_path::{StoreDir, StorePath, StorePathName};

/// The fields in the order in which Nix writes them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    outputs: BTreeMap<String, JsonOutput>,
    input_srcs: Vec<String>,
    /// Sorted by path.
    input_drvs: Map<String, Value>,
    system: String,
    builder: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonOutput {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash_algo: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    impure: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum InputOutputs {
    Names(Vec<String>),
    Nested(super::v4::InputOutputs),
}

pub(super) fn write(derivation: &Derivation, dir: &StoreDir) -> Result<Value, JsonError> {
    let texts = Texts::of(derivation)?;
    let absolute = |path: &StorePath| dir.display(path).to_string();
    let prefixed = |method: &ContentAddressMethod, algo| format!("{}{algo}", method.prefix());
    let outputs = derivation.outputs.iter().map(|(name, output)| {
        let path = output.path(dir, &derivation.name, name);
        let mut json = JsonOutput {
            path: path.as_ref().map(absolute),
            ..JsonOutput::default()
        };
        match output {
            Output::InputAddressed(_) | Output::Deferred => {}
            Output::Fixed(ContentAddress { method, hash }) => {
                json.hash_algo = Some(prefixed(method, hash.algo()));
                json.hash = Some(hash.encode(HashEncoding::Base16));
            }
            Output::Floating { method, algo } => json.hash_algo = Some(prefixed(method, *algo)),
            Output::Impure { method, algo } => {
                json.hash_algo = Some(prefixed(method, *algo));
                json.impure = true;
            }
        }
        (name.to_string(), json)
    });
    let inputs = derivation.input_drvs.iter().map(|(path, outputs)| {
        let names = outputs.iter().map(|name| Value::from(name.as_str()));
        (absolute(path), names.collect())
    });
    let env = texts
        .env
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::String(value) => Some((name, value)),
            _ => None,
        });
    Ok(serde_json::to_value(Json {
        outputs: outputs.collect(),
        input_srcs: derivation.input_srcs.iter().map(absolute).collect(),
        input_drvs: inputs.collect(),
        system: texts.system,
        builder: texts.builder,
        args: texts.args,
        env: env.collect(),
    })?)
}

pub(super) fn read(
    name: StorePathName,
    value: &Value,
    dir: &StoreDir,
) -> Result<Derivation, JsonError> {
    let json = Json::deserialize(value)?;
    let mut input_drvs = SortedMap::new();
    for (text, names) in &json.input_drvs {
        let path = dir.parse(text).map_err(store_path("inputDrvs"))?;
        if !path.is_derivation() {
            return Err(JsonError::NotDerivation(path));
        }
        let names = match InputOutputs::deserialize(names)? {
            InputOutputs::Names(names) => names,
            InputOutputs::Nested(nested) => nested.names(text)?,
        };
        input_drvs.insert(path, output_names(text, &names)?);
    }
    let sources = json.input_srcs.iter().map(|path| dir.parse(path));
    Ok(Derivation {
        outputs: outputs(&json.outputs, |output, json| {
            read_output(&name, output, json, dir)
        })?,
        name,
        input_drvs,
        input_srcs: sources
            .collect::<Result<_, _>>()
            .map_err(store_path("inputSrcs"))?,
        system: json.system.into(),
        builder: json.builder.into(),
        args: json.args.into_iter().map(Into::into).collect(),
        env: json
            .env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    })
}

fn read_output(
    derivation: &StorePathName,
    name: &OutputName,
    json: &JsonOutput,
    dir: &StoreDir,
) -> Result<Output, JsonError> {
    let invalid = |source| JsonError::Hash {
        output: name.clone(),
        source,
    };
    let path = match &json.path {
        Some(path) => Some(dir.parse(path).map_err(store_path("path"))?),
        None => None,
    };
    let method_algo = match &json.hash_algo {
        Some(text) => Some(ContentAddressMethod::split_prefixed(text).map_err(invalid)?),
        None => None,
    };
    match (method_algo, path, &json.hash, json.impure) {
        (None, Some(path), None, false) => Ok(Output::InputAddressed(path)),
        (None, None, None, false) => Ok(Output::Deferred),
        (Some((method, algo)), None, None, impure) => Ok(unfixed(method, algo, impure)),
        (Some((method, algo)), path, Some(digits), false) => {
            let hash = NixHash::parse_digits(digits, algo).map_err(invalid)?;
            let address = ContentAddress { method, hash };
            let expected = Output::fixed_path(&address, dir, derivation, name)?;
            match path {
                Some(path) if path != expected => Err(JsonError::FixedPathMismatch { expected }),
                _ => Ok(Output::Fixed(address)),
            }
        }
        _ => Err(JsonError::OutputFields(name.clone())),
    }
}
