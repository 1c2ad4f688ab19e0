//! The narinfo parser on arbitrary text: it does not panic, and accepted input is unchanged after
//! it is displayed and parsed again.

use nix_compat::narinfo::NarInfo;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;

pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let dir = StoreDir::default();
    let Ok(narinfo) = NarInfo::parse(text, &dir) else {
        return;
    };
    let printed = narinfo.display(&dir).to_string();
    let again = NarInfo::parse(&printed, &dir);
    assert_eq!(again.as_ref(), Ok(&narinfo), "{printed}");
    let json = narinfo.info.to_nix_json(&dir);
    let info = PathInfo::from_nix_json(&json, &dir).expect("what is written can be read");
    assert_eq!(info, narinfo.info);
    for signature in &narinfo.info.signatures {
        signature.bytes();
    }
}
