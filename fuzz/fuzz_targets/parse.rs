//! The Nix parser on any input: neither parsing, nor printing and resolving a valid expression,
//! panics.
//!
//!     cargo +nightly fuzz run parse corpus/parse ../tvix-eval/tests/corpus/parse

#![no_main]

use libfuzzer_sys::fuzz_target;
use tvix_eval::heap::Heap;
use tvix_eval::internals::syntax::{Context, Scope, parse_unresolved, print, resolve};
use tvix_eval::internals::{Sources, Symbols};
use tvix_eval::source::Origin;

fuzz_target!(|input: &[u8]| {
    let heap = Heap::new();
    let symbols = Symbols::new(&heap);
    let sources = Sources::default();
    let text = heap.copy_text(input);
    let source = sources.add(Origin::Text, text).expect("inputs are small");
    let scope = Scope::new();
    let cx = Context {
        heap: &heap,
        symbols: &symbols,
        base: b"/base",
        home: Some(b"/home"),
        scope: &scope,
        depth_limit: 500,
        warn: &|_| {},
    };
    match parse_unresolved(&cx, source) {
        Ok(expr) => {
            print(&symbols, expr);
            if let Err(error) = resolve(&cx, expr) {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(error) => assert!(sources.place(error.pos).is_some(), "{error}"),
    }
});
