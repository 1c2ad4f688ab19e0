//! Checks of the references and sizes of outputs: `allowedReferences` and similar attributes, and
//! `outputChecks` of structured attributes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bstr::{BString, ByteSlice as _};
use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use serde_json::{Map, Value};

use super::{PlannedOutput, placeholder_rewrites};
use crate::attributes::{Attributes, invalid, strings, wrong_type};
use crate::{BuildRequest, FailureKind};

/// The rules of a derivation for the references and sizes of its outputs.
#[derive(Debug, Default)]
pub struct OutputChecks {
    /// The checks of each output, by index; empty if there are none.
    checks: Vec<Checks>,
    /// Outputs with references that are not recorded (`unsafeDiscardReferences`).
    discarding: Vec<OutputName>,
}

/// The checks of one output.
#[derive(Debug, Default, Clone)]
struct Checks {
    /// Whether the two closure checks ignore references of the output to itself.
    ignore_self: bool,
    max_size: Option<u64>,
    max_closure_size: Option<u64>,
    allowed: Option<HashSet<StorePath>>,
    allowed_closure: Option<HashSet<StorePath>>,
    disallowed: HashSet<StorePath>,
    disallowed_closure: HashSet<StorePath>,
}

/// An output, with references under the paths where the outputs were made.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MadeOutput<'o> {
    /// The output.
    pub output: &'o PlannedOutput,
    /// The paths that it refers to.
    pub references: &'o SortedSet<StorePath>,
    /// The size of its NAR in bytes.
    pub nar_size: u64,
}

impl<'o> MadeOutput<'o> {
    /// An output with its references and the size of its NAR in bytes.
    pub fn new(
        output: &'o PlannedOutput,
        references: &'o SortedSet<StorePath>,
        nar_size: u64,
    ) -> Self {
        Self {
            output,
            references,
            nar_size,
        }
    }
}

impl OutputChecks {
    /// Reads the rules of the derivation of a request. They name store paths and outputs of the
    /// derivation.
    ///
    /// # Errors
    ///
    /// [`FailureKind::InvalidDerivation`] for a word that is neither.
    pub fn of_request(
        dir: &StoreDir,
        request: &BuildRequest,
        outputs: &[PlannedOutput],
    ) -> Result<Self, FailureKind> {
        Self::of(dir, &request.attributes()?, outputs)
    }

    pub(crate) fn of(
        dir: &StoreDir,
        attributes: &Attributes,
        outputs: &[PlannedOutput],
    ) -> Result<Self, FailureKind> {
        let names = Names {
            dir,
            outputs,
            placeholders: placeholder_rewrites(dir, outputs),
        };
        match attributes {
            Attributes::Plain(_) => {
                let get = |attribute: &str| attributes.words(attribute);
                let mut checks = Checks::references(&names, get)?;
                checks.ignore_self = true;
                Ok(Self {
                    checks: match checks.demands_nothing() {
                        true => Vec::new(),
                        false => vec![checks; outputs.len()],
                    },
                    discarding: Vec::new(),
                })
            }
            Attributes::Structured(attributes) => {
                let of_each = object(attributes, "outputChecks")?;
                let each = outputs.iter().map(|output| match of_each {
                    Some(of_each) => Checks::structured(&names, of_each, &output.name),
                    None => Ok(Checks::default()),
                });
                let checks: Vec<_> = each.collect::<Result<_, _>>()?;
                Ok(Self {
                    checks: match checks.iter().all(Checks::demands_nothing) {
                        true => Vec::new(),
                        false => checks,
                    },
                    discarding: discarding(attributes, outputs)?,
                })
            }
        }
    }

    /// Whether the references of an output are discarded.
    pub fn discards_references(&self, output: &OutputName) -> bool {
        self.discarding.contains(output)
    }

    /// Checks all outputs, in planned order.
    ///
    /// # Errors
    ///
    /// [`FailureKind::ForbiddenReference`] and [`FailureKind::TooLarge`] for the first check that
    /// fails.
    pub fn check(
        &self,
        outputs: &[MadeOutput<'_>],
        inputs: &[Arc<PathInfo>],
    ) -> Result<(), FailureKind> {
        if self.checks.is_empty() {
            return Ok(());
        }
        let mut known = Known::new();
        if self.checks.iter().any(Checks::looks_at_closure) {
            let inputs = inputs.iter();
            known.extend(inputs.map(|info| (&info.path, (&info.references, info.nar_size))));
            let made = outputs.iter();
            known.extend(made.map(|made| (&made.output.path, (made.references, made.nar_size))));
        }
        for (made, checks) in outputs.iter().zip(&self.checks) {
            checks.check(made, &known)?;
        }
        Ok(())
    }
}

impl Checks {
    fn references(
        names: &Names<'_>,
        get: impl Fn(&str) -> Result<Option<Vec<BString>>, FailureKind>,
    ) -> Result<Self, FailureKind> {
        let read = |attribute: &str| -> Result<Option<HashSet<StorePath>>, FailureKind> {
            let words = get(attribute)?;
            let paths = words.map(|words| {
                let paths = words.iter().map(|word| names.path(word, attribute));
                paths.collect::<Result<_, _>>()
            });
            paths.transpose()
        };
        Ok(Self {
            allowed: read("allowedReferences")?,
            allowed_closure: read("allowedRequisites")?,
            disallowed: read("disallowedReferences")?.unwrap_or_default(),
            disallowed_closure: read("disallowedRequisites")?.unwrap_or_default(),
            ..Self::default()
        })
    }

    fn structured(
        names: &Names<'_>,
        of_each: &Map<String, Value>,
        output: &OutputName,
    ) -> Result<Self, FailureKind> {
        let Some(own) = object(of_each, output.as_str())? else {
            return Ok(Self::default());
        };
        let get = |attribute: &str| {
            let value = own.get(attribute);
            value.map(|value| strings(value, attribute)).transpose()
        };
        let size = |attribute: &str| match own.get(attribute) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size) => Ok(Some(size)),
                None => Err(wrong_type(attribute, "a number of bytes")),
            },
        };
        Ok(Self {
            max_size: size("maxSize")?,
            max_closure_size: size("maxClosureSize")?,
            ..Self::references(names, get)?
        })
    }

    fn looks_at_closure(&self) -> bool {
        self.max_closure_size.is_some()
            || self.allowed_closure.is_some()
            || !self.disallowed_closure.is_empty()
    }

    fn demands_nothing(&self) -> bool {
        let direct = self.allowed.is_some() || !self.disallowed.is_empty();
        !direct && self.max_size.is_none() && !self.looks_at_closure()
    }

    fn check<'k>(&self, made: &MadeOutput<'k>, known: &Known<'k>) -> Result<(), FailureKind> {
        let too_large = |size, limit, closure| FailureKind::TooLarge {
            output: made.output.name.clone(),
            size,
            limit,
            closure,
        };
        if let Some(limit) = self.max_size.filter(|limit| made.nar_size > *limit) {
            return Err(too_large(made.nar_size, limit, false));
        }
        let closure = match self.looks_at_closure() {
            true => closure(&made.output.path, known),
            false => Vec::new(),
        };
        if let Some(limit) = self.max_closure_size {
            let sizes = closure.iter().filter_map(|path| known.get(path));
            let size = sizes.map(|(_, size)| size).sum();
            if size > limit {
                return Err(too_large(size, limit, true));
            }
        }
        let direct: Vec<&StorePath> = made.references.iter().collect();
        let others: Vec<&StorePath> = closure
            .into_iter()
            .filter(|path| !self.ignore_self || **path != made.output.path)
            .collect();
        let outside = |used: &[&StorePath], allowed: &Option<HashSet<StorePath>>| match allowed {
            Some(allowed) => bad(used, |path| !allowed.contains(path)),
            None => Vec::new(),
        };
        let among = |used: &[&StorePath], disallowed: &HashSet<StorePath>| {
            bad(used, |path| disallowed.contains(path))
        };
        for references in [
            outside(&direct, &self.allowed),
            outside(&others, &self.allowed_closure),
            among(&direct, &self.disallowed),
            among(&others, &self.disallowed_closure),
        ] {
            if !references.is_empty() {
                return Err(FailureKind::ForbiddenReference {
                    output: made.output.name.clone(),
                    references,
                });
            }
        }
        Ok(())
    }
}

/// The references and size of each path.
type Known<'k> = HashMap<&'k StorePath, (&'k SortedSet<StorePath>, u64)>;

/// The paths that break a rule, sorted.
fn bad(used: &[&StorePath], breaks: impl Fn(&StorePath) -> bool) -> Vec<StorePath> {
    let broken = used.iter().filter(|path| breaks(path));
    let mut broken: Vec<StorePath> = broken.map(|path| (*path).clone()).collect();
    broken.sort();
    broken
}

/// The closure of `root`, including `root`.
fn closure<'k>(root: &'k StorePath, known: &Known<'k>) -> Vec<&'k StorePath> {
    let mut seen = HashSet::from([root]);
    let mut found = vec![root];
    let mut next = 0;
    while let Some(path) = found.get(next) {
        next += 1;
        if let Some((references, _)) = known.get(path) {
            found.extend(references.iter().filter(|path| seen.insert(path)));
        }
    }
    found
}

/// Resolves the words in the attributes.
struct Names<'n> {
    dir: &'n StoreDir,
    outputs: &'n [PlannedOutput],
    placeholders: Vec<(String, String)>,
}

impl Names<'_> {
    fn path(&self, word: &[u8], attribute: &str) -> Result<StorePath, FailureKind> {
        let mut own = self.outputs.iter().zip(&self.placeholders);
        let own = own.find(|(output, (placeholder, _))| {
            output.name.as_str().as_bytes() == word || placeholder.as_bytes() == word
        });
        if let Some((output, _)) = own {
            return Ok(output.path.clone());
        }
        self.dir.parse(word).map_err(|_| {
            let names = self.outputs.iter().map(|output| output.name.as_str());
            let names: Vec<_> = names.collect();
            invalid(format!(
                "'{}' in the attribute '{attribute}' is neither a store path nor an output (its \
                 outputs are {})",
                word.as_bstr(),
                names.join(", ")
            ))
        })
    }
}

fn object<'a>(
    attributes: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a Map<String, Value>>, FailureKind> {
    match attributes.get(name) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong_type(name, "an attribute set")),
    }
}

fn discarding(
    attributes: &Map<String, Value>,
    outputs: &[PlannedOutput],
) -> Result<Vec<OutputName>, FailureKind> {
    const ATTRIBUTE: &str = "unsafeDiscardReferences";
    let Some(of_each) = object(attributes, ATTRIBUTE)? else {
        return Ok(Vec::new());
    };
    if !of_each.values().all(Value::is_boolean) {
        return Err(wrong_type(ATTRIBUTE, "made of booleans"));
    }
    let names = outputs.iter().map(|output| &output.name);
    let discarding = names.filter(|name| of_each.get(name.as_str()) == Some(&Value::Bool(true)));
    Ok(discarding.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BuildRequest;
    use crate::outputs::plan_outputs;
    use nix_compat::derivation::DerivationBuilder;

    fn path(name: &str) -> StorePath {
        let mut hash = [0; 20];
        hash[19] = name.as_bytes()[0];
        StorePath::new(hash, name.parse().unwrap())
    }

    fn text(name: &str) -> String {
        StoreDir::default().display(&path(name)).to_string()
    }

    /// Checks `out`, which refers to itself, `lib` and the input `a`; `a` refers to `b`, and `lib`
    /// to nothing. Each has 100 bytes.
    fn check(name: &str, value: &str) -> Result<(), FailureKind> {
        let dir = StoreDir::default();
        let builder = DerivationBuilder::new("x", "x86_64-linux", "/bin/sh");
        let builder = builder.outputs(["out", "lib"]).env(name, value);
        let made = builder.instantiate(&dir).unwrap();
        let request = BuildRequest::new(made.path, made.derivation.clone());
        let outputs = plan_outputs(&dir, &request).unwrap();
        let at = |name: &str| {
            let mut outputs = outputs.iter();
            outputs.find(|o| o.name.as_str() == name).unwrap()
        };
        let info = |name: &str, references: &[&str]| {
            let mut info = PathInfo::new(path(name), [0; 32], 100);
            info.references = references.iter().map(|name| path(name)).collect();
            Arc::new(info)
        };
        let of_out: SortedSet<_> = [&at("out").path, &at("lib").path, &path("a")]
            .into_iter()
            .cloned()
            .collect();
        let nothing = SortedSet::new();
        let made_outputs: Vec<_> = outputs
            .iter()
            .map(|output| MadeOutput {
                output,
                references: match output.name.as_str() {
                    "out" => &of_out,
                    _ => &nothing,
                },
                nar_size: 100,
            })
            .collect();
        let inputs = [info("a", &["b"]), info("b", &[])];
        let attributes = Attributes::of(&made.derivation)?;
        OutputChecks::of(&dir, &attributes, &outputs)?.check(&made_outputs, &inputs)
    }

    fn forbidden(name: &str, value: &str) -> Vec<String> {
        match check(name, value) {
            Ok(()) => Vec::new(),
            Err(FailureKind::ForbiddenReference { references, .. }) => references
                .iter()
                .map(|path| path.name().to_string())
                .collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn plain_attributes_are_for_all_outputs() {
        let (a, b) = (text("a"), text("b"));
        for (name, value, wanted) in [
            ("allowedReferences", format!("out lib {a}"), &[][..]),
            ("allowedReferences", String::new(), &["a", "x", "x-lib"]),
            ("allowedRequisites", format!("lib {a} {b}"), &[]),
            ("allowedRequisites", format!("lib {a}"), &["b"]),
            ("disallowedReferences", b.clone(), &[]),
            ("disallowedReferences", format!("{a} {b}"), &["a"]),
            ("disallowedRequisites", format!("{b} {a}"), &["a", "b"]),
            ("disallowedRequisites", "out".into(), &[]),
            ("disallowedReferences", "out".into(), &["x"]),
            // Only structured attributes support size limits.
            ("maxSize", "1".into(), &[]),
        ] {
            let mut found = forbidden(name, &value);
            found.sort();
            assert_eq!(found, wanted, "{name} = {value}");
        }
    }

    #[test]
    fn structured_checks_are_for_one_output() {
        let (a, b) = (text("a"), text("b"));
        let checks = |output: &str, checks: &str| {
            check(
                "__json",
                &format!(r#"{{"outputChecks":{{"{output}":{{{checks}}}}}}}"#),
            )
        };
        for (output, demand, passes) in [
            (
                "lib",
                r#""allowedReferences":[],"maxSize":100,"maxClosureSize":100"#.to_owned(),
                true,
            ),
            ("out", r#""allowedReferences":[]"#.to_owned(), false),
            // Structured checks do not ignore references to itself.
            (
                "out",
                format!(r#""allowedRequisites":["lib","{a}","{b}"]"#),
                false,
            ),
            (
                "out",
                format!(r#""allowedRequisites":["out","lib","{a}","{b}"]"#),
                true,
            ),
            ("out", r#""maxSize":99"#.to_owned(), false),
            ("out", r#""maxClosureSize":400"#.to_owned(), true),
            ("out", r#""maxClosureSize":399"#.to_owned(), false),
            ("other", r#""maxSize":1"#.to_owned(), true),
        ] {
            assert_eq!(
                checks(output, &demand).is_ok(),
                passes,
                "{output}: {demand}"
            );
        }
        let error = checks("out", r#""maxClosureSize":5"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "closure of output 'out' is too large at 400 bytes; limit is 5 bytes"
        );
        // Attributes beside `outputChecks` have no effect.
        check("__json", r#"{"allowedReferences":[],"maxSize":1}"#).unwrap();
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (name, value) in [
            ("allowedReferences", "dev"),
            ("disallowedRequisites", "/etc"),
            ("__json", r#"{"outputChecks":[]}"#),
            ("__json", r#"{"outputChecks":{"out":{"maxSize":-1}}}"#),
            (
                "__json",
                r#"{"outputChecks":{"out":{"allowedReferences":"out"}}}"#,
            ),
            (
                "__json",
                r#"{"outputChecks":{"out":{"allowedReferences":["dev"]}}}"#,
            ),
            ("__json", r#"{"unsafeDiscardReferences":{"out":1}}"#),
        ] {
            let error = check(name, value).unwrap_err();
            let invalid = matches!(error, FailureKind::InvalidDerivation { .. });
            assert!(invalid, "{name} = {value}: {error}");
        }
    }
}
