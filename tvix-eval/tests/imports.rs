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
use bumpalo::Bump;
use program::{Program, Random};
use tvix_eval::Job;
use tvix_eval::error::Error;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::{ContextId, Ref};
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
    let builder = Rc::new(Builder::new(slots));
    let mut settings = Settings::default();
    settings.system = "x".into();
    settings.show_trace = show_trace;
    settings.limits.depth = 1000;
    let heap = Bump::new();
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
    let mut random = Random(!seed);
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
