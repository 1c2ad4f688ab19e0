//! The ATerm parser on arbitrary input: it does not panic, and accepted input is serialised to the
//! same bytes. Accepted UTF-8 round-trips through JSON too.

use nix_compat::derivation::Derivation;
use nix_compat::derivation::json::JsonForm;
use nix_compat::store_path::{StoreDir, StorePathName};

pub fn check(input: &[u8]) {
    let dir = StoreDir::default();
    let name: StorePathName = "fuzzed".parse().expect("a valid name");
    let Ok(derivation) = Derivation::from_aterm(&dir, name.clone(), input) else {
        return;
    };
    assert!(derivation.to_aterm(&dir) == input, "another serialisation");
    let _ = derivation.check_output_paths(&dir, |_| None);
    if let Ok(json) = derivation.to_nix_json(&dir, JsonForm::Legacy) {
        let read = Derivation::from_nix_json(name, &json, &dir);
        assert_eq!(read.expect("what is written can be read"), derivation);
    }
}
