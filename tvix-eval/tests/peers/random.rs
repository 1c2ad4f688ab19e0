//! Deterministic random cases.

pub use tvix_test_support::random::Random;

/// The random numbers of a run.
#[allow(dead_code, reason = "not all tests use it")]
pub fn random() -> Random {
    let seed = std::env::var("TVIX_PEER_SEED").ok();
    Random::new(seed.and_then(|s| s.parse().ok()).unwrap_or(1))
}

/// Number of cases to run.
#[allow(dead_code, reason = "not all tests use it")]
pub fn cases() -> usize {
    let set = std::env::var("TVIX_PEER_CASES").ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(300)
}
