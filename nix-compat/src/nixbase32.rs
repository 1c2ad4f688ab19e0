//! Nix's base-32 encoding. Its alphabet lacks `e`, `o`, `t` and `u`, and the least significant bits
//! come last, so that the text reads backwards (Nix manual, "Nix32 encoding").

use thiserror::Error;

/// The 32 digits in ascending order of value.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

const INVALID: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut table = [INVALID; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        table[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Why a text is not nixbase32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A byte outside [`ALPHABET`].
    #[error("'{}' at position {position} is not a base-32 digit of Nix", byte.escape_ascii())]
    InvalidDigit {
        /// The offending byte.
        byte: u8,
        /// Its index in the text.
        position: usize,
    },
    /// The length of the text does not match the number of bytes to decode.
    #[error("{found} base-32 digits where {expected} are needed")]
    WrongLength {
        /// Expected number of digits.
        expected: usize,
        /// Actual number of digits.
        found: usize,
    },
    /// Padding bits after the last byte are set, so that another text decodes to the same bytes.
    #[error("the unused bits of the first digit are not zero")]
    NonZeroPadding,
}

/// The number of digits that encode `bytes` bytes.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Encodes `input`.
pub fn encode(input: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(input.len()));
    encode_into(input, &mut text);
    text
}

/// Appends the encoding of `input` to `text`.
pub fn encode_into(input: &[u8], text: &mut String) {
    let (groups, rest) = input.as_chunks::<GROUP>();
    let mut last = [0; GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let digits = encode_group(&last);
    let unused = digits.len() - encoded_len(rest.len());
    let digits = &digits[unused..];
    let groups = groups.iter().rev().flat_map(encode_group);
    text.extend(digits.iter().copied().chain(groups).map(char::from));
}

/// Encodes 20 bytes, the length of a digest in a store path.
pub(crate) fn encode_20(input: &[u8; 20]) -> [u8; 32] {
    let mut text = [0; 32];
    let (groups, _) = input.as_chunks::<GROUP>();
    let (places, _) = text.as_chunks_mut::<GROUP_DIGITS>();
    for (group, place) in groups.iter().rev().zip(places) {
        *place = encode_group(group);
    }
    text
}

/// The number of bytes that a whole number of digits encodes.
const GROUP: usize = 5;
const GROUP_DIGITS: usize = 8;

fn encode_group(group: &[u8; GROUP]) -> [u8; GROUP_DIGITS] {
    let [a, b, c, d, e] = *group;
    let word = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
    let mut digits = [0; GROUP_DIGITS];
    let (places, _) = digits.as_chunks_mut();
    for (index, place) in places.iter_mut().rev().enumerate() {
        *place = PAIRS[(word >> (10 * index) & 0x3ff) as usize];
    }
    digits
}

/// The two digits of each number of ten bits.
static PAIRS: [[u8; 2]; 1024] = {
    let mut pairs = [[0; 2]; 1024];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [ALPHABET[number >> 5], ALPHABET[number & 0x1f]];
        number += 1;
    }
    pairs
};

/// Decodes exactly `N` bytes.
///
/// # Errors
///
/// [`DecodeError`], if the text is not the encoding of `N` bytes.
pub fn decode<const N: usize>(text: impl AsRef<[u8]>) -> Result<[u8; N], DecodeError> {
    let text = text.as_ref();
    if text.len() != encoded_len(N) {
        return Err(DecodeError::WrongLength {
            expected: encoded_len(N),
            found: text.len(),
        });
    }
    let mut output = [0u8; N];
    for (position, &byte) in text.iter().enumerate() {
        let value = VALUES[usize::from(byte)];
        if value == INVALID {
            return Err(DecodeError::InvalidDigit { byte, position });
        }
        let bit = (text.len() - 1 - position) * 5;
        let (index, shift) = (bit / 8, bit % 8);
        output[index] |= value << shift;
        let carry = if shift > 3 { value >> (8 - shift) } else { 0 };
        match output.get_mut(index + 1) {
            Some(next) => *next |= carry,
            None if carry != 0 => return Err(DecodeError::NonZeroPadding),
            None => {}
        }
    }
    Ok(output)
}

/// Whether `byte` is a digit.
pub const fn is_digit(byte: u8) -> bool {
    VALUES[byte as usize] != INVALID
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        // nix-hash --type sha256 --to-base32 of the SHA-256 of nothing.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let bytes = data_encoding::HEXLOWER.decode(empty.as_bytes()).unwrap();
        assert_eq!(
            encode(&bytes),
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
        );
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[0x1f]), "0z");
    }

    #[test]
    fn rejects_what_is_not_canonical() {
        assert_eq!(decode::<1>("z0"), Err(DecodeError::NonZeroPadding));
        assert_eq!(
            decode::<1>("0"),
            Err(DecodeError::WrongLength {
                expected: 2,
                found: 1
            })
        );
        for byte in *b"eotuEZ-" {
            let error = decode::<1>([b'0', byte]);
            assert_eq!(error, Err(DecodeError::InvalidDigit { byte, position: 1 }));
        }
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 20], long: [u8; 32]) {
            prop_assert_eq!(decode::<20>(encode(&bytes)), Ok(bytes));
            prop_assert_eq!(decode::<32>(encode(&long)), Ok(long));
        }

        #[test]
        fn decoded_text_encodes_to_itself(text in "[0-9a-z]{13}") {
            if let Ok(bytes) = decode::<8>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
