//! `exportReferencesGraph`: the closures of some inputs, for the builder program.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice as _};
use nix_compat::derivation::Derivation;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use serde_json::{Map, Value, json};

use crate::attributes::{Attributes, invalid, wrong_type};
use crate::profile::STRUCTURED;
use crate::{BuildRequest, FailureKind};

const ATTRIBUTE: &str = "exportReferencesGraph";

/// The inputs of a build, with their references.
pub(crate) struct ReferenceGraphs<'r> {
    dir: &'r StoreDir,
    infos: HashMap<&'r StorePath, &'r Arc<PathInfo>>,
    /// The outputs of derivations among the inputs.
    made_by: &'r HashMap<StorePath, Vec<StorePath>>,
    wanted: BTreeMap<String, BTreeSet<StorePath>>,
}

impl<'r> ReferenceGraphs<'r> {
    /// The graphs that `attributes` request. `made_by` has the outputs of [the derivations in the
    /// graphs](derivations_in_graphs).
    pub fn of(
        dir: &'r StoreDir,
        request: &'r BuildRequest,
        attributes: &Attributes,
        made_by: &'r HashMap<StorePath, Vec<StorePath>>,
    ) -> Result<Self, FailureKind> {
        let wanted = wanted(dir, attributes)?;
        let inputs = match wanted.is_empty() {
            true => [].iter(),
            false => request.inputs.iter(),
        };
        Ok(Self {
            dir,
            infos: inputs.map(|info| (&info.path, info)).collect(),
            made_by,
            wanted,
        })
    }

    /// For each graph, its name and a text in the format of `nix-store --register-validity`,
    /// without derivers.
    pub fn registrations(&self) -> Result<Vec<(String, BString)>, FailureKind> {
        let each = self.wanted.iter().map(|(name, roots)| {
            let mut text = String::new();
            for info in self.export(roots)? {
                let count = info.references.len();
                let _ = write!(text, "{}\n\n{count}\n", self.dir.display(&info.path));
                for reference in info.references.iter() {
                    let _ = writeln!(text, "{}", self.dir.display(reference));
                }
            }
            Ok((name.clone(), text.into()))
        });
        each.collect()
    }

    /// For each graph, its name and the list of path infos.
    pub fn infos(&self) -> Result<Vec<(String, Value)>, FailureKind> {
        let each = self.wanted.iter().map(|(name, roots)| {
            let infos = self.export(roots)?;
            let infos: Result<Vec<Value>, _> = infos.iter().map(|info| self.info(info)).collect();
            Ok((name.clone(), infos?.into()))
        });
        each.collect()
    }

    fn info(&self, info: &PathInfo) -> Result<Value, FailureKind> {
        let text = |path: &StorePath| self.dir.display(path).to_string();
        let nar_hash = nix_compat::nixhash::NixHash::Sha256(info.nar_hash);
        let references: Vec<String> = info.references.iter().map(text).collect();
        let closure = self.closure([&info.path])?;
        let mut entries = Map::new();
        entries.insert(
            "closureSize".into(),
            json!(closure.values().map(|info| info.nar_size).sum::<u64>()),
        );
        entries.insert("narHash".into(), nar_hash.base32().into());
        entries.insert("narSize".into(), info.nar_size.into());
        entries.insert("path".into(), text(&info.path).into());
        entries.insert("references".into(), references.into());
        entries.insert("valid".into(), true.into());
        if let Some(ca) = &info.ca {
            entries.insert("ca".into(), ca.to_string().into());
        }
        Ok(entries.into())
    }

    /// The closure of `roots`. It includes the closures of the outputs of derivations in it: a
    /// graph of a derivation stands for everything that is needed to build it.
    fn export(&self, roots: &BTreeSet<StorePath>) -> Result<Vec<&'r Arc<PathInfo>>, FailureKind> {
        let closure = self.closure(roots)?;
        let derivations = closure.keys().filter(|path| path.is_derivation());
        let made = derivations.flat_map(|path| self.made_by.get(*path).into_iter().flatten());
        let everything = self.closure(roots.iter().chain(made))?;
        Ok(everything.into_values().collect())
    }

    fn closure<'p>(
        &self,
        roots: impl IntoIterator<Item = &'p StorePath>,
    ) -> Result<BTreeMap<&'r StorePath, &'r Arc<PathInfo>>, FailureKind> {
        let mut found = BTreeMap::new();
        let mut queue = Vec::new();
        for root in roots {
            let (_, info) = self.infos.get_key_value(root).ok_or_else(|| {
                invalid(format!(
                    "cannot export references of path '{}' because it is not in the input closure \
                     of the derivation",
                    self.dir.display(root)
                ))
            })?;
            queue.push(*info);
        }
        while let Some(info) = queue.pop() {
            if found.insert(&info.path, info).is_some() {
                continue;
            }
            // The inputs are a closure, so no reference is missing.
            let references = info.references.iter();
            queue.extend(references.filter_map(|path| self.infos.get(path)));
        }
        Ok(found)
    }
}

/// The derivations among the inputs of `request` with outputs that belong to a requested graph.
/// They must be read for [`TranslateOptions::derivation_outputs`]. Usually there are none.
///
/// # Errors
///
/// [`FailureKind::InvalidDerivation`] if the attribute is malformed.
///
/// [`TranslateOptions::derivation_outputs`]: crate::translate::TranslateOptions::derivation_outputs
pub fn derivations_in_graphs(
    dir: &StoreDir,
    request: &BuildRequest,
) -> Result<Vec<StorePath>, FailureKind> {
    let inputs = request.inputs.iter().map(|info| &info.path);
    let mut derivations = inputs.filter(|path| path.is_derivation()).peekable();
    if derivations.peek().is_none() || !asks(&request.derivation) {
        return Ok(Vec::new());
    }
    let attributes = request.attributes()?;
    let nothing = HashMap::new();
    let graphs = ReferenceGraphs::of(dir, request, &attributes, &nothing)?;
    let mut found = BTreeSet::new();
    for roots in graphs.wanted.values() {
        let closure = graphs.closure(roots)?;
        found.extend(closure.into_keys().filter(|path| path.is_derivation()));
    }
    Ok(found.into_iter().cloned().collect())
}

fn asks(derivation: &Derivation) -> bool {
    derivation.env_var(ATTRIBUTE).is_some() || derivation.env_var(STRUCTURED).is_some()
}

/// The store paths of each graph, by name.
fn wanted(
    dir: &StoreDir,
    attributes: &Attributes,
) -> Result<BTreeMap<String, BTreeSet<StorePath>>, FailureKind> {
    let path = |text: &[u8]| {
        let parsed = dir.parse_below(text).map(|(path, _)| path);
        parsed.map_err(|_| {
            invalid(format!(
                "'{ATTRIBUTE}' contains a non-store path '{}'",
                text.as_bstr()
            ))
        })
    };
    let mut graphs = BTreeMap::new();
    match attributes {
        Attributes::Plain(derivation) => {
            let text = derivation.env_var(ATTRIBUTE).map_or(&b""[..], |text| text);
            let words: Vec<&[u8]> = text.fields().collect();
            if !words.len().is_multiple_of(2) {
                return Err(invalid(format!(
                    "odd number of tokens in '{ATTRIBUTE}': '{}'",
                    BStr::new(text)
                )));
            }
            for pair in words.chunks_exact(2) {
                let [name, root] = [pair[0], pair[1]];
                graphs.insert(file_name(name)?, BTreeSet::from([path(root)?]));
            }
        }
        Attributes::Structured(attributes) => {
            // Nix warns about a value that is not an object, and ignores it.
            let Some(Value::Object(named)) = attributes.get(ATTRIBUTE) else {
                return Ok(graphs);
            };
            for (name, value) in named {
                let mut texts = Vec::new();
                flatten(value, &mut texts)?;
                let roots = texts.into_iter().map(|text| path(text.as_bytes()));
                graphs.insert(name.clone(), roots.collect::<Result<_, _>>()?);
            }
        }
    }
    Ok(graphs)
}

/// The strings in nested arrays.
fn flatten<'v>(value: &'v Value, texts: &mut Vec<&'v str>) -> Result<(), FailureKind> {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(elements) => {
            for element in elements {
                flatten(element, texts)?;
            }
        }
        _ => return Err(wrong_type(ATTRIBUTE, "made of lists and strings")),
    }
    Ok(())
}

/// Checks that the name of a graph is a valid file name in the build directory.
fn file_name(name: &[u8]) -> Result<String, FailureKind> {
    let first = name.first().copied().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    let valid = (first.is_ascii_alphabetic() || first == b'_') && name.iter().all(plain);
    match std::str::from_utf8(name) {
        Ok(name) if valid => Ok(name.to_owned()),
        _ => Err(invalid(format!(
            "invalid file name '{}' in '{ATTRIBUTE}'",
            name.as_bstr()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::derivation::DerivationBuilder;

    fn path(name: &str) -> StorePath {
        let mut hash = [0; 20];
        hash[19] = name.as_bytes()[0];
        StorePath::new(hash, name.parse().unwrap())
    }

    fn info(name: &str, size: u64, references: &[&str]) -> Arc<PathInfo> {
        let mut info = PathInfo::new(path(name), [0; 32], size);
        info.references = references.iter().map(|name| path(name)).collect();
        Arc::new(info)
    }

    fn request(name: &str, value: &str) -> BuildRequest {
        let builder = DerivationBuilder::new("x", "x86_64-linux", "/bin/sh").env(name, value);
        let made = builder.instantiate(&StoreDir::default()).unwrap();
        let mut request = BuildRequest::new(made.path, made.derivation);
        request.inputs = vec![
            info("a", 1, &["b", "a"]),
            info("b", 10, &["c"]),
            info("c", 100, &[]),
            info("d.drv", 1000, &["c"]),
            info("e", 10_000, &["c"]),
        ];
        request
    }

    fn text(name: &str) -> String {
        StoreDir::default().display(&path(name)).to_string()
    }

    fn export(
        request: &BuildRequest,
        made_by: &HashMap<StorePath, Vec<StorePath>>,
    ) -> Result<Vec<(String, BString)>, FailureKind> {
        let attributes = Attributes::of(&request.derivation)?;
        let dir = StoreDir::default();
        ReferenceGraphs::of(&dir, request, &attributes, made_by)?.registrations()
    }

    #[test]
    fn a_graph_is_a_closure() {
        let value = format!("graph {}/below other {}", text("a"), text("c"));
        let request = request(ATTRIBUTE, &value);
        let graphs = export(&request, &HashMap::new()).unwrap();
        let (a, b, c) = (text("a"), text("b"), text("c"));
        assert_eq!(
            graphs,
            [
                (
                    "graph".to_owned(),
                    format!("{a}\n\n2\n{a}\n{b}\n{b}\n\n1\n{c}\n{c}\n\n0\n").into()
                ),
                ("other".to_owned(), format!("{c}\n\n0\n").into()),
            ]
        );
    }

    #[test]
    fn derivations_bring_their_outputs() {
        let request = request(ATTRIBUTE, &format!("g {}", text("d.drv")));
        let dir = StoreDir::default();
        let derivations = derivations_in_graphs(&dir, &request).unwrap();
        assert_eq!(derivations, [path("d.drv")]);
        let made_by = HashMap::from([(path("d.drv"), vec![path("e")])]);
        let graphs = export(&request, &made_by).unwrap();
        let lines: Vec<String> = graphs[0].1.to_string().lines().map(str::to_owned).collect();
        assert!(lines.contains(&text("e")), "{lines:?}");
        assert!(!lines.contains(&text("a")), "{lines:?}");
    }

    #[test]
    fn structured_graphs_have_sizes() {
        let json = format!(
            r#"{{"{ATTRIBUTE}":{{"g":["{}",["{}"]]}}}}"#,
            text("b"),
            text("c")
        );
        let request = request("__json", &json);
        let attributes = Attributes::of(&request.derivation).unwrap();
        let (dir, made_by) = (StoreDir::default(), HashMap::new());
        let graphs = ReferenceGraphs::of(&dir, &request, &attributes, &made_by).unwrap();
        let infos = graphs.infos().unwrap();
        assert_eq!(infos[0].0, "g");
        assert_eq!(infos[0].1[0]["closureSize"], 110);
        assert_eq!(infos[0].1[1]["closureSize"], 100);
        assert_eq!(infos[0].1[1]["references"], json!([]));
        assert_eq!(infos[0].1.as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_exported_is_said() {
        let stranger = text("stranger");
        for (value, message) in [
            ("one".to_owned(), "odd number"),
            (format!("../x {}", text("a")), "invalid file name"),
            (format!(".x {}", text("a")), "invalid file name"),
            ("x /etc".to_owned(), "non-store path"),
            (format!("x {stranger}"), "not in the input closure"),
        ] {
            let error = export(&request(ATTRIBUTE, &value), &HashMap::new()).unwrap_err();
            assert!(error.to_string().contains(message), "{value}: {error}");
        }
    }
}
