//! Features that are configured for this machine but missing.

use std::path::Path;

use nix_compat::derivation::Derivation;

use super::prepare::KVM;
use super::trouble::{Blame, Trouble};
use crate::attributes::required_features;

pub(super) fn check_features(
    blame: &Blame,
    derivation: &Derivation,
    sandbox: bool,
) -> Result<(), Trouble> {
    let required = required_features(derivation);
    let required = |feature: &str| required.iter().any(|name| name == feature);
    if required("uid-range") {
        let message = "it requires a range of users ('uid-range'), and builds have one user here";
        return Err(blame.unsupported(message));
    }
    if required("kvm") && sandbox && !Path::new(KVM).exists() {
        let message = format!("it requires the system feature 'kvm', and there is no '{KVM}'");
        return Err(blame.unsupported(message));
    }
    Ok(())
}
