//! Any derivation round-trips through ATerm, and through JSON if it is UTF-8.

#![allow(clippy::unwrap_used)]

use bstr::BString;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::json::{self, JsonForm};
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath, StorePathName};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}"
}

fn store_path(suffix: &'static str) -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), name()).prop_map(move |(digest, name)| {
        StorePath::new(digest, format!("{name}{suffix}").parse().unwrap())
    })
}

fn output_name() -> impl Strategy<Value = OutputName> {
    "[a-z]{1,5}".prop_filter_map("taken", |name| name.parse().ok())
}

fn algo() -> impl Strategy<Value = HashAlgo> {
    prop_oneof![
        Just(HashAlgo::Md5),
        Just(HashAlgo::Sha1),
        Just(HashAlgo::Sha256),
        Just(HashAlgo::Sha512),
    ]
}

fn output() -> impl Strategy<Value = Output> {
    use ContentAddressMethod::{Flat, NixArchive};
    let method = prop_oneof![Just(Flat), Just(NixArchive)];
    prop_oneof![
        store_path("").prop_map(Output::InputAddressed),
        Just(Output::Deferred),
        (method, algo(), any::<u8>(), any::<u8>()).prop_map(|(method, algo, kind, byte)| {
            match kind % 3 {
                0 => Output::Floating { method, algo },
                1 => Output::Impure { method, algo },
                _ => Output::Fixed(ContentAddress {
                    method,
                    hash: NixHash::digest(algo, [byte]),
                }),
            }
        }),
    ]
}

fn derivation(bytes: BoxedStrategy<BString>) -> impl Strategy<Value = Derivation> {
    let inputs = btree_map(store_path(".drv"), btree_set(output_name(), 1..3), 0..3);
    let env = btree_map(bytes.clone(), bytes.clone(), 0..5);
    let text = (
        "[a-z0-9_-]{1,12}",
        bytes.clone(),
        vec(bytes.clone(), 0..4),
        env,
    );
    let outputs = btree_map(output_name(), output(), 1..4);
    let sources = btree_set(store_path(""), 0..3);
    (name(), outputs, inputs, sources, text).prop_map(
        |(name, outputs, inputs, sources, (system, builder, args, env))| Derivation {
            name: name.parse().unwrap(),
            outputs: outputs.into_iter().collect(),
            input_drvs: inputs
                .into_iter()
                .map(|(path, outputs)| (path, outputs.into_iter().collect::<SortedSet<_>>()))
                .collect(),
            input_srcs: sources.into_iter().collect(),
            system: system.into(),
            builder,
            args,
            env: env.into_iter().collect(),
        },
    )
}

fn any_bytes() -> BoxedStrategy<BString> {
    let ascii = "[a-z\"\\\\\n\r\t$]{0,12}".prop_map(BString::from);
    prop_oneof![ascii, vec(any::<u8>(), 0..12).prop_map(BString::from)].boxed()
}

fn any_text() -> BoxedStrategy<BString> {
    any::<String>().prop_map(BString::from).boxed()
}

proptest! {
    #[test]
    fn aterm(derivation in derivation(any_bytes())) {
        let dir = StoreDir::default();
        let name: StorePathName = derivation.name.clone();
        let written = derivation.to_aterm(&dir);
        let read = Derivation::from_aterm(&dir, name, &written).unwrap();
        prop_assert_eq!(read, derivation);
    }

    #[test]
    fn json(derivation in derivation(any_text())) {
        let dir = StoreDir::default();
        let path = derivation.path(&dir).unwrap();
        for form in [JsonForm::Legacy, JsonForm::V4] {
            let shown = json::show([(&path, &derivation)], &dir, form).unwrap();
            let text = serde_json::to_string(&shown).unwrap();
            let read = json::parse(&serde_json::from_str(&text).unwrap(), &dir).unwrap();
            prop_assert_eq!(read, vec![(path.clone(), derivation.clone())]);
        }
    }
}
