//! Features that are configured for this machine but missing.

use std::path::Path;

use super::prepare::KVM;
use super::trouble::{Blame, Trouble};
use crate::Requirements;

pub(super) fn check_features(
    blame: &Blame,
    requirements: &Requirements,
    sandbox: bool,
) -> Result<(), Trouble> {
    if requirements.requires("uid-range") {
        let message = "it requires a range of users ('uid-range'), and builds have one user here";
        return Err(blame.unsupported(message));
    }
    if requirements.requires("kvm") && sandbox && !Path::new(KVM).exists() {
        let message = format!("it requires the system feature 'kvm', and there is no '{KVM}'");
        return Err(blame.unsupported(message));
    }
    Ok(())
}
