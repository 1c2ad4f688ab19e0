//! Derivations made by C++ Nix: see `goldens/make-derivations.sh`.

// Helpers are test code too, which clippy does not detect.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::json::{self, JsonError, JsonForm};
use nix_compat::derivation::{
    Derivation, DerivationBuilder, HashModulo, Instantiated, Output, OutputPathError,
};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::{StoreDir, StorePath, text_path};

struct Goldens {
    dir: StoreDir,
    contents: BTreeMap<StorePath, Vec<u8>>,
    by_attr: BTreeMap<String, StorePath>,
}

impl Goldens {
    fn read() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/derivations");
        let mut contents = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".drv") {
                contents.insert(name.parse().unwrap(), std::fs::read(entry.path()).unwrap());
            }
        }
        let index = std::fs::read_to_string(folder.join("index.txt")).unwrap();
        let by_attr = index
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(attr, path)| (attr.to_owned(), path.parse().unwrap()))
            .collect();
        let goldens = Self {
            dir: StoreDir::default(),
            contents,
            by_attr,
        };
        assert!(goldens.contents.len() >= 18, "goldens are missing");
        goldens
    }

    fn parse(&self, path: &StorePath) -> Derivation {
        let name = path
            .name()
            .as_str()
            .strip_suffix(".drv")
            .unwrap()
            .parse()
            .unwrap();
        Derivation::from_aterm(&self.dir, name, &self.contents[path]).unwrap()
    }

    fn attr(&self, attr: &str) -> (&StorePath, Derivation) {
        let path = &self.by_attr[attr];
        (path, self.parse(path))
    }

    fn modulo(&self, path: &StorePath) -> Option<HashModulo> {
        self.contents.get(path)?;
        Some(
            self.parse(path)
                .hash_modulo(&self.dir, |input| self.modulo(input))
                .unwrap(),
        )
    }
}

#[test]
fn every_golden_is_written_back_byte_for_byte() {
    let goldens = Goldens::read();
    for (path, contents) in &goldens.contents {
        let derivation = goldens.parse(path);
        let written = derivation.to_aterm(&goldens.dir);
        assert_eq!(
            String::from_utf8_lossy(&written),
            String::from_utf8_lossy(contents)
        );
        assert_eq!(derivation.path(&goldens.dir).unwrap(), *path);
    }
}

#[test]
fn every_output_path_is_the_one_that_the_derivation_gives() {
    let goldens = Goldens::read();
    for path in goldens.contents.keys() {
        let derivation = goldens.parse(path);
        derivation
            .check_output_paths(&goldens.dir, |input| goldens.modulo(input))
            .unwrap();
    }
}

#[test]
fn a_claim_to_the_output_of_another_is_rejected() {
    let goldens = Goldens::read();
    let (_, plain) = goldens.attr("plain");
    let mut liar = plain.clone();
    liar.args.push("more".into());
    let error = liar.check_output_paths(&goldens.dir, |_| None).unwrap_err();
    assert!(matches!(error, OutputPathError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("'plain'"), "{error}");
}

/// Each derivation makes a claim that is not part of its hash, because the claim is masked there.
#[test]
fn claims_that_no_hash_shows_are_rejected() {
    let goldens = Goldens::read();
    let check = |liar: &Derivation| {
        let modulo = |input: &StorePath| goldens.modulo(input);
        liar.check_output_paths(&goldens.dir, modulo).unwrap_err()
    };
    let out = "out".parse().unwrap();
    let (_, plain) = goldens.attr("plain");
    let (_, uses) = goldens.attr("uses");
    let claimed = plain.output_path(&goldens.dir, &out).unwrap();
    // The builder receives the output path of another derivation.
    let path = |of: &Derivation| of.env_var("out").unwrap().clone();
    for (told, other) in [(&plain, &uses), (&uses, &plain)] {
        let mut liar = told.clone();
        liar.env.insert("out".into(), path(other));
        let error = check(&liar);
        let is_right = matches!(error, OutputPathError::Environment { .. });
        assert!(is_right, "{error}");
    }
    let (_, fixed) = goldens.attr("fixedFlat");
    let mut liar = fixed.clone();
    liar.env.insert("out".into(), path(&plain));
    let error = check(&liar);
    let is_right = matches!(error, OutputPathError::Environment { .. });
    assert!(is_right, "{error}");
    // A path that cannot be known yet, and a missing path that is known.
    let (_, deferred) = goldens.attr("deferred");
    let mut liar = deferred.clone();
    let early = Output::InputAddressed(claimed);
    liar.outputs.insert(out.clone(), early);
    let error = check(&liar);
    let is_right = matches!(error, OutputPathError::PrematurePath { .. });
    assert!(is_right, "{error}");
    let mut liar = plain.clone();
    liar.outputs.insert(out.clone(), Output::Deferred);
    let error = check(&liar);
    let is_right = matches!(error, OutputPathError::MissingPath { .. });
    assert!(is_right, "{error}");
    // Invalid combinations: a fixed output, whose path does not depend on the rest, with a second
    // output; a fixed output that is not called `out`; no output.
    let kind = |of: &Derivation| of.outputs.values().next().unwrap().clone();
    let other: nix_compat::derivation::OutputName = "other".parse().unwrap();
    let (_, floating) = goldens.attr("floating");
    let mut two = fixed.clone();
    two.outputs.insert(other.clone(), kind(&fixed));
    let mut mixed = floating.clone();
    mixed.outputs.insert(out.clone(), kind(&plain));
    let mut renamed = fixed.clone();
    renamed.outputs.remove(&out);
    renamed.outputs.insert(other, kind(&fixed));
    let mut none = plain.clone();
    none.outputs.remove(&out);
    for liar in [two, mixed, renamed, none] {
        let error = check(&liar);
        let is_right = matches!(error, OutputPathError::MixedOutputs(_));
        assert!(is_right, "{error}");
    }
}

#[test]
fn every_truncation_and_most_changes_are_errors() {
    let goldens = Goldens::read();
    for (path, contents) in &goldens.contents {
        let name: nix_compat::store_path::StorePathName = path
            .name()
            .as_str()
            .strip_suffix(".drv")
            .unwrap()
            .parse()
            .unwrap();
        for len in 0..contents.len() {
            let cut = Derivation::from_aterm(&goldens.dir, name.clone(), &contents[..len]);
            assert!(cut.is_err(), "{path} cut at {len}");
        }
        let mut longer = contents.clone();
        longer.push(b' ');
        assert!(Derivation::from_aterm(&goldens.dir, name.clone(), &longer).is_err());
        // With any byte changed: if the result parses, it is canonical.
        for position in 0..contents.len() {
            for byte in [b'"', b'\\', b'\n', b'z', b'0', b',', 0xff] {
                let mut changed = contents.clone();
                changed[position] = byte;
                if let Ok(parsed) = Derivation::from_aterm(&goldens.dir, name.clone(), &changed) {
                    assert_eq!(
                        parsed.to_aterm(&goldens.dir),
                        changed,
                        "{path} at {position}"
                    );
                }
            }
        }
    }
}

fn builder(name: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, "x86_64-linux", "/bin/sh")
}

#[test]
fn the_builder_makes_the_same_derivations() {
    let goldens = Goldens::read();
    let dir = &goldens.dir;
    let check = |attr: &str, builder: DerivationBuilder| -> Instantiated {
        let made = builder.instantiate(dir).unwrap();
        let (path, golden) = goldens.attr(attr);
        assert_eq!(*made.derivation, golden, "{attr}");
        assert_eq!(made.path, *path, "{attr}");
        made
    };
    let empty = NixHash::digest(HashAlgo::Sha256, b"");
    let flat = ContentAddressMethod::Flat;
    let nar = ContentAddressMethod::NixArchive;

    let plain = check("plain", builder("plain").args(["-c", "echo hello > $out"]));
    let multiple = check(
        "multiple",
        builder("multiple")
            .outputs(["out", "dev", "doc"])
            .args(["-c", "true"]),
    );
    check("devFirst", builder("dev-first").outputs(["dev", "out"]));
    let text = text_path(
        dir,
        "text".parse().unwrap(),
        b"some text\n",
        &Default::default(),
    );
    let uses = check(
        "uses",
        builder("uses")
            .input_env("plain", &plain, "out")
            .input_env("dev", &multiple, "dev")
            .input_env("doc", &multiple, "doc")
            .source(&text)
            .env("text", dir.display(&text).to_string()),
    );
    let fixed_flat = check(
        "fixedFlat",
        builder("fixed-flat").fixed(flat, empty.clone()),
    );
    let fixed_recursive = check(
        "fixedRecursive",
        builder("fixed-recursive").fixed(nar, empty.clone()),
    );
    let mut md5 = builder("fixed-md5").fixed(flat, NixHash::digest(HashAlgo::Md5, b""));
    md5 = {
        // The golden omits the mode.
        let mut made = md5.clone().instantiate(dir).unwrap();
        let mut derivation = (*made.derivation).clone();
        derivation.env.remove(bstr::BStr::new("outputHashMode"));
        made.path = derivation.path(dir).unwrap();
        assert_eq!(made.path, goldens.by_attr["fixedMd5"]);
        md5
    };
    let fixed_md5 = Instantiated {
        path: goldens.by_attr["fixedMd5"].clone(),
        ..md5.instantiate(dir).unwrap()
    };
    check(
        "fixedSha1Recursive",
        builder("fixed-sha1-recursive").fixed(nar, NixHash::digest(HashAlgo::Sha1, b"")),
    );
    check(
        "usesFixed",
        builder("uses-fixed")
            .input_env("fixedFlat", &fixed_flat, "out")
            .input_env("fixedRecursive", &fixed_recursive, "out")
            .input_env("fixedMd5", &fixed_md5, "out")
            .input_env("uses", &uses, "out"),
    );
    let floating = check(
        "floating",
        builder("floating")
            .outputs(["out", "lib"])
            .floating(nar, HashAlgo::Sha256),
    );
    let deferred = check(
        "deferred",
        builder("deferred")
            .input_env("input", &floating, "out")
            .input_env("lib", &floating, "lib"),
    );
    check(
        "deferredTwice",
        builder("deferred-twice")
            .outputs(["out", "bin"])
            .input_env("input", &deferred, "out"),
    );
}

#[test]
fn resolving_fills_in_what_was_built() {
    let goldens = Goldens::read();
    let dir = &goldens.dir;
    let (_, deferred) = goldens.attr("deferred");
    let lib: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-floating-lib"
        .parse()
        .unwrap();
    let out: StorePath = "10bgd045z0d4icpbc2yyz4gx48ak44la-floating".parse().unwrap();
    let resolved = deferred
        .resolve(dir, |_, output| {
            Some(if output.as_str() == "lib" { &lib } else { &out }.clone())
        })
        .unwrap();
    assert!(resolved.input_drvs.is_empty());
    assert_eq!(
        resolved.env_var("input").unwrap(),
        &*dir.display(&out).to_string()
    );
    assert_eq!(
        resolved.env_var("lib").unwrap(),
        &*dir.display(&lib).to_string()
    );
    resolved.check_output_paths(dir, |_| None).unwrap();
    let error = deferred.resolve(dir, |_, _| None).unwrap_err().to_string();
    assert!(error.contains("floating"), "{error}");
}

#[test]
fn json_is_what_real_nix_shows() {
    let goldens = Goldens::read();
    let dir = &goldens.dir;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/derivations");
    let derivations: Vec<_> = goldens
        .contents
        .keys()
        .map(|path| (path.clone(), goldens.parse(path)))
        .collect();
    for (file, form) in [
        ("show-derivation.json", JsonForm::Legacy),
        ("derivation-show.json", JsonForm::V4),
    ] {
        let golden = std::fs::read_to_string(folder.join(file)).unwrap();
        let shown = derivations.iter().map(|(path, drv)| (path, drv));
        let shown = json::show(shown, dir, form).unwrap();
        // In the same order.
        let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        assert_eq!(
            serde_json::to_string_pretty(&shown).unwrap(),
            serde_json::to_string_pretty(&golden).unwrap(),
        );
        assert_eq!(json::parse(&golden, dir).unwrap(), derivations);
    }
}

#[test]
fn derivations_without_a_json_form() {
    let dir = StoreDir::default();
    let latin1 = builder("latin1").env("umlaut", &b"\xfc"[..]);
    let latin1 = latin1.instantiate(&dir).unwrap();
    for form in [JsonForm::Legacy, JsonForm::V4] {
        let error = latin1.derivation.to_nix_json(&dir, form).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("'umlaut'") && text.contains("'latin1'"),
            "{text}"
        );
    }
    let plain = builder("plain").instantiate(&dir).unwrap();
    let show = |form| json::show([(&plain.path, &*plain.derivation)], &dir, form).unwrap();
    let change = |form, pointer: &str, value: serde_json::Value| {
        let mut shown = show(form);
        *shown.pointer_mut(pointer).unwrap() = value;
        json::parse(&shown, &dir).unwrap_err()
    };
    let legacy = format!("/~1nix~1store~1{}", plain.path);
    let error = change(
        JsonForm::Legacy,
        &format!("{legacy}/system"),
        "other".into(),
    );
    assert!(matches!(error, JsonError::PathMismatch { .. }), "{error}");
    let error = change(
        JsonForm::Legacy,
        &format!("{legacy}/outputs"),
        serde_json::json!({}),
    );
    assert!(matches!(error, JsonError::NoOutputs(_)), "{error}");
    let error = change(JsonForm::V4, "/version", 5.into());
    assert!(matches!(error, JsonError::UnsupportedVersion(_)), "{error}");
    let v4 = format!("/derivations/{}", plain.path);
    let error = change(JsonForm::V4, &format!("{v4}/name"), "other".into());
    assert!(matches!(error, JsonError::NameMismatch { .. }), "{error}");
    let dynamic = serde_json::json!({
        "x": { "outputs": ["out"], "dynamicOutputs": { "out": {} } }
    });
    let error = change(JsonForm::V4, &format!("{v4}/inputs/drvs"), dynamic);
    assert!(matches!(error, JsonError::StorePath { .. }), "{error}");
}
