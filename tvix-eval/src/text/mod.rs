//! Textual formats as parsed and printed by C++ Nix, independent of values.

pub mod json;
pub mod number;
pub mod print;
pub mod regex;
pub mod toml;
pub mod version;
pub mod xml;

/// Whether a word has the form of an identifier: a letter or `_`, then letters, `_`, digits, `'`
/// and `-`. Keywords have this form too.
pub fn is_identifier(word: &[u8]) -> bool {
    let (first, rest) = match word.split_first() {
        Some((first, rest)) => (*first, rest),
        None => return false,
    };
    (first.is_ascii_alphabetic() || first == b'_')
        && rest
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'\'' | b'-'))
}
