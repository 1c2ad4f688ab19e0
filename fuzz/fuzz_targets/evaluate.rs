//! The evaluator on any text: it ends within its limits and does not panic.
//!
//!     fuzz/seeds.sh cargo +nightly fuzz run evaluate -- -dict=fuzz/nix.dict -timeout=10 -rss_limit_mb=1024

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tvix_fuzz::evaluate(input));
