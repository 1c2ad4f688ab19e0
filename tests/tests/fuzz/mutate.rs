//! Deterministic pseudo-random mutations.

/// Pseudo-random numbers (xorshift64*).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which must not be zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// Numbers close to limits, and keywords of formats.
const PIECES: [&[u8]; 34] = [
    &[0; 8],
    &[255; 8],
    &[0xf7, 255, 255, 255, 255, 255, 255, 255],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
    &[1, 0, 0, 0, 0, 0, 0, 0],
    &[0, 16, 0, 0, 0, 0, 0, 0],
    b"\0",
    b"\xff\xfe",
    b"..",
    b"/",
    b"\n",
    b": ",
    b" ",
    b"!",
    b"\\",
    b"\"",
    b",",
    b"(",
    b")]",
    b"/nix/store/",
    b"18446744073709551616",
    b"sha256:",
    b"\x1b",
    b"\x1b[",
    b"\x1b]0;",
    b"\x1bP",
    b"\x1b\\",
    b"\x07",
    b"m",
    b"31;",
    b"\xc2\x9b",
    b"\xc2\x9c",
    b"\r",
    b"\xe2\x80\xae",
];

/// The input with one to four mutations, some of which copy a part of another input.
pub fn mutate(input: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let len = chance.below(16).min(bytes.len() - at);
        match chance.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 if at < bytes.len() => bytes[at] = chance.number() as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + len)),
            5 => {
                let piece = PIECES[chance.below(PIECES.len())];
                let end = match chance.below(2) {
                    0 => at,
                    _ => (at + piece.len()).min(bytes.len()),
                };
                bytes.splice(at..end, piece.iter().copied());
            }
            6 if !other.is_empty() => {
                let from = chance.below(other.len());
                let to = from + chance.below(64).min(other.len() - from);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let copy = bytes[at..at + len].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}
