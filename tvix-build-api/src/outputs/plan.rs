//! The planned paths of outputs.

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{Derivation, Output, OutputName, output_placeholder};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::{DIGEST_LEN, StoreDir, StorePath, compress_hash, output_path_name};

use crate::{BuildRequest, FailureKind};

/// An output to be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedOutput {
    /// Its name.
    pub name: OutputName,
    /// The path during the build. Also the final path, unless the output is floating.
    pub path: StorePath,
    /// The way to the final path.
    pub destination: Destination,
}

/// The way from the path during the build to the final path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The paths are equal.
    Known,
    /// The paths are equal if the output has this content address.
    Fixed(ContentAddress),
    /// The final path follows from the contents.
    Floating(ContentAddressMethod, HashAlgo),
}

/// The planned outputs of a request.
///
/// # Errors
///
/// [`FailureKind::InvalidDerivation`] if a path cannot be computed.
pub fn plan_outputs(
    dir: &StoreDir,
    request: &BuildRequest,
) -> Result<Vec<PlannedOutput>, FailureKind> {
    let derivation = &*request.derivation;
    let outputs = derivation.outputs.iter();
    outputs
        .map(|(name, output)| {
            let (path, destination) = match output {
                Output::InputAddressed(path) => (path.clone(), Destination::Known),
                Output::Fixed(address) => {
                    let path = derivation.output_path(dir, name).ok_or_else(|| {
                        invalid(format!("the fixed output '{name}' can have no path"))
                    })?;
                    (path, Destination::Fixed(address.clone()))
                }
                Output::Floating { method, algo } | Output::Impure { method, algo } => {
                    let path = scratch_path(&request.drv_path, derivation, name)?;
                    (path, Destination::Floating(*method, *algo))
                }
                Output::Deferred => {
                    return Err(invalid(format!(
                        "the path of output '{name}' depends on inputs that are not resolved"
                    )));
                }
            };
            Ok(PlannedOutput {
                name: name.clone(),
                path,
                destination,
            })
        })
        .collect()
}

fn invalid(message: String) -> FailureKind {
    FailureKind::InvalidDerivation { message }
}

/// A unique path for an output with a final path that is unknown before the build.
fn scratch_path(
    drv_path: &StorePath,
    derivation: &Derivation,
    output: &OutputName,
) -> Result<StorePath, FailureKind> {
    let name = output_path_name(&derivation.name, output)
        .map_err(|error| invalid(format!("the output '{output}' can have no path: {error}")))?;
    let clear = format!("scratch:{drv_path}!{output}");
    let hash = NixHash::digest(HashAlgo::Sha256, clear);
    Ok(StorePath::new(
        compress_hash::<DIGEST_LEN>(hash.digest_bytes()),
        name,
    ))
}

/// Rewrites of the placeholders of a derivation's own outputs, as made by `builtins.placeholder`.
pub fn placeholder_rewrites(dir: &StoreDir, outputs: &[PlannedOutput]) -> Vec<(String, String)> {
    let outputs = outputs.iter();
    outputs
        .map(|output| {
            let path = dir.display(&output.path).to_string();
            (output_placeholder(&output.name), path)
        })
        .collect()
}
