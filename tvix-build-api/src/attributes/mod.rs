//! Attributes of a derivation that control its build. They are in its environment or, with
//! `__structuredAttrs`, in the JSON object of the variable `__json`.

mod graph;
mod json;
mod shell;

pub(crate) use graph::ReferenceGraphs;
pub use graph::derivations_in_graphs;

use bstr::{BString, ByteSlice as _};
use nix_compat::derivation::Derivation;
use serde_json::{Map, Value};

use crate::FailureKind;

/// The variable that holds structured attributes.
const STRUCTURED: &str = "__json";

/// A derivation's attributes.
#[derive(Debug)]
pub(crate) enum Attributes<'d> {
    /// Each attribute is an environment variable.
    Plain(&'d Derivation),
    /// The attributes are a JSON object, and none of them is in the environment.
    Structured(Map<String, Value>),
}

impl<'d> Attributes<'d> {
    /// Reads the attributes.
    ///
    /// # Errors
    ///
    /// [`FailureKind::InvalidDerivation`] if they are structured and not a JSON object.
    pub fn of(derivation: &'d Derivation) -> Result<Self, FailureKind> {
        let Some(text) = derivation.env_var(STRUCTURED) else {
            return Ok(Self::Plain(derivation));
        };
        match serde_json::from_slice(text) {
            Ok(Value::Object(attributes)) => Ok(Self::Structured(attributes)),
            Ok(_) => Err(invalid("its structured attributes are no JSON object")),
            Err(error) => Err(invalid(format!("its structured attributes: {error}"))),
        }
    }

    /// Whether an attribute is true: `1` in an environment.
    pub fn flag(&self, name: &str) -> Result<bool, FailureKind> {
        match self {
            Self::Plain(derivation) => Ok(derivation.env_var(name).is_some_and(|text| text == "1")),
            Self::Structured(attributes) => match attributes.get(name) {
                None => Ok(false),
                Some(Value::Bool(flag)) => Ok(*flag),
                Some(_) => Err(wrong_type(name, "a boolean")),
            },
        }
    }

    /// The words of an attribute, if it exists: in an environment they are separated by spaces.
    pub fn words(&self, name: &str) -> Result<Option<Vec<BString>>, FailureKind> {
        match self {
            Self::Plain(derivation) => {
                let text = derivation.env_var(name);
                Ok(text.map(|text| text.fields().map(BString::from).collect()))
            }
            Self::Structured(attributes) => attributes
                .get(name)
                .map(|value| strings(value, name))
                .transpose(),
        }
    }
}

/// The features that a derivation requires. Cheap, because it is called for every derivation.
/// Malformed attributes require no features; they are an error of the build.
pub(crate) fn required_features(derivation: &Derivation) -> Vec<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Required {
        #[serde(default)]
        required_system_features: Vec<String>,
    }
    match derivation.env_var(STRUCTURED) {
        Some(text) => serde_json::from_slice::<Required>(text)
            .map_or_else(|_| Vec::new(), |required| required.required_system_features),
        None => {
            let text = derivation.env_var("requiredSystemFeatures");
            let words = text.into_iter().flat_map(|text| text.fields());
            words.map(|word| word.to_str_lossy().into_owned()).collect()
        }
    }
}

/// The strings of a JSON array.
pub(crate) fn strings(value: &Value, name: &str) -> Result<Vec<BString>, FailureKind> {
    let wrong = || wrong_type(name, "a list of strings");
    let elements = value.as_array().ok_or_else(wrong)?;
    let texts = elements
        .iter()
        .map(|element| element.as_str().map(BString::from));
    texts.collect::<Option<_>>().ok_or_else(wrong)
}

pub(crate) fn wrong_type(name: &str, wanted: &str) -> FailureKind {
    invalid(format!("its attribute '{name}' is not {wanted}"))
}

pub(crate) fn invalid(message: impl Into<String>) -> FailureKind {
    FailureKind::InvalidDerivation {
        message: message.into(),
    }
}

/// The files with structured attributes for the builder program, as JSON and as bash declarations.
pub(crate) struct AttributeFiles {
    pub json: String,
    pub shell: String,
}

/// Writes structured attributes for the builder program, with the addition of `outputs` and of the
/// graphs in `exportReferencesGraph`.
pub(crate) fn files(
    attributes: &Map<String, Value>,
    outputs: Map<String, Value>,
    graphs: Vec<(String, Value)>,
) -> AttributeFiles {
    let mut attributes = attributes.clone();
    attributes.insert("outputs".into(), Value::Object(outputs));
    attributes.extend(graphs);
    AttributeFiles {
        shell: shell::declarations(&attributes),
        json: json::write(&Value::Object(attributes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::derivation::DerivationBuilder;
    use nix_compat::store_path::StoreDir;

    fn with(name: &str, value: &str) -> std::sync::Arc<Derivation> {
        let builder = DerivationBuilder::new("x", "x86_64-linux", "/bin/sh").env(name, value);
        builder
            .instantiate(&StoreDir::default())
            .unwrap()
            .derivation
    }

    #[test]
    fn both_forms_say_the_same() {
        let plain = with("requiredSystemFeatures", " kvm  big-parallel ");
        let structured = with(
            "__json",
            r#"{"requiredSystemFeatures":["kvm","big-parallel"],"__noChroot":true,"n":1}"#,
        );
        for derivation in [&plain, &structured] {
            assert_eq!(required_features(derivation), ["kvm", "big-parallel"]);
            let attributes = Attributes::of(derivation).unwrap();
            let words = attributes.words("requiredSystemFeatures").unwrap().unwrap();
            assert_eq!(words, ["kvm", "big-parallel"]);
            assert_eq!(attributes.words("other").unwrap(), None);
        }
        let attributes = Attributes::of(&structured).unwrap();
        assert!(attributes.flag("__noChroot").unwrap());
        assert!(!attributes.flag("other").unwrap());
        assert!(attributes.flag("n").is_err());
        assert!(attributes.words("n").is_err());
        let one = with("__noChroot", "1");
        assert!(Attributes::of(&one).unwrap().flag("__noChroot").unwrap());
        let other = with("__noChroot", "true");
        assert!(!Attributes::of(&other).unwrap().flag("__noChroot").unwrap());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = "[".repeat(100_000);
        for text in ["", "[]", "{", "{\"a\":\"\u{1}\"}", &deep] {
            assert!(Attributes::of(&with("__json", text)).is_err(), "{text:.20}");
        }
    }
}
