//! Drives the coordinator's state machine by hand, without a runtime, threads or a clock. Another
//! runtime can be built around the same loop: perform each action, and tell the machine the result.
//!
//! `cargo run --example drive_machine`. `tvix-coordinator` needs no default feature for this.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use nix_compat::derivation::{DerivationBuilder, Instantiated, OutputName};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::BuilderProfile;
use tvix_coordinator::machine::{Action, BuildResult, Input, Machine};
use tvix_coordinator::{Options, Report};
use tvix_eval_api::{Root, WantedOutputs};

/// A store that knows the names of its paths only, and the inputs that the machine is still to be told.
#[derive(Default)]
struct World {
    valid: BTreeSet<StorePath>,
    inputs: VecDeque<Input>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = StoreDir::default();
    let library = DerivationBuilder::new("library", "x86_64-linux", "/bin/sh").instantiate(&dir)?;
    let program = DerivationBuilder::new("program", "x86_64-linux", "/bin/sh")
        .input_env("library", &library, "out")
        .instantiate(&dir)?;
    let wanted = WantedOutputs::new(program.path.clone(), vec![OutputName::out()]);

    // An evaluation that yields two derivations, says which one was asked for, and ends.
    let mut world = World::default();
    let root = Input::Root(Root::new("program", wanted));
    world
        .inputs
        .extend([yielded(&library), yielded(&program), root]);
    world.inputs.push_back(Input::EvaluationEnded);
    let builders = vec![BuilderProfile::new("this machine", "x86_64-linux", 1)];
    let mut machine = Machine::new(dir, builders, Options::default());

    let mut now = Duration::ZERO;
    let report = 'session: loop {
        while let Some(action) = machine.poll_action() {
            if let Some(report) = world.perform(action) {
                break 'session report;
            }
        }
        match world.inputs.pop_front() {
            Some(input) => {
                now += Duration::from_millis(1);
                machine.handle(now, input);
            }
            // Nothing happens until something that was put off is due.
            None => {
                now = machine.poll_timeout().ok_or("nothing is under way")?;
                machine.handle(now, Input::TimePassed);
            }
        }
    };
    assert!(report.is_success());
    println!(
        "after {now:?}: {:?}",
        report.output_paths().collect::<Vec<_>>()
    );
    Ok(())
}

fn yielded(made: &Instantiated) -> Input {
    Input::Derivation {
        path: made.path.clone(),
        derivation: made.derivation.clone(),
        modulo: None,
    }
}

impl World {
    /// Performs an action at once. The report, if it was the last action.
    fn perform(&mut self, action: Action) -> Option<Report> {
        match action {
            Action::Emit(record) => println!("event {}: {:?}", record.seq, record.event),
            Action::QueryPaths { batch, paths } => {
                println!("look up {} paths", paths.len());
                let result = Ok(paths.iter().map(|it| self.valid.contains(it)).collect());
                self.inputs.push_back(Input::PathsQueried { batch, result });
            }
            Action::StartBuild(start) => {
                println!("build {}", start.derivation.name);
                let dir = StoreDir::default();
                let outputs = start.derivation.output_paths(&dir);
                let outputs = outputs.filter_map(|(name, path)| Some((name.clone(), path?)));
                let outputs: Vec<_> = outputs.collect();
                let paths = outputs.iter().map(|(_, path)| path.clone());
                self.valid.extend(paths);
                self.inputs.push_back(Input::BuildEnded {
                    build: start.build,
                    result: BuildResult::Pushed(outputs),
                    usage: None,
                    size: None,
                });
            }
            Action::Finish(report) => return Some((*report).clone()),
            // Sources, substituters, imports and checks, which this session does not have.
            other => println!("{other:?}"),
        }
        None
    }
}
