//! The evaluator on programs that are nearly right, each made of the bytes: an end within its limits, and no panic. `TVIX_SHOW=1`
//! prints them.
//!
//!     cargo +nightly fuzz run programs -- -timeout=10 -rss_limit_mb=1024

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let program = tvix_fuzz::program(input);
    if std::env::var_os("TVIX_SHOW").is_some() {
        eprintln!("{program}");
    }
    tvix_fuzz::evaluate(program.as_bytes());
});
