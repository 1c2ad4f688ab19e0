//! Arbitrary text as a signature and as keys: accepted text displays unchanged, and verifies
//! nothing that it did not sign.

use nix_compat::signature::{Signature, SigningKey, VerifyingKey};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let signature = text.parse::<Signature>();
    if let Ok(signature) = &signature {
        assert_eq!(signature.to_string(), text);
        let own = SigningKey::from_seed(signature.name(), &[1; 32]);
        if let Ok(own) = own {
            assert!(!own.verifying_key().verify("never signed", signature));
        }
    }
    if let Ok(key) = text.parse::<VerifyingKey>() {
        assert_eq!(key.to_string().parse::<VerifyingKey>().as_ref(), Ok(&key));
    }
    if let Ok(key) = text.parse::<SigningKey>() {
        let message = b"message";
        assert!(key.verifying_key().verify(message, &key.sign(message)));
        assert!(!format!("{key:?}").contains(text));
    }
}
