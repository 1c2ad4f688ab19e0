//! See `tests/tests/fuzz/checks/machines.rs`.

#![no_main]

#[path = "../../tests/tests/fuzz/checks/machines.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
