//! Shared code of fuzz targets: evaluation with tight limits, without a host and with files in
//! memory only.

use std::rc::Rc;
use std::time::Duration;

use bumpalo::Bump;
use tvix_eval::error::{Error, ErrorKind};
use tvix_eval::files::MemoryFiles;
use tvix_eval::host::NoHost;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::ContextId;
use tvix_eval::world::{Settings, World};
use tvix_eval::{Job, Limits};

#[path = "../../tvix-eval/tests/peers_language/program.rs"]
mod program;
mod random;

/// The limits of a program. Far higher usage exceeds the fuzzer's own limits and is a failure.
fn limits() -> Limits {
    let limits = Limits::default();
    limits.with_time(Duration::from_secs(1)).with_memory(64 << 20).with_depth(200)
}

/// Files that programs may import and read.
fn files() -> MemoryFiles {
    MemoryFiles::new([
        ("/base/default.nix", "{ a ? 1, ... }: rec { b = a; c = [ b ]; }"),
        ("/base/f", "text"),
        ("/base/d/e.json", "{ \"a\": [ 1, 2.5, null ] }"),
        ("/base/d/t.toml", "[a]\nb = 1979-05-27\n"),
        ("/base/x.nix", "import ./y.nix"),
        ("/base/y.nix", "import ./x.nix"),
    ])
}

/// Evaluates a text deeply and prints the value in all formats. Evaluation errors are expected;
/// they must be printable.
pub fn evaluate(text: &[u8]) {
    let mut settings = Settings::default();
    settings.limits = limits();
    settings.import_from_derivation = false;
    settings.allowed_paths = Some(vec!["/".into()]);
    settings.search_path = vec![(String::new(), "/base".into()), ("p".into(), "/base".into())];
    settings.home = Some("/home".into());
    settings.time = 0;
    let heap = Bump::new();
    let world = World::new(settings, Rc::new(files()), Rc::new(NoHost));
    let interp = Interp::new(&heap, world);
    let job: Job<'_, '_> = Box::new(|interp: &Interp<'_>| {
        if let Err(error) = written(interp, text) {
            let shown = interp.render(&error);
            assert!(shown.starts_with("error:"), "{shown}");
        }
    });
    if let Err(error) = interp.run([job]) {
        assert_eq!(error.kind, ErrorKind::Cancelled, "{}", error.message);
    }
}

fn written(interp: &Interp<'_>, text: &[u8]) -> Result<(), Box<Error>> {
    let value = interp.eval_text(text, b"/base")?;
    let cell = interp.cell(value);
    let mut out = Vec::new();
    interp.print(value, &mut out)?;
    let printed = interp.force_deep(cell, Pos::NONE);
    out.clear();
    interp.print(cell.get(), &mut out)?;
    let mut context = ContextId::EMPTY;
    let xml = interp.to_xml(cell, Pos::NONE, true, true, &mut context);
    out.clear();
    let json = interp.write_json(cell, Pos::NONE, true, &mut out, &mut context);
    if json.is_ok() {
        serde_json::from_slice::<serde_json::Value>(&out).expect("what is written can be read");
    }
    printed.and(json).and(xml.map(drop))
}

/// A program generated from bytes, with nearly all variables bound and types correct: see
/// `tvix-eval/tests/peers_language`.
pub fn program(bytes: &[u8]) -> String {
    program::program(&mut random::Random::new(bytes), true)
}
