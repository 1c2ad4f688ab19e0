//! Attributes of a derivation that control its build. They are in its environment or, with
//! `__structuredAttrs`, in the JSON object of the variable `__json`.

mod json;
mod shell;

use std::sync::Arc;

use bstr::{BString, ByteSlice as _};
use nix_compat::derivation::Derivation;
use serde_json::{Map, Value};

use crate::FailureKind;
use crate::profile::STRUCTURED;

/// A derivation's attributes. Cheap to clone.
///
/// A build reads them through [`BuildRequest::attributes`](crate::BuildRequest::attributes), which parses
/// once.
#[derive(Debug, Clone)]
pub(crate) enum Attributes {
    /// Each attribute is an environment variable.
    Plain(Arc<Derivation>),
    /// The attributes are a JSON object, and none of them is in the environment.
    Structured(Arc<Map<String, Value>>),
}

#[cfg(test)]
thread_local! {
    /// How often structured attributes were parsed on this thread.
    pub(crate) static PARSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Attributes {
    /// Parses the attributes of a derivation.
    ///
    /// # Errors
    ///
    /// [`FailureKind::InvalidDerivation`] if they are structured and not a JSON object.
    pub fn of(derivation: &Arc<Derivation>) -> Result<Self, FailureKind> {
        let Some(text) = derivation.env_var(STRUCTURED) else {
            return Ok(Self::Plain(derivation.clone()));
        };
        #[cfg(test)]
        PARSED.set(PARSED.get() + 1);
        match serde_json::from_slice(text) {
            Ok(Value::Object(attributes)) => Ok(Self::Structured(Arc::new(attributes))),
            Ok(_) => Err(invalid("its structured attributes are no JSON object")),
            Err(error) => Err(invalid(format!("its structured attributes: {error}"))),
        }
    }

    /// The attributes of `derivation`, which is the derivation of these with `rewrites` applied.
    pub fn rewritten(self, derivation: &Arc<Derivation>, rewrites: &[(String, String)]) -> Self {
        match self {
            Self::Plain(_) => Self::Plain(derivation.clone()),
            Self::Structured(attributes) => {
                let attributes = Arc::unwrap_or_clone(attributes);
                Self::Structured(Arc::new(rewrite_object(attributes, rewrites)))
            }
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

fn rewrite_object(object: Map<String, Value>, rewrites: &[(String, String)]) -> Map<String, Value> {
    let entries = object.into_iter();
    let entries = entries.map(|(name, value)| {
        let name = rewrite_text(name, rewrites);
        (name, rewrite_value(value, rewrites))
    });
    entries.collect()
}

/// `serde_json` parses 128 levels at most, so recursion is safe.
fn rewrite_value(value: Value, rewrites: &[(String, String)]) -> Value {
    match value {
        Value::String(text) => Value::String(rewrite_text(text, rewrites)),
        Value::Array(elements) => {
            let elements = elements.into_iter();
            elements.map(|it| rewrite_value(it, rewrites)).collect()
        }
        Value::Object(object) => Value::Object(rewrite_object(object, rewrites)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

fn rewrite_text(text: String, rewrites: &[(String, String)]) -> String {
    rewrites.iter().fold(text, |text, (from, to)| {
        match text.contains(from.as_str()) {
            true => text.replace(from.as_str(), to),
            false => text,
        }
    })
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
    use crate::Requirements;
    use nix_compat::derivation::DerivationBuilder;
    use nix_compat::store_path::StoreDir;

    fn with(name: &str, value: &str) -> Arc<Derivation> {
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
            let required = Requirements::of(derivation);
            assert_eq!(required.features, ["kvm", "big-parallel"]);
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

    /// Everything that a build reads from structured attributes parses them once.
    #[test]
    fn a_build_parses_once() {
        use crate::outputs::{OutputChecks, plan_outputs};
        use crate::translate::{
            TranslateOptions, asks_for_no_sandbox, derivations_in_graphs, translate,
        };
        let dir = StoreDir::default();
        let derivation = with(
            "__json",
            r#"{"requiredSystemFeatures":["kvm"],"preferLocalBuild":true,"outputChecks":{"out":{"maxSize":1}}}"#,
        );
        let drv_path = derivation.path(&dir).unwrap();
        let request = crate::BuildRequest::new(drv_path, derivation);
        PARSED.set(0);
        assert!(request.prefers_local_build());
        assert_eq!(request.requirements().features, ["kvm"]);
        assert!(!asks_for_no_sandbox(&request).unwrap());
        assert!(derivations_in_graphs(&dir, &request).unwrap().is_empty());
        translate(&dir, &request, &TranslateOptions::default()).unwrap();
        let outputs = plan_outputs(&dir, &request).unwrap();
        OutputChecks::of(&dir, &request.attributes().unwrap(), &outputs).unwrap();
        translate(&dir, &request.clone(), &TranslateOptions::default()).unwrap();
        assert_eq!(PARSED.get(), 1);
        // Another derivation in the same request has attributes of its own.
        let mut other = request;
        other.derivation = with("__json", "{}");
        assert!(!other.prefers_local_build());
        assert_eq!(PARSED.get(), 2);
    }

    #[test]
    fn placeholders_are_replaced_everywhere() {
        let text = r#"{"a-P":"x P y PP","b":[{"P":["P"]},1,null,true]}"#;
        let derivation = with("__json", text);
        let attributes = Attributes::of(&derivation).unwrap();
        let rewrites = [("P".to_owned(), "/q".to_owned())];
        let Attributes::Structured(rewritten) = attributes.rewritten(&derivation, &rewrites) else {
            panic!("they are structured")
        };
        let rewritten = Value::Object((*rewritten).clone());
        assert_eq!(rewritten.to_string(), text.replace('P', "/q"));
    }
}
