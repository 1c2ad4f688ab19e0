//! The choices of the fuzzer.

/// Takes choices from bytes; the first alternative once the bytes are used up.
pub struct Random(std::vec::IntoIter<u8>);

impl Random {
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec().into_iter())
    }

    fn byte(&mut self) -> usize {
        self.0.next().unwrap_or_default().into()
    }

    pub fn below(&mut self, bound: usize) -> usize {
        let number = match bound {
            ..=256 => self.byte(),
            _ => self.byte() << 8 | self.byte(),
        };
        number % bound
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }
}
