//! See `tests/tests/fuzz/checks/store_path.rs`.

#![no_main]

#[path = "../../tests/tests/fuzz/checks/store_path.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
