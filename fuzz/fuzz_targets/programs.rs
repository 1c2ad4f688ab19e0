//! The evaluator on nearly correct programs that are generated from the input: it ends within its
//! limits and does not panic. `TVIX_SHOW=1` prints the programs.
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
