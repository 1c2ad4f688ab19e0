//! Throughput of parsing and resolving Nix texts, and the size of the expressions.
//!
//! `cargo run --release -p tvix-benches --bin parse_rate -- [--rounds N] FILE_OR_FOLDER…`
//!
//! All texts are read first. Each round parses all of them into a heap of its own; the best round
//! is printed. Invalid texts are counted, and listed with `--errors`.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tvix_eval::heap::Heap;
use tvix_eval::internals::Sources;
use tvix_eval::internals::Symbols;
use tvix_eval::internals::syntax::{Context, Home, Scope, parse};
use tvix_eval::source::Origin;
use tvix_eval::value::{Slot, Value};

/// The builtins that are global variables; the others have names with two leading underscores.
const GLOBAL: &str = "abort baseNameOf break builtins derivation derivationStrict dirOf false \
    fetchGit fetchMercurial fetchTarball fetchTree fromTOML import isNull map null placeholder \
    removeAttrs scopedImport throw toString true";
const OTHER: &str = "seq deepSeq tryEval addErrorContext trace traceVerbose warn typeOf isAttrs \
    isBool isFloat isFunction isInt isList isPath isString add sub mul div lessThan bitAnd bitOr \
    bitXor ceil floor all any concatLists concatMap elem elemAt filter foldl' genList \
    genericClosure groupBy head length partition sort tail attrNames attrValues catAttrs \
    functionArgs getAttr hasAttr intersectAttrs listToAttrs mapAttrs unsafeGetAttrPos zipAttrsWith \
    compareVersions concatStringsSep convertHash fromJSON hashString match parseDrvName \
    replaceStrings split splitVersion stringLength substring toPath toXML getContext hasContext \
    appendContext addDrvOutputDependencies unsafeDiscardOutputDependency \
    unsafeDiscardStringContext langVersion nixVersion storeDir currentSystem currentTime getEnv \
    nixPath toFile toJSON filterSource path storePath outputOf readFile readDir readFileType \
    pathExists hashFile findFile fetchurl fetchClosure getFlake parseFlakeRef flakeRefToString";

struct Text {
    path: PathBuf,
    text: Vec<u8>,
}

#[derive(Default)]
struct Round {
    time: Duration,
    heap: usize,
    names: usize,
    errors: Vec<String>,
}

fn main() {
    let mut rounds = 7;
    let mut show_errors = false;
    let mut texts = Vec::new();
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--errors") => show_errors = true,
            Some("--rounds") => {
                let count = args.next().and_then(|n| n.to_str()?.parse().ok());
                rounds = count.expect("--rounds wants a number");
            }
            _ => collect(Path::new(&arg), &mut texts),
        }
    }
    let bytes: usize = texts.iter().map(|text| text.text.len()).sum();
    let mut best = round(&texts);
    for _ in 1..rounds {
        let next = round(&texts);
        if next.time < best.time {
            best = next;
        }
    }
    let size = bytes as f64;
    println!(
        "{} texts, {:.2} MB: {:.1} ms, {:.1} MB/s; {:.2} bytes a source byte; {} names; {} errors",
        texts.len(),
        size / 1e6,
        best.time.as_secs_f64() * 1e3,
        size / 1e6 / best.time.as_secs_f64(),
        best.heap as f64 / size,
        best.names,
        best.errors.len(),
    );
    if show_errors {
        for error in best.errors {
            println!("{error}");
        }
    }
}

fn collect(path: &Path, texts: &mut Vec<Text>) {
    let Ok(kind) = path.symlink_metadata() else {
        return;
    };
    if kind.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            collect(&path, texts);
        }
    } else if kind.is_file()
        && path.extension() == Some(OsStr::new("nix"))
        && let Ok(text) = std::fs::read(path)
    {
        let path = path.to_owned();
        texts.push(Text { path, text });
    }
}

fn round(texts: &[Text]) -> Round {
    let heap = Heap::new();
    let symbols = Symbols::new(&heap);
    let sources = Sources::default();
    let mut scope = Scope::new();
    let value: &Slot<'_> = Box::leak(Box::new(Slot::new(Value::Null)));
    for name in GLOBAL.split_ascii_whitespace() {
        scope.insert(symbols.intern(name.as_bytes()), value);
    }
    for name in OTHER.split_ascii_whitespace() {
        scope.insert(symbols.intern(format!("__{name}").as_bytes()), value);
    }
    let mut round = Round::default();
    for text in texts {
        let folder = text.path.parent().unwrap_or(Path::new("/"));
        let base = folder.to_owned().into_os_string().into_vec();
        let origin = Origin::File(heap.copy_text(text.path.as_os_str().as_bytes()));
        // The text itself is not part of the expression.
        let Some(source) = sources.add(origin, heap.copy_text(&text.text)) else {
            continue;
        };
        let before = heap.used_bytes();
        let context = Context {
            heap: &heap,
            symbols: &symbols,
            base: &base,
            home: Home::At(b"/home"),
            scope: &scope,
            depth_limit: 5_000,
            warn: &|_| {},
        };
        let start = Instant::now();
        let parsed = parse(&context, source);
        round.time += start.elapsed();
        round.heap += heap.used_bytes() - before;
        if let Err(error) = parsed {
            let place = sources.place(error.pos);
            let (line, column) = place.map_or((0, 0), |place| (place.line, place.column));
            let path = text.path.display();
            round
                .errors
                .push(format!("{path}:{line}:{column}: {error}"));
        }
    }
    round.names = symbols.len();
    round
}
