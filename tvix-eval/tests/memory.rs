//! The memory that evaluations take beside what their limit allows, with an allocator that counts.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::fs;

use tvix_eval::limits::CountingAllocator;
use tvix_eval::{Limits, NixEvaluator};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator::new(System);

const MIB: usize = 1 << 20;
const LIMIT: usize = 48 * MIB;

/// Peak memory above the limit that is no fault: a quarter for what is allocated between two looks at the limit,
/// and for stacks and expressions.
const BESIDE: usize = 20 * MIB;

/// A field of `/proc/self/status` in bytes.
fn status(field: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let size = line.unwrap().trim_matches([':', ' ', '\t', 'k', 'B']);
    size.parse::<usize>().unwrap() << 10
}

/// The result of an expression within the limit, and by how much memory grew meanwhile, at most.
fn outcome(text: &str) -> (Result<i64, String>, usize) {
    // The peak begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let limits = Limits::default().with_memory(LIMIT);
    let nix = NixEvaluator::default().with_limits(limits);
    let result = nix.eval_to::<i64>(text).map_err(|error| error.to_string());
    (result, status("VmHWM").saturating_sub(before))
}

/// Builtins that make large values, or take memory on the way to small ones, without calling functions.
#[test]
fn builtins_stay_within_the_limit() {
    let cases = [
        "builtins.length (builtins.genList (x: x) 1500000)",
        "builtins.deepSeq (builtins.genList (x: x) 1500000) 1",
        "builtins.length (builtins.map (x: x) (builtins.genList (x: x) 1000000))",
        r#"builtins.length (builtins.fromJSON ("[" + builtins.concatStringsSep "," (builtins.genList (x: "1") 2500000) + "]"))"#,
        r#"builtins.length (builtins.fromJSON ("[" + builtins.concatStringsSep "," (builtins.genList (x: "{\"a\":[1]}") 400000) + "]"))"#,
        r#"builtins.length (builtins.attrNames (builtins.fromTOML (builtins.concatStringsSep "" (builtins.genList (x: "[t${toString x}]\na=1\n") 100000))))"#,
        r#"builtins.length (builtins.fromTOML ("a=[" + builtins.concatStringsSep "," (builtins.genList (x: "{}") 800000) + "]")).a"#,
        r#"builtins.length (builtins.split "(a)" (builtins.concatStringsSep "" (builtins.genList (x: "a") 500000)))"#,
        r#"if builtins.match "((a|b)*)*c" (builtins.concatStringsSep "" (builtins.genList (x: "ab") 500000)) == null then 1 else 2"#,
        r#"builtins.stringLength (builtins.replaceStrings [ "a" ] [ (builtins.concatStringsSep "" (builtins.genList (x: "b") 500)) ] (builtins.concatStringsSep "" (builtins.genList (x: "a") 300000)))"#,
        r#"builtins.stringLength (builtins.concatStringsSep "0123456789" (builtins.genList (x: "0123456789") 4000000))"#,
        "builtins.length (builtins.sort builtins.lessThan (builtins.genList (x: 0 - x) 700000))",
        r#"builtins.length (builtins.attrNames (builtins.listToAttrs (builtins.genList (x: { name = "k${toString x}"; value = x; }) 200000)))"#,
        r#"builtins.length (builtins.attrNames (builtins.groupBy (x: toString x) (builtins.genList (x: x) 200000)))"#,
        "builtins.stringLength (builtins.toJSON (builtins.genList (x: x) 700000))",
        "builtins.stringLength (builtins.toXML (builtins.genList (x: x) 500000))",
        "builtins.length (builtins.filter (x: x != 1) (builtins.genList (x: x) 900000))",
        "builtins.length (builtins.concatMap (x: [ x x x x ]) (builtins.genList (x: x) 500000))",
        "builtins.length (builtins.partition (x: x == 1) (builtins.genList (x: x) 900000)).wrong",
        "builtins.length (builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; })",
        "let f = l: if builtins.length l > 100000000 then builtins.length l else f (l ++ l); in f [ 1 ]",
        "let f = s: if builtins.stringLength s > 1000000000 then 1 else f (s + s); in f \"a\"",
    ];
    let mut too_much = Vec::new();
    for case in cases {
        let (result, grown) = outcome(case);
        if let Err(error) = &result {
            let is_limit = error.contains("evaluation used more than 50331648 bytes of memory")
                && error.contains("--max-eval-memory");
            assert!(is_limit, "{case}: {error}");
        }
        if grown > LIMIT + BESIDE {
            too_much.push(format!("{} MiB, {result:?}: {case}", grown / MIB));
        }
    }
    assert!(too_much.is_empty(), "{}", too_much.join("\n"));
    // What was garbage before a builtin does not count against it.
    let text = "builtins.foldl' (sum: x: sum + builtins.length (builtins.genList (y: y) 500000)) 0 \
                (builtins.genList (x: x) 20)";
    let (result, _) = outcome(text);
    assert_eq!(result, Ok(10_000_000));
    results_do_not_depend_on_the_limit();
    more_memory_is_never_too_little();
}

/// The result of an expression with a limit in bytes.
fn within(limit: usize, text: &str) -> Result<i64, String> {
    let limits = Limits::default().with_memory(limit);
    let nix = NixEvaluator::default().with_limits(limits);
    nix.eval_to::<i64>(text).map_err(|error| error.to_string())
}

/// A collection that makes room for a builtin keeps the values that it has so far.
fn results_do_not_depend_on_the_limit() {
    let text = r#"
        let
          text = builtins.concatStringsSep "," (builtins.genList toString 50000);
          parts = builtins.split "(,)" text;
        in builtins.seq text (builtins.seq (builtins.length (builtins.genList (x: x) 50000))
          (builtins.seq parts (builtins.stringLength (builtins.concatStringsSep ""
            (builtins.filter builtins.isString parts)))))
    "#;
    let mut successes = 0;
    for limit in (10..40).step_by(2) {
        match within(limit * MIB, text) {
            Ok(length) => {
                assert_eq!(length, 238_890, "{limit} MiB");
                successes += 1;
            }
            Err(error) => assert!(error.contains("bytes of memory"), "{limit} MiB: {error}"),
        }
    }
    assert!(successes > 3);
}

/// Garbage of the functions that a builtin calls does not count against it. Words of stacks that are not in use any
/// more may hold a few values, so limits just above the least one that suffices may be too little.
fn more_memory_is_never_too_little() {
    let text = r#"
        let
          entry = i: { name = "k${toString i}"; value = i; };
          base = builtins.listToAttrs (builtins.genList entry 50000);
          set = i: base // { x = i; };
          step = i:
            let a = set i; b = set i; c = set i; d = set i;
            in a.x + b.x + c.x + d.x >= 0 && a == b && c == d;
        in if base.k1 == 1 && builtins.all step (builtins.genList (x: x) 12) then 1 else 0
    "#;
    let limits: Vec<usize> = (12..40).collect();
    let results = limits.iter().map(|limit| within(limit * MIB, text));
    let results: Vec<_> = results.collect();
    let first = limits[results.iter().position(Result::is_ok).unwrap()];
    let enough = first * 13 / 10;
    assert!(enough < 30, "{first}");
    for (limit, result) in limits.iter().zip(&results) {
        let too_little = *limit >= enough && result.is_err();
        assert!(
            !too_little,
            "{first} MiB are enough, {limit} are not: {result:?}"
        );
    }
}
