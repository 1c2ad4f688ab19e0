//! The checks of the fuzz targets for formats, on corpora and on mutated inputs: deterministic,
//! TVIX_FUZZ_RUNS runs per target (default: 2,000).
//!
//! `fuzz/` runs the same checks with a coverage-guided fuzzer. Its findings are kept in
//! `corpus/<target>/` here, as regression tests.
#![allow(clippy::unwrap_used)]

mod checks {
    pub mod aterm;
    pub mod database;
    pub mod decode;
    pub mod machines;
    pub mod nar;
    pub mod narinfo;
    pub mod signature;
    pub mod store_path;
    pub mod terminal;
    pub mod worker_answers;
    pub mod worker_requests;
}
mod memory;
mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use mutate::{Chance, mutate};

/// Goldens are valid inputs, and exist for most formats.
const GOLDENS: &str = "../nix-compat/tests/goldens";

/// Maximum size of a single allocation while processing such inputs, in bytes.
const MOST: usize = 64 << 20;

fn corpus(name: &str, goldens: &[&str], extension: &str) -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let own = here.join("tests/fuzz/corpus").join(name);
    let goldens = goldens.iter().map(|folder| here.join(GOLDENS).join(folder));
    for (folder, extension) in goldens.map(|it| (it, extension)).chain([(own, "")]) {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.to_str().unwrap().ends_with(extension) {
                files.push(file);
            }
        }
    }
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() > 2, "{name} has a corpus");
    corpus
}

/// Runs a check on a corpus and on mutations of it.
fn fuzz(name: &str, corpus: &[Vec<u8>], factor: usize, check: fn(&[u8])) {
    let runs = std::env::var("TVIX_FUZZ_RUNS").map_or(2000, |text| text.parse().unwrap());
    let mut chance = Chance::new(0x7476_6978);
    let mut made = corpus.to_vec();
    for run in 0..corpus.len() + runs / factor {
        let input = match corpus.get(run) {
            Some(input) => input.clone(),
            None => {
                let (one, other) = (chance.below(made.len()), chance.below(made.len()));
                let input = mutate(&made[one], &made[other], &mut chance);
                // Some inputs are mutated repeatedly.
                if chance.below(8) == 0 && input.len() < 1 << 16 {
                    let at = corpus.len() + chance.below(256);
                    match made.get_mut(at) {
                        Some(old) => *old = input.clone(),
                        None => made.push(input.clone()),
                    }
                }
                input
            }
        };
        memory::forget();
        let result = catch_unwind(AssertUnwindSafe(|| check(&input)));
        let largest = memory::largest();
        if result.is_err() || largest > MOST {
            let file = std::env::temp_dir().join(format!("tvix-fuzz-{name}-{run}"));
            fs::write(&file, &input).unwrap();
            eprintln!(
                "{name}: run {run}, {largest} bytes at once: {}",
                file.display()
            );
            result.unwrap_or_else(|panic| resume_unwind(panic));
            panic!("{largest} bytes at once");
        }
    }
}

#[test]
fn nar() {
    fuzz(
        "nar",
        &corpus("nar", &["nar"], ".nar"),
        1,
        checks::nar::check,
    );
}

#[test]
fn aterm() {
    let corpus = corpus("aterm", &["derivations"], ".drv");
    fuzz("aterm", &corpus, 1, checks::aterm::check);
}

#[test]
fn narinfo() {
    let folders = [
        "narinfo/xz",
        "narinfo/none",
        "narinfo/bzip2",
        "narinfo/zstd",
    ];
    let corpus = corpus("narinfo", &folders, ".narinfo");
    fuzz("narinfo", &corpus, 1, checks::narinfo::check);
}

#[test]
fn store_path() {
    let corpus = corpus("store_path", &[], "");
    fuzz("store_path", &corpus, 1, checks::store_path::check);
}

#[test]
fn signature() {
    let corpus = [
        corpus("signature", &["narinfo"], ".public"),
        corpus("signature", &["narinfo"], ".secret"),
    ];
    fuzz("signature", &corpus.concat(), 1, checks::signature::check);
}

#[test]
fn machines() {
    let corpus = corpus("machines", &[], "");
    fuzz("machines", &corpus, 1, checks::machines::check);
}

/// Each input is decoded several times.
#[test]
fn decode() {
    let corpus = corpus("decode", &[], "");
    fuzz("decode", &corpus, 2, checks::decode::check);
}

#[test]
fn terminal() {
    let corpus = corpus("terminal", &[], "");
    fuzz("terminal", &corpus, 1, checks::terminal::check);
}

/// Each input is a file on disk.
#[test]
fn database() {
    let corpus = corpus("database", &[], "");
    fuzz("database", &corpus, 4, checks::database::check);
}

/// Tests the checks themselves: a failed check and a large allocation are detected.
#[test]
fn a_check_that_fails_and_one_that_takes_memory_are_seen() {
    let corpus = vec![vec![1; 10], vec![2; 10], vec![3; 10]];
    let fails: fn(&[u8]) = |input| assert!(!input.starts_with(&[3]), "on purpose");
    let takes: fn(&[u8]) = |input| {
        let size = if input.starts_with(&[2]) { MOST + 1 } else { 1 };
        std::hint::black_box(Vec::<u8>::with_capacity(size));
    };
    for check in [fails, takes] {
        assert!(catch_unwind(|| fuzz("purpose", &corpus, 1, check)).is_err());
    }
}

/// Recorded sessions of real clients and daemons: the messages of each side.
fn sessions() -> Vec<[Vec<u8>; 2]> {
    let goldens =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mechanisms/worker-protocol/tests/goldens");
    let mut sessions = Vec::new();
    for version in ["2.8.0", "2.34.8"] {
        for entry in fs::read_dir(goldens.join(version)).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|it| it == "client") {
                let daemon = fs::read(file.with_extension("daemon")).unwrap();
                sessions.push([fs::read(&file).unwrap(), daemon]);
            }
        }
    }
    sessions.sort();
    assert!(sessions.len() > 40);
    sessions
}

#[test]
fn worker_requests() {
    let mut corpus = corpus("worker_requests", &[], "");
    corpus.extend(sessions().into_iter().map(|[client, _]| client));
    fuzz(
        "worker_requests",
        &corpus,
        1,
        checks::worker_requests::check,
    );
}

#[test]
fn worker_answers() {
    let mut corpus = corpus("worker_answers", &[], "");
    corpus.extend(sessions().into_iter().map(|[client, daemon]| {
        let asked = operations(&client);
        let mut input = vec![asked.len() as u8];
        input.extend(asked);
        input.extend(daemon);
        input
    }));
    fuzz("worker_answers", &corpus, 1, checks::worker_answers::check);
}

/// The operations in the messages of a client, as indices.
fn operations(client: &[u8]) -> Vec<u8> {
    use tvix_worker_protocol::{Decoder, FrameDecoder, Operation, Request, ServerHandshake};
    let mut handshake = ServerHandshake::new(Default::default(), "");
    let (mut at, context) = handshake.feed(client).unwrap();
    let (context, mut asked) = (context.unwrap(), Vec::new());
    while at < client.len() {
        let (taken, request) = Decoder::<Request>::new()
            .feed(&client[at..], &context)
            .unwrap();
        at += taken;
        let operation = request.unwrap().operation();
        let index = Operation::ALL.iter().position(|it| *it == operation);
        asked.push(index.unwrap() as u8);
        let mut frames = FrameDecoder::new();
        while operation.has_stream() && !frames.is_ended() {
            at += frames.feed(&client[at..]).0;
        }
    }
    asked.truncate(255);
    asked
}
