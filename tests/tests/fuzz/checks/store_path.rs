//! Arbitrary text as a store path: accepted text displays unchanged, and leads to no other path.

use nix_compat::store_path::{StoreDir, StorePath};

pub fn check(data: &[u8]) {
    let dir = StoreDir::default();
    if let Ok(path) = StorePath::from_base_name(data) {
        let text = path.to_string();
        assert_eq!(text.as_bytes(), data);
        assert!(!text.contains('/') && !text.contains('\0'));
        assert_eq!(path.hash_part(), text[..32]);
        assert_eq!(dir.parse(dir.display(&path).to_string()).unwrap(), path);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(path) = dir.parse(text)
    {
        assert_eq!(dir.display(&path).to_string(), text);
    }
}
