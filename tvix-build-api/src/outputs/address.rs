//! Content addresses of outputs.

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::NixHash;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{PathReferences, StoreDir, StorePath, content_addressed_path};

use super::PlannedOutput;
use crate::FailureKind;

/// The path and address of a floating output.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Addressed {
    /// Its path.
    pub path: StorePath,
    /// Its content address.
    pub ca: ContentAddress,
    /// Its references, including those to itself.
    pub references: SortedSet<StorePath>,
}

/// Checks a fixed output. `actual` is its hash by the method of `declared`.
///
/// # Errors
///
/// [`FailureKind::HashMismatch`]; [`FailureKind::ForbiddenReference`], because an output that is
/// addressed by its hash alone cannot have references.
pub fn check_fixed(
    output: &PlannedOutput,
    declared: &ContentAddress,
    actual: NixHash,
    references: &SortedSet<StorePath>,
) -> Result<(), FailureKind> {
    if actual != declared.hash {
        return Err(FailureKind::HashMismatch {
            expected: declared.hash.clone(),
            actual,
        });
    }
    if references.is_empty() {
        return Ok(());
    }
    Err(FailureKind::ForbiddenReference {
        output: output.name.clone(),
        references: references.iter().cloned().collect(),
    })
}

/// The path of a floating output with this hash, which leaves out references to itself.
/// `references` are those under the path where the output was made.
///
/// # Errors
///
/// [`FailureKind::InvalidOutput`] if an output with this method of addressing cannot have such
/// references.
pub fn floating_path(
    dir: &StoreDir,
    output: &PlannedOutput,
    method: ContentAddressMethod,
    hash: NixHash,
    references: &SortedSet<StorePath>,
) -> Result<Addressed, FailureKind> {
    let to_self = references.contains(&output.path);
    let others = references.iter().filter(|path| **path != output.path);
    let split = PathReferences {
        others: others.cloned().collect(),
        to_self,
    };
    let ca = ContentAddress { method, hash };
    let path = content_addressed_path(dir, output.path.name().clone(), &ca, &split);
    let path = path.ok_or_else(|| FailureKind::InvalidOutput {
        output: output.name.clone(),
        message: format!(
            "it refers to {}, but an output with the method '{}' cannot have such references",
            match split.others.iter().next() {
                Some(path) => format!("'{path}'"),
                None => "itself".into(),
            },
            ca.method.name(),
        ),
    })?;
    let mut references = split.others;
    if to_self {
        references.insert(path.clone());
    }
    Ok(Addressed {
        path,
        ca,
        references,
    })
}
