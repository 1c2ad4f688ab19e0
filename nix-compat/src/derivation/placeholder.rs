//! Placeholders: what stands for a path that is not known yet.
//!
//! Both are `/` and a hash in base 32, as long as any other and without a store directory, so
//! that they stand out and are easy to replace (Nix manual, "Placeholders").

use super::OutputName;
use crate::nixbase32;
use crate::nixhash::sha256;
use crate::store_path::{DRV_SUFFIX, NameError, StorePath, StorePathName, output_path_name};

/// What stands for a derivation's own output inside of it: `builtins.placeholder`.
pub fn output_placeholder(output: &OutputName) -> String {
    placeholder(&sha256(format!("nix-output:{output}").as_bytes()))
}

/// What stands for another derivation's output whose path is not known yet.
///
/// Fails if `derivation` and `output` make no name of a store path.
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
