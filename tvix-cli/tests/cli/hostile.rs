//! Programs that would exhaust memory, each evaluated in a process of its own with its peak measured.
//!
//! `--nocapture` prints the figures. Each of these programs takes more than the gibibyte, or is killed, without the limit that its line names.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

const GIB: i64 = 1 << 30;

/// Programs and their errors.
const PROGRAMS: &[(&str, &str)] = &[
    // `Limits::depth`.
    ("(x: x x) (x: x x)", "stack overflow"),
    ("let f = x: 1 + f x; in f 1", "stack overflow"),
    (
        "let f = x: { a = f x; }; in builtins.toJSON (f 1)",
        "stack overflow",
    ),
    ("let f = n: [ (f (n + 1)) ]; in f 0", "stack overflow"),
    (
        "let s = { inherit s; }; in builtins.toXML s",
        "for one value",
    ),
    (
        "let l = builtins.foldl' (a: b: { x = a; }) { } (builtins.genList (x: x) 100000); in builtins.toXML l",
        "for one value",
    ),
    // `make_room` in genList, map, `++`, concatLists, concatMap, zipAttrsWith.
    ("builtins.genList (x: x) 1000000000", "for one value"),
    ("let f = x: f (x ++ x); in f [ 1 ]", "stack overflow"),
    (
        "builtins.foldl' (a: b: a ++ a) [ 1 ] (builtins.genList (x: x) 100)",
        "for one value",
    ),
    (
        "let l = builtins.genList (y: y) 100000; in builtins.concatLists (builtins.genList (x: l) 1000)",
        "for one value",
    ),
    (
        "let l = builtins.genList (y: y) 100000; in builtins.concatMap (x: l) l",
        "for one value",
    ),
    (
        "builtins.zipAttrsWith (n: v: v) (let l = builtins.genList (x: { a = 1; b = 2; c = 3; d = 4; }) 1000; in builtins.concatMap (x: l) (builtins.genList (x: x) 9000))",
        "for one value",
    ),
    // ... in `+`, interpolation, concatStringsSep, replaceStrings.
    (
        "builtins.foldl' (a: b: a + a) \"a\" (builtins.genList (x: x) 100)",
        "for one value",
    ),
    (
        "builtins.foldl' (a: b: \"${a}${a}\") \"a\" (builtins.genList (x: x) 100)",
        "for one value",
    ),
    (
        "let s = builtins.concatStringsSep \"\" (builtins.genList (x: \"ab\") 100000); in builtins.concatStringsSep s (builtins.genList (x: \"b\") 100000)",
        "for one value",
    ),
    (
        "let s = builtins.concatStringsSep \"\" (builtins.genList (x: \"ab\") 100000); in builtins.replaceStrings [ \"a\" ] [ s ] s",
        "for one value",
    ),
    // ... in what writes: a value that is small, but written out is not.
    (
        "builtins.toJSON (builtins.foldl' (a: b: [ a a ]) \"0123456789012345678901234567890123456789\" (builtins.genList (x: x) 60))",
        "for one value",
    ),
    (
        "builtins.toXML (builtins.foldl' (a: b: [ a a ]) \"0123456789012345678901234567890123456789\" (builtins.genList (x: x) 60))",
        "for one value",
    ),
    (
        "toString (builtins.foldl' (a: b: [ a a ]) \"0123456789012345678901234567890123456789\" (builtins.genList (x: x) 60))",
        "for one value",
    ),
];

/// The end of a process, its output, its peak memory in bytes and processor time in seconds.
#[expect(
    clippy::zombie_processes,
    reason = "wait4 waits for it, and tells what it used"
)]
fn measured(program: &str) -> (ExitStatus, String, i64, f64) {
    let mut child = super::plain()
        .args(["eval", "--strict", "-E", program])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    let mut status = 0;
    // SAFETY: both pointers are to variables that live until the call returns, of which any bytes are valid; the child was not waited for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let waited = libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage);
        assert_eq!(waited, child.id() as libc::pid_t);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let time = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    (
        ExitStatus::from_raw(status),
        said,
        usage.ru_maxrss * 1024,
        time,
    )
}

#[test]
fn greedy_programs_end_below_a_gibibyte() {
    let mut wrong = Vec::new();
    for (program, message) in PROGRAMS {
        let (status, said, peak, time) = measured(program);
        println!("{:>5} MiB {time:>5.2} s  {program}", peak >> 20);
        if status.code() != Some(1) || !said.contains(message) || peak > GIB {
            wrong.push(format!("{program}: {status}, {} MiB, {said}", peak >> 20));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_memory_of_an_evaluation_is_an_option() {
    let endless = "builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; }";
    let output = super::plain()
        .args(["eval", "--max-eval-memory", "64", "-E", endless])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("used more than 67108864 bytes of memory"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn more_memory_allows_larger_values() {
    let length = |limit: &str| {
        let list = "builtins.length (builtins.genList (x: x) 12000000)";
        let output = super::plain()
            .args(["eval", "--max-eval-memory", limit, "-E", list])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    assert_eq!(length("0"), "12000000\n");
    assert_eq!(length("2000"), "12000000\n");
    let said = length("200");
    assert!(said.contains("more than 268435456"), "{said}");
}
