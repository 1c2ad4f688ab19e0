//! The environment of a builder program.

use bstr::{BString, ByteSlice as _};
use nix_compat::derivation::Derivation;
use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::StoreDir;
use serde_json::{Map, Value};

use super::{BuildFile, TranslateOptions, has_network};
use crate::attributes::{self, Attributes};
use crate::outputs::PlannedOutput;
use crate::reference_graphs::ReferenceGraphs;
use crate::{BuildRequest, FailureKind};

/// The origins of an environment.
pub(super) struct Sources<'s> {
    pub(super) dir: &'s StoreDir,
    pub(super) request: &'s BuildRequest,
    /// The derivation of the request, with placeholders replaced.
    pub(super) derivation: &'s Derivation,
    /// Its attributes.
    pub(super) attributes: &'s Attributes,
    pub(super) outputs: &'s [PlannedOutput],
}

/// The environment, and the files with the attributes that are passed as files.
///
/// The derivation can override the variables that are set before its own, but not those that are
/// set after them (`initEnv` of C++ Nix).
pub(super) fn environment(
    sources: &Sources<'_>,
    options: &TranslateOptions,
) -> Result<(SortedMap<BString, BString>, Vec<BuildFile>), FailureKind> {
    let Sources {
        dir,
        request,
        derivation,
        attributes,
        outputs,
    } = *sources;
    let mut env: SortedMap<BString, BString> = SortedMap::new();
    let cores = match request.cores {
        0 => options.default_cores,
        cores => cores,
    };
    // A program that searches `PATH` must not find anything by chance.
    env.insert("PATH".into(), "/path-not-set".into());
    env.insert("HOME".into(), "/homeless-shelter".into());
    env.insert("NIX_STORE".into(), dir.as_str().into());
    env.insert("NIX_BUILD_CORES".into(), cores.to_string().into());

    let made_by = &options.derivation_outputs;
    let graphs = ReferenceGraphs::of(dir, request, attributes, made_by)?;
    let files = match attributes {
        Attributes::Plain(_) => {
            let mut files = variables(&mut env, derivation, options)?;
            for (name, contents) in graphs.registrations()? {
                files.push(BuildFile { name, contents });
            }
            files
        }
        Attributes::Structured(attributes) => {
            let outputs = outputs.iter().map(|output| {
                let path = dir.display(&output.path).to_string();
                (output.name.to_string(), Value::from(path))
            });
            let outputs: Map<String, Value> = outputs.collect();
            structured(&mut env, attributes, outputs, graphs.infos()?, options)
        }
    };

    for name in ["NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
        env.insert(name.into(), options.build_dir.as_str().into());
    }
    if derivation.is_fixed_output() {
        env.insert("NIX_OUTPUT_CHECKED".into(), "1".into());
    }
    if has_network(derivation) {
        for name in attributes.words("impureEnvVars")?.unwrap_or_default() {
            let value = options.impure_env.get(name.as_bstr());
            env.insert(name, value.cloned().unwrap_or_default());
        }
    }
    // The standard environment of nixpkgs writes structured messages to it.
    env.insert("NIX_LOG_FD".into(), "2".into());
    env.insert("TERM".into(), "xterm-256color".into());
    Ok((env, files))
}

/// The variables of a derivation, and the files for those in `passAsFile`.
fn variables(
    env: &mut SortedMap<BString, BString>,
    derivation: &Derivation,
    options: &TranslateOptions,
) -> Result<Vec<BuildFile>, FailureKind> {
    let mut files = Vec::new();
    let as_file: Vec<&[u8]> = derivation
        .env_var("passAsFile")
        .map(|names| names.fields().collect())
        .unwrap_or_default();
    for (name, value) in derivation.env.iter() {
        if name.contains(&b'=') {
            return Err(FailureKind::InvalidDerivation {
                message: format!("'{name}' is not a valid name of an environment variable"),
            });
        }
        if !as_file.contains(&name.as_bytes()) {
            env.insert(name.clone(), value.clone());
            continue;
        }
        let hash = NixHash::digest(HashAlgo::Sha256, name);
        let file = format!(".attr-{}", nixbase32::encode(hash.digest_bytes()));
        let mut variable = name.clone();
        variable.extend_from_slice(b"Path");
        env.insert(variable, format!("{}/{file}", options.build_dir).into());
        files.push(BuildFile {
            name: file,
            contents: value.clone(),
        });
    }
    Ok(files)
}

/// The files with structured attributes, and the variables that name them.
fn structured(
    env: &mut SortedMap<BString, BString>,
    attributes: &Map<String, Value>,
    outputs: Map<String, Value>,
    graphs: Vec<(String, Value)>,
    options: &TranslateOptions,
) -> Vec<BuildFile> {
    let written = attributes::files(attributes, outputs, graphs);
    let files = [
        ("NIX_ATTRS_SH_FILE", ".attrs.sh", written.shell),
        ("NIX_ATTRS_JSON_FILE", ".attrs.json", written.json),
    ];
    let files = files.into_iter().map(|(variable, name, contents)| {
        let path = format!("{}/{name}", options.build_dir);
        env.insert(variable.into(), path.into());
        BuildFile {
            name: name.to_owned(),
            contents: contents.into(),
        }
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BuildRequest;
    use crate::translate::{TranslateError, Translation, translate};
    use nix_compat::content_address::ContentAddressMethod;
    use nix_compat::derivation::DerivationBuilder;

    fn of(builder: DerivationBuilder) -> Result<Translation, TranslateError> {
        let dir = StoreDir::default();
        let made = builder.instantiate(&dir).unwrap();
        let request = BuildRequest::new(made.path, made.derivation);
        let mut options = TranslateOptions {
            default_cores: 7,
            ..TranslateOptions::default()
        };
        options.impure_env.insert("PROXY".into(), "p".into());
        translate(&dir, &request, &options)
    }

    fn derivation() -> DerivationBuilder {
        DerivationBuilder::new("x", "x86_64-linux", "/bin/sh")
    }

    #[test]
    fn what_a_derivation_can_override_and_what_it_cannot() {
        let made = of(derivation()
            .env("PATH", "/mine")
            .env("TMPDIR", "/mine")
            .env("TERM", "mine"))
        .unwrap();
        let var = |name| made.env_var(name).unwrap().to_string();
        assert_eq!(var("PATH"), "/mine");
        assert_eq!(var("TMPDIR"), "/build");
        assert_eq!(var("TERM"), "xterm-256color");
        assert_eq!(var("NIX_BUILD_CORES"), "7");
        assert!(made.env_var("NIX_OUTPUT_CHECKED").is_none());
        assert!(!made.network);
    }

    #[test]
    fn what_is_passed_as_file_is_not_passed_as_variable() {
        let made = of(derivation()
            .env("passAsFile", "text other")
            .env("text", "contents"))
        .unwrap();
        assert!(made.env_var("text").is_none());
        assert_eq!(made.files.len(), 1);
        assert_eq!(
            made.env_var("textPath").unwrap().to_string(),
            format!("/build/{}", made.files[0].name)
        );
        assert_eq!(made.files[0].contents, "contents");
        assert!(made.files[0].name.starts_with(".attr-"));
    }

    #[test]
    fn fixed_outputs_have_network_and_an_impure_environment() {
        let hash = NixHash::digest(HashAlgo::Sha256, "x");
        let made = of(derivation()
            .fixed(ContentAddressMethod::Flat, hash)
            .env("impureEnvVars", "PROXY NONE"))
        .unwrap();
        assert!(made.network);
        let var = |name| made.env_var(name).unwrap().to_string();
        assert_eq!((var("PROXY"), var("NONE")), ("p".into(), String::new()));
        assert_eq!(var("NIX_OUTPUT_CHECKED"), "1");
    }

    #[test]
    fn own_placeholders_become_paths() {
        let made = of(derivation()
            .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256)
            .args(["-c", "x"]))
        .unwrap();
        let (_, path) = made.outputs().next().unwrap();
        let path = StoreDir::default().display(path).to_string();
        assert_eq!(made.env_var("out").unwrap().to_string(), path);
    }

    #[test]
    fn structured_attributes_are_files() {
        let made = of(derivation()
            .env(
                "__json",
                r#"{"passAsFile":["a"],"a":"b","outputs":["out"],"exportReferencesGraph":{}}"#,
            )
            .env("other", "is not passed"))
        .unwrap();
        assert!(made.env_var("other").is_none());
        assert!(made.env_var("__json").is_none());
        assert!(made.env_var("out").is_none());
        let file = |name: &str| {
            let found = made.files.iter().find(|file| file.name == name).unwrap();
            found.contents.to_string()
        };
        let (_, path) = made.outputs().next().unwrap();
        let path = StoreDir::default().display(path).to_string();
        assert_eq!(
            file(".attrs.json"),
            format!(
                r#"{{"a":"b","exportReferencesGraph":{{}},"outputs":{{"out":"{path}"}},"passAsFile":["a"]}}"#
            )
        );
        assert_eq!(
            file(".attrs.sh"),
            format!(
                "declare a='b'\ndeclare -A exportReferencesGraph=()\n\
                 declare -A outputs=(['out']='{path}' )\ndeclare -a passAsFile=('a' )\n"
            )
        );
        let var = |name| made.env_var(name).unwrap().to_string();
        assert_eq!(var("NIX_ATTRS_JSON_FILE"), "/build/.attrs.json");
        assert_eq!(var("NIX_ATTRS_SH_FILE"), "/build/.attrs.sh");
        assert_eq!(var("PATH"), "/path-not-set");
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for attribute in ["__noChroot", "__impureHostDeps"] {
            let error = of(derivation().env(attribute, "1")).unwrap_err();
            assert!(matches!(error, TranslateError::Unsupported(_)), "{error}");
        }
        for builder in [derivation().args(["a\0b"]), derivation().env("a=b", "c")] {
            let error = of(builder).unwrap_err();
            assert!(matches!(error, TranslateError::Failure(_)), "{error}");
        }
    }
}
