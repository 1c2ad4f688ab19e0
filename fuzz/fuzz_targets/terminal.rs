//! See `tests/tests/fuzz/checks/terminal.rs`.

#![no_main]

#[path = "../../tests/tests/fuzz/checks/terminal.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
