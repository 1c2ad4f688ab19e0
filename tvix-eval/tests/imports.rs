//! Imports side by side: random programs with a simulated builder, compared with their evaluation in
//! order.
//!
//! `TVIX_IMPORT_SEED` is the first seed, `TVIX_IMPORT_CASES` the number of seeds.

#[path = "imports/builder.rs"]
mod builder;
#[path = "imports/program.rs"]
mod program;

use std::cell::RefCell;
use std::rc::Rc;

use builder::Builder;
use program::{Program, Random};
use tvix_eval::Job;
use tvix_eval::error::Error;
use tvix_eval::heap::Heap;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::{ContextId, Ref, Value};
use tvix_eval::world::{Settings, World};

/// What an evaluation shows to its user, and the virtual time that it took.
struct Outcome {
    result: Result<String, String>,
    messages: Vec<String>,
    builder: Rc<Builder>,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Lazy,
    Strict,
    Json,
    Xml,
}

fn evaluate(text: &str, form: Form, show_trace: bool, slots: usize) -> Outcome {
    let mut settings = Settings::default();
    settings.show_trace = show_trace;
    settings.limits.depth = 1000;
    evaluate_with(settings, text, form, slots)
}

fn evaluate_with(mut settings: Settings, text: &str, form: Form, slots: usize) -> Outcome {
    let builder = Rc::new(Builder::new(slots));
    settings.system = "x".into();
    let heap = Heap::new();
    let world = World::new(settings, builder.files.clone(), builder.clone());
    let interp = Interp::new(&heap, world);
    let result = RefCell::new(None);
    let job: Job<'_, '_> = Box::new(|interp: &Interp<'_>| {
        let written = write(interp, text, form);
        *result.borrow_mut() = Some(written.map_err(|error| interp.render(&error)));
    });
    interp.run([job]).expect("every import is answered");
    let messages = builder.messages.take();
    Outcome {
        result: result.take().expect("the job has ended"),
        messages,
        builder,
    }
}

fn write(interp: &Interp<'_>, text: &str, form: Form) -> Result<String, Box<Error>> {
    let value = interp.eval_text(text.as_bytes(), b"/")?;
    let cell: Ref<'_> = interp.cell(value);
    let mut out = Vec::new();
    let mut context = ContextId::EMPTY;
    match form {
        Form::Lazy => interp.print(value, &mut out)?,
        Form::Strict => {
            interp.force_deep(cell, Pos::NONE)?;
            interp.print(value, &mut out)?;
        }
        Form::Json => interp.write_json(cell, Pos::NONE, true, &mut out, &mut context)?,
        Form::Xml => out = interp.to_xml(cell, Pos::NONE, true, true, &mut context)?,
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn variable(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn check(seed: u64) -> (u64, u64) {
    let mut random = Random::new(!seed);
    let text = Program::text(seed);
    let form = [Form::Lazy, Form::Strict, Form::Json, Form::Xml][random.below(4)];
    let show_trace = random.below(2) == 0;
    let slots = [1, 3, 1000][random.below(3)];
    let in_order = evaluate(&text, form, show_trace, 0);
    let outcome = evaluate(&text, form, show_trace, slots);
    let context = || format!("seed {seed}, {form:?}, {slots} builds at once:\n{text}");
    assert_eq!(outcome.result, in_order.result, "{}", context());
    assert_eq!(outcome.messages, in_order.messages, "{}", context());
    let alone = in_order.builder.work.get();
    let side_by_side = outcome.builder.now();
    if slots == 1000 {
        assert!(
            side_by_side <= alone,
            "{side_by_side} seconds, {alone} in order: {}",
            context()
        );
    }
    if outcome.result.is_ok() {
        let (built, needed) = (outcome.builder.ended.take(), in_order.builder.ended.take());
        assert!(built.is_superset(&needed), "{}", context());
    }
    (alone, side_by_side)
}

#[test]
fn random_programs_evaluate_as_in_order() {
    let first = variable("TVIX_IMPORT_SEED", 1);
    let cases = variable("TVIX_IMPORT_CASES", 300);
    let (mut alone, mut side_by_side) = (0, 0);
    for seed in first..first + cases {
        let (a, b) = check(seed);
        alone += a;
        side_by_side += b;
    }
    println!("{cases} programs: {alone} seconds of builds in order, {side_by_side} side by side");
}

/// Definitions for programs: `imp NAME TEXT` imports what a build of two seconds makes of a text.
fn with_imports(body: &str) -> String {
    format!(
        "let
           mk = name: text: derivation {{ inherit name text; secs = \"2\"; system = \"x\"; builder = \"b\"; }};
           failing = name: derivation {{ inherit name; fail = \"1\"; secs = \"2\"; system = \"x\"; builder = \"b\"; }};
           imp = name: text: import (mk name text);
           int = n: imp \"int${{toString n}}\" (toString n);
           text = n: imp \"text${{toString n}}\" \"''s${{toString n}}''\";
           list = n: imp \"list${{toString n}}\" \"[ ${{toString n}} ]\";
           set = n: imp \"set${{toString n}}\" \"{{ a${{toString n}} = 1; name = ''n${{toString n}}''; value = 1; key = ${{toString n}}; }}\";
           five = [ 1 2 3 4 5 ];
           from = start: builtins.genericClosure {{ startSet = [ {{ key = start; }} ]; operator = x: [ {{ key = x.key + 1; }} ]; }};
         in {body}"
    )
}

/// Evaluates a program that is to take so many seconds.
fn takes(seconds: u64, body: &str, form: Form) -> Outcome {
    let text = with_imports(body);
    let outcome = evaluate(&text, form, false, 1000);
    let in_order = evaluate(&text, form, false, 0);
    assert_eq!(outcome.result, in_order.result, "{body}");
    assert_eq!(outcome.messages, in_order.messages, "{body}");
    assert_eq!(
        outcome.builder.now(),
        seconds,
        "{body}: {:?}",
        outcome.result
    );
    outcome
}

#[test]
fn whatever_forces_several_values_imports_them_side_by_side() {
    for body in [
        "map int five",
        "builtins.listToAttrs (map (n: { name = toString n; value = int n; }) five)",
        "[ { a = int 1; b = [ (int 2) { c = int 3; } ]; } (int 4) (map int [ 5 6 ]) ]",
    ] {
        takes(2, body, Form::Strict);
        takes(2, body, Form::Json);
    }
    for body in ["map int five", "{ a = int 1; b = text 2; }"] {
        takes(2, body, Form::Xml);
    }
    for body in [
        // Derivations.
        "(derivation { name = \"n\"; system = \"x\"; builder = \"b\"; a = int 1; b = map int [ 2 3 ]; c = [ [ (text 4) ] ]; args = map text [ 5 6 ]; }).drvPath",
        "(derivation { name = \"n\"; system = \"x\"; builder = \"b\"; __structuredAttrs = true; a = int 1; b = map int [ 2 3 ]; c = { d = text 4; }; }).drvPath",
        "(derivation { name = \"n\"; system = \"x\"; builder = \"b\"; inputs = map (n: derivation { name = \"n\"; system = \"x\"; builder = \"b\"; a = int n; }) five; }).drvPath",
        // Strings.
        "\"${text 1}-${text 2}-${toString (int 3)}-${text 4}-${text 5}\"",
        "\"${text 1}-${text 2}-${text 3}-${text 4}-${text 5}-${text 6}-${text 7}-${text 8}-${text 9}\"",
        "\"${{ outPath = text 1; }}-${text 2}\"",
        "text 1 + text 2 + text 3 + text 4",
        "builtins.concatStringsSep \",\" (map text five)",
        "toString [ (text 1) [ (text 2) (int 3) ] ]",
        "builtins.toJSON { a = int 1; b = [ (int 2) { c = int 3; } ]; }",
        "builtins.toXML [ (int 1) (int 2) ]",
        "builtins.replaceStrings (map text [ 1 2 ]) [ \"a\" \"b\" ] \"s1\"",
        // Operators and arguments.
        "int 1 + int 2 * int 3 - int 4",
        "list 1 ++ list 2 ++ list 3 ++ list 4 ++ list 5",
        "set 1 // set 2 // set 3",
        "int 1 == int 2",
        "int 1 < int 2",
        "int 1 >= int 2",
        "builtins.add (int 1) (int 2)",
        "builtins.substring (int 0) (int 2) (text 3)",
        "builtins.seq (int 1) (int 2)",
        "builtins.deepSeq [ (int 1) { a = int 2; } ] (int 3)",
        "{ ${text 1} = 1; ${text 2} = 2; }",
        // Lists and sets.
        "builtins.length (builtins.concatLists (map list five))",
        "builtins.length (builtins.concatMap list five)",
        "builtins.length (builtins.filter (n: int n > 2) five)",
        "builtins.length (builtins.sort builtins.lessThan (map int five))",
        "builtins.length (builtins.sort (a: b: a < b) (map int five))",
        "builtins.attrNames (builtins.groupBy text five)",
        "builtins.attrNames (builtins.partition (n: n > 2) (map int five))",
        "builtins.attrNames (builtins.listToAttrs (map set five))",
        "builtins.length (builtins.catAttrs \"value\" (map set five))",
        "builtins.attrNames (builtins.zipAttrsWith (n: v: v) (map set five))",
        "builtins.length (builtins.genericClosure { startSet = map set five; operator = x: [ ]; })",
    ] {
        takes(2, body, Form::Lazy);
    }
}

#[test]
fn chains_take_one_build_after_the_other() {
    takes(
        6,
        "builtins.foldl' (n: _: int (n + 1)) 0 [ 1 2 3 ]",
        Form::Lazy,
    );
    takes(4, "[ (int (int 1 + 1)) (int (int 3 + 1)) ]", Form::Strict);
}

#[test]
fn only_what_is_forced_in_any_case_begins() {
    for (seconds, body) in [
        (2, "if int 1 == 1 then 1 else int 2"),
        (2, "builtins.any (n: int n == 1) five"),
        (2, "int 1 == 2 && int 2 == 2"),
        (2, "builtins.head (map int five)"),
        (2, "let x = { a = int 1; b = int 2; }; in x.a"),
        (2, "{ a = int 1; }.a or (int 2)"),
    ] {
        let outcome = takes(seconds, body, Form::Lazy);
        assert_eq!(outcome.builder.ended.borrow().len(), 1, "{body}");
    }
}

#[test]
fn what_fails_first_in_order_is_reported_and_the_rest_dropped() {
    for body in [
        // The rest is never reached, whatever it does.
        "[ (builtins.seq (int 1) (throw \"first\")) (throw \"second\") ]",
        "[ (builtins.seq (int 1) (throw \"first\")) (builtins.trace \"second\" 1) ]",
        "[ (builtins.seq (int 1) (throw \"first\")) (from 0) ]",
        "[ (builtins.seq (int 1) (throw \"first\")) (import (failing \"second\")) ]",
        "[ (builtins.seq (int 1) (abort \"first\")) (let x = x; in x) ]",
        "[ (import (failing \"first\")) (import (failing \"second\")) ]",
    ] {
        takes(2, body, Form::Strict);
    }
    // A build that is not needed after all is cancelled.
    let body = "[ (builtins.tryEval (builtins.deepSeq [ (builtins.seq (int 1) (throw \"first\")) (int (int 2)) ] 1)).success (int 3) ]";
    let outcome = takes(2, body, Form::Strict);
    assert_eq!(outcome.builder.ended.borrow().len(), 3);
    // Errors that depend on the order.
    for body in [
        "let a = [ (int 1) b ]; b = builtins.length (builtins.deepSeq a a); in a",
        "let a = builtins.seq (int 1) b; b = builtins.seq (int 2) a; in [ a b ]",
        "let a = builtins.seq (int 1) 1; b = builtins.seq (int 2) (b + a); in [ a b ]",
        "let s = { x = int 1; }; in [ s.x \"${s}\" ]",
        "let s = { x = builtins.seq (int 1) 7; }; in [ s.x (builtins.seq (int 2) (builtins.trace s 1)) ]",
        "let f = n: if n == 0 then 0 else 1 + f (n - 1); in [ (int 1) (f 990) ]",
    ] {
        let text = with_imports(body);
        let outcome = evaluate(&text, Form::Strict, true, 1000);
        let in_order = evaluate(&text, Form::Strict, true, 0);
        assert_eq!(outcome.result, in_order.result, "{body}");
        assert_eq!(outcome.messages, in_order.messages, "{body}");
    }
}

#[test]
fn a_value_that_is_not_reached_takes_little_memory() {
    let mut settings = Settings::default();
    settings.limits.memory = Some(256 << 20);
    let body = "[ (builtins.seq (int 1) (throw \"first\")) (from 0) (from 1) (from 2) ]";
    let outcome = evaluate_with(settings, &with_imports(body), Form::Strict, 10);
    assert!(outcome.result.unwrap_err().contains("first"));
}

#[test]
fn ten_thousand_imports_of_as_many_roots() {
    let builder = Rc::new(Builder::new(100_000));
    let heap = Heap::new();
    let world = World::new(Settings::default(), builder.files.clone(), builder.clone());
    let interp = Interp::new(&heap, world);
    let done = RefCell::new(0);
    let jobs = (0..10_000).map(|number| {
        let done = &done;
        Box::new(move |interp: &Interp<'_>| {
            let text = with_imports(&format!("int {number}"));
            let value = interp.eval_text(text.as_bytes(), b"/");
            assert!(matches!(value, Ok(Value::Int(found)) if found == number));
            *done.borrow_mut() += 1;
        }) as Job<'_, '_>
    });
    interp.run(jobs).unwrap();
    assert_eq!(done.take(), 10_000);
    assert_eq!(builder.now(), 2);
}

#[test]
fn ten_thousand_imports_of_one_root() {
    let body = "builtins.length (builtins.filter (n: int n >= 0) (builtins.genList (n: n) 10000))";
    let outcome = evaluate(&with_imports(body), Form::Lazy, false, 100_000);
    assert_eq!(outcome.result.unwrap(), "10000");
    assert_eq!(outcome.builder.now(), 2);
}
