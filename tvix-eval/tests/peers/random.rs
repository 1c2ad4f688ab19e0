//! Deterministic random cases.

/// SplitMix64.
pub struct Random(u64);

#[allow(dead_code, reason = "not all tests use all")]
impl Random {
    pub fn new() -> Self {
        let seed = std::env::var("TVIX_PEER_SEED").ok();
        Self::of(seed.and_then(|s| s.parse().ok()).unwrap_or(1))
    }

    /// The numbers of a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }
}

/// Number of cases to run.
#[allow(dead_code, reason = "not all tests use it")]
pub fn cases() -> usize {
    let set = std::env::var("TVIX_PEER_CASES").ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(300)
}
