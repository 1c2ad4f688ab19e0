//! Runs a case with this evaluator.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use tvix_eval::Job;
use tvix_eval::error::Error;
use tvix_eval::files::HostFiles;
use tvix_eval::heap::Heap;
use tvix_eval::host::{Answer, Host};
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::{ContextId, Ref};
use tvix_eval::world::{Settings, World};
use tvix_eval_api::{Diagnostic, SourceAddition, WantedOutputs};

use crate::cases::{Case, Mode, Outcome};

/// Collects messages.
#[derive(Default)]
struct Listener(RefCell<String>);

impl Host for Listener {
    fn derivation(&self, _: &StorePath, _: &Arc<Derivation>, _: Option<[u8; 32]>) -> bool {
        true
    }

    fn source(&self, _: SourceAddition) -> bool {
        true
    }

    fn diagnostic(&self, diagnostic: Diagnostic) {
        let mut messages = self.0.borrow_mut();
        messages.push_str(&diagnostic.message);
        messages.push('\n');
    }

    fn realise(&self, _: u32, _: Vec<WantedOutputs>) {}

    fn next_answer(&self) -> Option<(u32, Answer)> {
        None
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        None
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

pub fn evaluate(case: &Case) -> Outcome {
    let files = crate::cases::files();
    let mut settings = Settings::default();
    settings.system = "x86_64-linux".into();
    settings.home = Some("/root".into());
    let entries = crate::cases::search_path(case.mode, &files).into_iter();
    settings.search_path = entries
        .map(|(prefix, path)| (prefix.to_owned(), path))
        .collect();
    settings.pure = case.mode == Mode::Pure;
    settings.allowed_paths = (case.mode == Mode::Restricted).then(Vec::new);
    settings.read_only = case.mode != Mode::Store;
    let heap = Heap::new();
    let listener = Rc::new(Listener::default());
    let world = World::new(settings, Rc::new(HostFiles), listener.clone());
    let interp = Interp::new(&heap, world);
    let result = RefCell::new(None);
    let job: Job<'_, '_> = Box::new(|interp: &Interp<'_>| {
        let written = write(interp, case, &files).map_err(|error| interp.render(&error));
        *result.borrow_mut() = Some(written);
    });
    interp.run([job]).unwrap();
    let mut messages = listener.0.take();
    let value = match result.take().unwrap() {
        Ok(value) => Some(
            String::from_utf8_lossy(&value)
                .trim_end_matches('\n')
                .replace(&files, "@FILES@"),
        ),
        Err(error) => {
            messages.push_str(&error);
            None
        }
    };
    Outcome {
        value,
        messages: messages.trim_end().replace(&files, "@FILES@"),
    }
}

fn write(interp: &Interp<'_>, case: &Case, files: &str) -> Result<Vec<u8>, Box<Error>> {
    let value = interp.eval_text(case.text.as_bytes(), files.as_bytes())?;
    let cell: Ref<'_> = interp.cell(value);
    let mut out = Vec::new();
    let mut context = ContextId::EMPTY;
    match case.mode {
        Mode::Strict | Mode::Pure | Mode::Restricted | Mode::Store => {
            interp.force_deep(cell, Pos::NONE)?;
            interp.print(value, &mut out)?;
        }
        Mode::Lazy => interp.print(value, &mut out)?,
        Mode::Json => interp.write_json(cell, Pos::NONE, true, &mut out, &mut context)?,
        Mode::Xml => out = interp.to_xml(cell, Pos::NONE, true, true, &mut context)?,
    }
    Ok(out)
}
