//! Imports from derivations in many attributes, all suspended at the same time: time and memory per
//! attribute.
//!
//! `cargo run --release -p tvix-benches --bin eval_imports [COUNT…]`

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bumpalo::Bump;
use nix_compat::derivation::Derivation;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_eval::Job;
use tvix_eval::files::HostFiles;
use tvix_eval::host::{Answer, Host};
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::Value;
use tvix_eval::world::{Settings, World};
use tvix_eval_api::{Diagnostic, RealisedOutput, SourceAddition, WantedOutputs};

/// Reports all builds as done once all attributes wait.
struct Builds {
    file: PathBuf,
    asked: RefCell<VecDeque<(u32, Vec<WantedOutputs>)>>,
    most: Cell<usize>,
    derivations: RefCell<std::collections::HashMap<StorePath, Arc<Derivation>>>,
}

impl Host for Builds {
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        _: Option<[u8; 32]>,
    ) -> bool {
        self.derivations
            .borrow_mut()
            .insert(path.clone(), derivation.clone());
        true
    }

    fn source(&self, _: SourceAddition) -> bool {
        true
    }

    fn diagnostic(&self, _: Diagnostic) {}

    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        let mut asked = self.asked.borrow_mut();
        asked.push_back((fiber, wanted));
        self.most.set(self.most.get().max(asked.len()));
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        let (fiber, wanted) = self.asked.borrow_mut().pop_front()?;
        let outputs = wanted
            .into_iter()
            .filter_map(|wanted| {
                let output = wanted.outputs.first()?.clone();
                let derivations = self.derivations.borrow();
                let derivation = derivations.get(&wanted.drv_path)?;
                let path = derivation.output_path(&StoreDir::default(), &output)?;
                let file = self.file.clone();
                Some(RealisedOutput::new(wanted.drv_path, output, path, file))
            })
            .collect();
        Some((fiber, Answer::Realised(Ok(outputs))))
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        None
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn measure(count: usize, file: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let before = resident();
    let start = Instant::now();
    let heap = Bump::new();
    let host = Rc::new(Builds {
        file: file.to_owned(),
        asked: RefCell::default(),
        most: Cell::new(0),
        derivations: RefCell::default(),
    });
    let world = World::new(Settings::default(), Rc::new(HostFiles), host.clone());
    let interp = Interp::new(&heap, world);
    let function = RefCell::new(None);
    let prepare: Job<'_, '_> = Box::new(|interp| {
        let text = b"n: import (derivation { name = \"p${toString n}\"; system = \"s\"; builder = \"/b\"; })";
        *function.borrow_mut() = interp.eval_text(text, b"/").ok();
    });
    interp.run([prepare]).map_err(|error| error.message)?;
    let function = function
        .into_inner()
        .ok_or("the function does not evaluate")?;
    let right = Cell::new(0);
    let suspended = Cell::new(0);
    let jobs = (0..count).map(|index| -> Job<'_, '_> {
        let right = &right;
        let suspended = &suspended;
        Box::new(move |interp| {
            let number = interp.cell(Value::Int(index as i64));
            let result = interp.call(function, &[number], Pos::NONE);
            suspended.set(suspended.get().max(resident()));
            match result {
                Ok(Value::Int(42)) => right.set(right.get() + 1),
                Ok(_) => {}
                Err(error) => eprintln!("{}", error.message),
            }
        })
    });
    interp.run(jobs).map_err(|error| error.message)?;
    let elapsed = start.elapsed();
    assert_eq!(right.get(), count, "each import gives what was built");
    println!(
        "{count:>6} imports, {:>6} at once: {:>7.1} ms, {:>5.1} us and {:>5.1} KiB each",
        host.most.get(),
        elapsed.as_secs_f64() * 1e3,
        elapsed.as_secs_f64() * 1e6 / count as f64,
        (suspended.get().saturating_sub(before)) as f64 / 1024.0 / count as f64,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("built.nix");
    std::fs::write(&file, "42")?;
    let counts: Vec<usize> = std::env::args()
        .skip(1)
        .map(|count| count.parse())
        .collect::<Result<_, _>>()?;
    let counts = if counts.is_empty() {
        vec![1_000, 5_000, 10_000, 15_000]
    } else {
        counts
    };
    for count in counts {
        measure(count, &file)?;
    }
    Ok(())
}
