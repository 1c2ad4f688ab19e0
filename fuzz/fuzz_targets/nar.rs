//! See `tests/tests/fuzz/checks/nar.rs`.

#![no_main]

#[path = "../../tests/tests/fuzz/checks/nar.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
