//! The parser, compared with `nix-instantiate --parse`.
//!
//! `PARSE_TREES` may name further files and directories to compare.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bstr::{BString, ByteSlice};
use tvix_eval::heap::Heap;
use tvix_eval::internals::Sources;
use tvix_eval::internals::Symbols;
use tvix_eval::internals::syntax::{Context, Home, Scope, parse_unresolved, print_older};
use tvix_eval::source::Origin;

/// The result of this parser.
fn ours(text: &[u8], base: &Path) -> Result<BString, String> {
    let heap = Heap::new();
    let symbols = Symbols::new(&heap);
    let sources = Sources::default();
    let source = sources
        .add(Origin::Text, heap.copy_text(text))
        .expect("texts are small");
    let scope = Scope::new();
    let cx = Context {
        heap: &heap,
        symbols: &symbols,
        base: base.as_os_str().as_bytes(),
        home: Home::At(b"/homeless-shelter"),
        scope: &scope,
        depth_limit: 5_000,
        warn: &|_| {},
    };
    match parse_unresolved(&cx, source) {
        Ok(expr) => Ok(print_older(&symbols, expr).into()),
        Err(error) => {
            let place = sources.place(error.pos).expect("errors have places");
            Err(format!("{error} at {}:{}", place.line, place.column))
        }
    }
}

/// The result of C++ Nix.
fn theirs(file: &Path) -> Result<BString, String> {
    let output = Command::new("nix-instantiate")
        .arg("--parse")
        .arg(file)
        .env("HOME", "/homeless-shelter")
        .env("NIX_STORE_DIR", "/nix/store")
        .output()
        .expect("nix-instantiate runs");
    if output.status.success() {
        Ok(output.stdout.trim_end_with(|c| c == '\n').into())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Normalises printed trees, because the installed Nix may be older than the one that this parser
/// follows: 2.8 orders names by address, does not print `inherit (set)`, and keeps empty strings.
/// Printed trees are texts with parentheses around everything, so both are parsed again; empty
/// strings are omitted.
fn normal(printed: &[u8], base: &Path) -> BString {
    let mut text = Vec::new();
    let mut rest = printed;
    while let Some(byte) = rest.first() {
        let before = text.last() != Some(&b'\\') && rest.starts_with(b"\"\" + ");
        if before || rest.starts_with(b" + \"\"") {
            rest = &rest[5..];
        } else {
            text.push(*byte);
            rest = &rest[1..];
        }
    }
    match ours(&text, base) {
        Ok(text) => text,
        // Assertions are printed without parentheses, so that some cannot be parsed again.
        Err(_) => {
            text.sort_unstable();
            text.into()
        }
    }
}

/// Compares a file. Returns the difference, if there is one.
fn compare(file: &Path) -> Option<String> {
    let text = std::fs::read(file).expect("the file is there");
    let base = file.parent().expect("files are in folders");
    let ours = ours(&text, base).map(|text| normal(&text, base));
    let theirs = theirs(file).map(|text| normal(&text, base));
    match (&ours, &theirs) {
        (Ok(a), Ok(b)) if a == b => None,
        (Ok(a), Ok(b)) => {
            let at = a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count();
            let from = at.saturating_sub(80);
            let piece = |text: &BString| BString::from(&text[from..text.len().min(at + 80)]);
            Some(format!(
                "{}:\n  ours:   {}\n  theirs: {}",
                file.display(),
                piece(a),
                piece(b)
            ))
        }
        (Err(_), Err(_)) => None,
        _ => Some(format!(
            "{}:\n  ours:   {ours:?}\n  theirs: {theirs:?}",
            file.display()
        )),
    }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut entries: Vec<_> = std::fs::read_dir(path)
            .expect("the folder is there")
            .map(|entry| entry.expect("its entries can be read").path())
            .collect();
        entries.sort();
        for entry in entries {
            collect(&entry, files);
        }
    } else if path.is_file() && path.extension() == Some(OsStr::new("nix")) {
        files.push(path.to_owned());
    }
}

fn check(files: &[PathBuf]) {
    let differing: Vec<_> = files.iter().filter_map(|file| compare(file)).collect();
    assert!(
        differing.is_empty(),
        "{} of {} differ:\n{}",
        differing.len(),
        files.len(),
        differing.join("\n")
    );
}

/// Invalid texts, without formals, because their grammar differs in 2.8.
const WRONG: &[&str] = &[
    r#"{ a ; }"#,
    r#"{ a 1; }"#,
    r#"{ ; }"#,
    r#"{ a = 1 }"#,
    r#"a: b: ;"#,
    r#""abc"#,
    r#"''abc"#,
    r#"[ 1 ; ]"#,
    r#"1 +"#,
    r#"1 + ;"#,
    r#"{ a, b }"#,
    r#"{ a, b } a"#,
    r#"{ a, ..., b }: 1"#,
    r#"{ ..., b }: 1"#,
    r#"(1"#,
    r#"(1 ;"#,
    r#"let a = 1; 2"#,
    r#"let a = 1; in"#,
    r#"let a 1; in 2"#,
    r#"let 1"#,
    r#"if 1 2"#,
    r#"if 1 then 2"#,
    r#"if 1 then 2 els 3"#,
    r#"with a b"#,
    r#"assert a b"#,
    r#"rec 1"#,
    r#"{ inherit 1; }"#,
    r#"{ inherit (a; }"#,
    r#"{ inherit ( a ) 1; }"#,
    r#"{ a.b 1; }"#,
    r#""a${1""#,
    r#""a${1;}""#,
    r#"{ "a" ; }"#,
    r#"{ ${"a"} ; }"#,
    r#"{ "a" }: 1"#,
    r#"x@1: 1"#,
    r#"x@{ a }"#,
    r#"{ a }@1: 1"#,
    r#"{ a } @ b c"#,
    r#") "#,
    r#"1 )"#,
    r#"a.b or"#,
    r#"or"#,
    r#"f let a = 1; in a"#,
    r#"a b: c"#,
    r#"1 == 2 == 3"#,
    r#"./a/"#,
    r#"./a//b"#,
    r#"^"#,
    r#"{ a = 1; "#,
    r#"{ a = 1; } }"#,
    r#"let { a = 1; "#,
    r#"let { a = 1; in"#,
    r#"rec { a }"#,
    r#"rec { a, b }: 1"#,
    r#"[ { a, b }: 1 ]"#,
    r#"{ } : : 1"#,
    r#"x: "#,
    r#"{ a.b }: 1"#,
    r#"{ or }: 1"#,
];

/// Names of tokens in 2.8, and now.
const TOKENS: &[(&str, &str)] = &[
    ("IND_STRING_CLOSE", "end of an indented string"),
    ("IND_STR", "indented string"),
    ("DOLLAR_CURLY", "'${'"),
    ("PATH_END", "end of path"),
    ("OR_KW", "'or'"),
    ("INT", "integer"),
    ("ID", "identifier"),
    ("THEN", "'then'"),
    ("ELSE", "'else'"),
    ("EQ", "'=='"),
    (" IN", " 'in'"),
];

#[test]
fn messages() {
    let mut differing = Vec::new();
    for text in WRONG {
        let ours = ours(text.as_bytes(), Path::new("/"));
        let ours = ours.expect_err("the text is wrong");
        let output = Command::new("nix-instantiate")
            .args(["--parse", "-E", text])
            .output()
            .expect("nix-instantiate runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = errors.lines().find_map(|line| line.strip_prefix("error: "));
        let mut theirs = line.unwrap_or_default().to_owned();
        for (old, new) in TOKENS {
            theirs = theirs.replace(old, new);
        }
        // 2.34 lists the expected tokens in more cases; the recorded cases of the language cover
        // this.
        let whole = ours.starts_with(&format!("{theirs} at "));
        let unexpected =
            !theirs.contains(", expecting") && ours.starts_with(&format!("{theirs}, expecting "));
        if !whole && !unexpected {
            differing.push(format!("{text}\n  ours:   {ours}\n  theirs: {theirs}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn corpus() {
    let mut files = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/parse");
    collect(&folder, &mut files);
    assert!(!files.is_empty());
    check(&files);
}

#[test]
fn trees() {
    let mut files = Vec::new();
    for path in std::env::var("PARSE_TREES").unwrap_or_default().split(':') {
        if !path.is_empty() {
            collect(Path::new(path), &mut files);
        }
    }
    check(&files);
}
