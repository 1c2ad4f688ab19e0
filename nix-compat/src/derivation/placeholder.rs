//! Placeholders, which stand for store paths that are not known yet.
//!
//! A placeholder is `/` and a hash in base 32: of fixed length and without a store directory, so it
//! is easy to find and to replace (Nix manual, "Placeholders").

use super::OutputName;
use crate::nixbase32;
use crate::nixhash::sha256;
use crate::store_path::{DRV_SUFFIX, NameError, StorePath, StorePathName, output_path_name};

/// The placeholder of a derivation's own output: `builtins.placeholder`.
pub fn output_placeholder(output: &OutputName) -> String {
    placeholder(&sha256(format!("nix-output:{output}").as_bytes()))
}

/// The placeholder of another derivation's output, while its path is not known.
///
/// Fails if the names of `derivation` and `output` together are not valid in a store path.
pub fn upstream_placeholder(
    derivation: &StorePath,
    output: &OutputName,
) -> Result<String, NameError> {
    let name = derivation.name().as_str();
    let name: StorePathName = name.strip_suffix(DRV_SUFFIX).unwrap_or(name).parse()?;
    let path_name = output_path_name(&name, output)?;
    let clear = format!("nix-upstream-output:{}:{path_name}", derivation.hash_part());
    Ok(placeholder(&sha256(clear.as_bytes())))
}

fn placeholder(hash: &[u8]) -> String {
    let mut text = String::with_capacity(1 + nixbase32::encoded_len(hash.len()));
    text.push('/');
    nixbase32::encode_into(hash, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholder_of_out() {
        // nix-instantiate --eval -E 'builtins.placeholder "out"'
        assert_eq!(
            output_placeholder(&OutputName::out()),
            "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"
        );
    }
}
