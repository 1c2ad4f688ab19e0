//! From what the user asked for to derivations, as `nix-build` finds them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use rustc_hash::FxHashSet;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, Root, WantedOutputs};

use super::thread::Wire;
use crate::error::{Error, ErrorKind, Result};
use crate::fiber::Job;
use crate::interp::Interp;
use crate::limits::cancelled;
use crate::select::{Selector, Unselected};
use crate::source::Pos;
use crate::value::{Attrs, Ref, Value};

/// Something to look for derivations in, on a fiber of its own.
enum Task<'h> {
    /// What an attribute path leads to; the empty one leads to the whole.
    Asked(String),
    /// An attribute of a set of derivations, with the path to it.
    Member(String, Ref<'h>),
}

/// The search for what was asked for.
struct Search<'h, 'w> {
    wire: &'w Wire,
    source: Ref<'h>,
    selector: Selector<'h>,
    tasks: RefCell<VecDeque<Task<'h>>>,
    /// Derivations that were found in sets and lists, by the address of their attributes.
    found: RefCell<FxHashSet<usize>>,
}

/// Why something that was looked for is no root.
enum Failed {
    NotFound,
    NoSuchOutput(EvalError),
    Error(Box<Error>),
}

impl From<Box<Error>> for Failed {
    fn from(error: Box<Error>) -> Self {
        Self::Error(error)
    }
}

/// Evaluates what was asked for, until all is done or nobody wants it any more.
pub(super) fn evaluate<'h>(interp: &Interp<'h>, wire: &Wire, request: &EvalRequest) {
    let Some(source) = interp.source(&request.source) else {
        return;
    };
    let mut tasks: VecDeque<_> = request
        .attr_paths
        .iter()
        .cloned()
        .map(Task::Asked)
        .collect();
    if tasks.is_empty() {
        tasks.push_back(Task::Asked(String::new()));
    }
    let search = Search {
        wire,
        source,
        selector: Selector::new(interp, &request.args),
        tasks: RefCell::new(tasks),
        found: RefCell::default(),
    };
    // More tasks come up while others are done, so its end is not for ever.
    let jobs = std::iter::from_fn(|| {
        let task = search.tasks.borrow_mut().pop_front()?;
        let search = &search;
        Some(Box::new(move |interp: &Interp<'h>| search.perform(interp, task)) as Job<'h, '_>)
    });
    if let Err(error) = interp.run(jobs)
        && error.kind != ErrorKind::Cancelled
    {
        let message = error.message;
        wire.failed(EvalError::Expression { message });
    }
}

impl<'h> Search<'h, '_> {
    fn perform(&self, interp: &Interp<'h>, task: Task<'h>) {
        let (name, outcome) = match task {
            Task::Asked(name) => {
                let outcome = self.asked(interp, &name);
                (name, outcome)
            }
            Task::Member(name, cell) => {
                let outcome = self.member(interp, &name, cell);
                (name, outcome)
            }
        };
        if let Err(failed) = outcome
            && let Some(error) = failed.of(interp, name)
        {
            self.wire.failed(error);
        }
    }

    fn asked(&self, interp: &Interp<'h>, name: &str) -> std::result::Result<(), Failed> {
        let cell = match self.selector.try_select(interp, self.source, name) {
            Ok(cell) => cell,
            Err(Unselected::NotFound(_)) => return Err(Failed::NotFound),
            Err(Unselected::Failed(error)) => return Err(error.into()),
        };
        self.derivations(interp, name, cell)
    }

    /// Everything in a value: it must be a derivation, or a set or list of them.
    fn derivations(
        &self,
        interp: &Interp<'h>,
        name: &str,
        cell: Ref<'h>,
    ) -> std::result::Result<(), Failed> {
        let cell = self.selector.called(interp, cell)?;
        match interp.force(cell)? {
            Value::Attrs(attrs) if interp.is_derivation(attrs)? => {
                let root = self.root(interp, name, attrs)?;
                Ok(self.send(root)?)
            }
            Value::Attrs(attrs) => {
                self.members(interp, name, attrs);
                Ok(())
            }
            Value::List(list) => self.elements(interp, name, list.items),
            _ => Err(Error::new(
                ErrorKind::Type,
                "expression does not evaluate to a derivation (or a set or list of those)",
            )
            .into()),
        }
    }

    /// Each attribute becomes a task, so that one that fails or waits keeps no other.
    fn members(&self, interp: &Interp<'h>, name: &str, attrs: &Attrs<'h>) {
        let mut tasks = self.tasks.borrow_mut();
        for (member, attr) in interp.by_name(attrs) {
            if let Ok(member) = std::str::from_utf8(member)
                && is_plain(member)
            {
                tasks.push_back(Task::Member(below(name, member), attr.value));
            }
        }
    }

    /// An attribute of a set: a derivation, a set to be looked into too, or of no interest.
    fn member(
        &self,
        interp: &Interp<'h>,
        name: &str,
        cell: Ref<'h>,
    ) -> std::result::Result<(), Failed> {
        let Value::Attrs(attrs) = interp.force(cell)? else {
            return Ok(());
        };
        if interp.is_derivation(attrs)? {
            if self.is_new(attrs) {
                let root = self.root(interp, name, attrs)?;
                self.send(root)?;
            }
            return Ok(());
        }
        let recurse = attrs.get(interp.known.recurse);
        if let Some(recurse) = recurse
            && interp.expect_bool(
                recurse.value,
                recurse.pos,
                "while evaluating the attribute `recurseForDerivations`",
            )?
        {
            return self.derivations(interp, name, cell);
        }
        Ok(())
    }

    /// The elements of a list. Outputs of one derivation that follow each other, as in `all`, are
    /// one root.
    fn elements(
        &self,
        interp: &Interp<'h>,
        name: &str,
        items: &[Ref<'h>],
    ) -> std::result::Result<(), Failed> {
        let mut last: Option<Root> = None;
        for (index, item) in items.iter().enumerate() {
            let name = below(name, &index.to_string());
            let attrs = match interp.force(item)? {
                Value::Attrs(attrs) if interp.is_derivation(attrs)? => attrs,
                _ => {
                    interp.nested(Pos::NONE, || Ok(self.derivations(interp, &name, item)))??;
                    continue;
                }
            };
            if !self.is_new(attrs) {
                continue;
            }
            let root = self.root(interp, &name, attrs)?;
            match &mut last {
                Some(last) if last.wanted.drv_path == root.wanted.drv_path => {
                    let new = root.wanted.outputs.into_iter();
                    for output in new {
                        if !last.wanted.outputs.contains(&output) {
                            last.wanted.outputs.push(output);
                        }
                    }
                }
                _ => {
                    if let Some(before) = last.replace(root) {
                        self.send(before)?;
                    }
                }
            }
        }
        if let Some(last) = last {
            self.send(last)?;
        }
        Ok(())
    }

    fn is_new(&self, attrs: &Attrs<'h>) -> bool {
        let address = attrs.entries.as_ptr().addr();
        self.found.borrow_mut().insert(address)
    }

    fn send(&self, root: Root) -> Result<()> {
        if self.wire.event(EvalEvent::Root(root)) {
            return Ok(());
        }
        Err(cancelled())
    }

    /// The output that a derivation's attributes stand for.
    fn root(
        &self,
        interp: &Interp<'h>,
        name: &str,
        attrs: &Attrs<'h>,
    ) -> std::result::Result<Root, Failed> {
        let drv_path = interp.drv_path(attrs)?;
        let known = interp.known_derivation(&drv_path)?;
        let Some(attr) = attrs.get(interp.known.output_name) else {
            let shown = interp.world.settings.store_dir.display(&drv_path);
            let message = format!("derivation '{shown}' lacks an 'outputName' attribute");
            return Err(Error::new(ErrorKind::Missing, message).at(attrs.pos).into());
        };
        let why = "while evaluating the output name of a derivation";
        let output = interp.expect_plain_string(attr.value, attr.pos, why)?;
        let output = String::from_utf8_lossy(output.bytes);
        let declared = |name: &OutputName| {
            let mut outputs = known.derivation.outputs.iter();
            outputs.any(|(output, _)| output == name)
        };
        match output.parse::<OutputName>() {
            Ok(output) if declared(&output) => Ok(Root {
                name: name.to_owned(),
                wanted: WantedOutputs {
                    drv_path,
                    outputs: vec![output],
                },
            }),
            _ => Err(Failed::NoSuchOutput(EvalError::NoSuchOutput {
                drv_path,
                output: output.into_owned(),
            })),
        }
    }
}

impl Failed {
    /// As the error of something that was asked for; `None` if nobody wants to know.
    fn of(self, interp: &Interp<'_>, attr_path: String) -> Option<EvalError> {
        let error = match self {
            Self::NotFound => return Some(EvalError::AttributeNotFound { attr_path }),
            Self::NoSuchOutput(error) => error,
            Self::Error(error) if error.kind == ErrorKind::Cancelled => return None,
            Self::Error(error) => {
                let rendered = interp.render(&error);
                let rendered = rendered.strip_prefix("error:").unwrap_or(&rendered);
                if let Some(source) = error.import {
                    return Some(EvalError::Import {
                        attr_path,
                        trace: format!(":{rendered}"),
                        source,
                    });
                }
                let message = rendered.strip_prefix(' ').unwrap_or(rendered).to_owned();
                EvalError::Expression { message }
            }
        };
        if attr_path.is_empty() {
            return Some(error);
        }
        Some(EvalError::in_attribute(&attr_path, Arc::new(error)))
    }
}

/// Whether a name could be one of a package: others are not looked at, as in C++ Nix.
fn is_plain(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '+'))
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
