//! See `tests/tests/fuzz/checks/worker_answers.rs`.

#![no_main]

#[path = "../../tests/tests/fuzz/checks/worker_answers.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
