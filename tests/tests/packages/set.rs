//! The package set, and its derivations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt as _;
use nix_compat::store_path::StoreDir;
use tvix_eval::NixEvaluator;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator as _};

/// The directory of the package set.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packages")
}

/// The attributes that are instantiated.
pub const ATTRS: [&str; 6] = ["native", "cross", "changed", "machine", "other", "recent"];

/// The instantiated derivations by name, serialised. Checks that none is yielded twice, or before
/// its inputs.
pub async fn derivations(collect_every: Option<u32>) -> BTreeMap<String, Vec<u8>> {
    let mut request = EvalRequest::new(EvalSource::File(folder().join("release.nix")));
    request.attr_paths = ATTRS.map(str::to_owned).to_vec();
    let mut settings = Settings::default();
    settings.collect_every = collect_every;
    let evaluator = NixEvaluator::new(settings);
    let mut events = evaluator.evaluate(request).await.unwrap();
    let mut found = BTreeMap::new();
    while let Some(event) = events.next().await {
        if let EvalEvent::Derivation {
            path, derivation, ..
        } = event.unwrap()
        {
            for input in derivation.input_drvs.keys() {
                assert!(
                    found.contains_key(&input.to_string()),
                    "{path} came before {input}"
                );
            }
            let (computed, text) = derivation.path_and_aterm(&StoreDir::default()).unwrap();
            assert_eq!(computed, path);
            assert!(
                found.insert(path.to_string(), text).is_none(),
                "{path} came twice"
            );
        }
    }
    found
}
