//! Nix's own base-32: the alphabet leaves out `e`, `o`, `t` and `u`, and the least significant
//! bits come last, so that the text reads backwards (Nix manual, "Nix32 encoding").

use thiserror::Error;

/// The 32 digits, in order of value.
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
    /// A byte outside of [`ALPHABET`].
    #[error("'{}' at position {position} is not a base-32 digit of Nix", byte.escape_ascii())]
    InvalidDigit {
        /// The offending byte.
        byte: u8,
        /// Its index in the input.
        position: usize,
    },
    /// The text is not as long as the number of bytes wanted needs.
    #[error("{found} base-32 digits where {expected} are needed")]
    WrongLength {
        /// Digits needed.
        expected: usize,
        /// Digits found.
        found: usize,
    },
    /// Bits beyond the last byte are set, so another text would decode to the same bytes.
    #[error("the unused bits of the first digit are not zero")]
    NonZeroPadding,
}

/// The number of digits that `bytes` bytes take.
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
    for digit in (0..encoded_len(input.len())).rev() {
        let bit = digit * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let low = input[byte] >> shift;
        let high = match input.get(byte + 1) {
            Some(next) if shift > 3 => next << (8 - shift),
            _ => 0,
        };
        text.push(ALPHABET[usize::from((low | high) & 0x1f)] as char);
    }
}

/// Decodes exactly `N` bytes.
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
        fn what_decodes_encodes_to_itself(text in "[0-9a-z]{13}") {
            if let Ok(bytes) = decode::<8>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
