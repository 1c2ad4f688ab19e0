//! From the request to derivations, by the rules of `nix-build`.

mod jobs;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use rustc_hash::FxHashMap;
use tvix_eval_api::tasks::{self, Member, Reached, TaskSource};
use tvix_eval_api::{
    AttrPath, ErrorPlace, EvalError, EvalEvent, EvalRequest, JobOptions, Root, RootOrder,
    WantedOutputs,
};

use super::thread::Wire;
use crate::collect::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Job;
use crate::interp::cancelled;
use crate::interp::{Interp, too_deep};
use crate::select::{SelectError, Selector};
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Attrs, Ref, Value};
use shared::Began;

/// A value to search for derivations, on a fiber of its own.
struct Task<'h> {
    /// Attribute path of the value.
    name: String,
    order: RootOrder,
    target: Target<'h>,
    /// The attributes on the path, for errors.
    trail: Option<Rc<Trail>>,
    /// The task, if several evaluations share the search.
    shared: Option<tasks::Task>,
    began: Began,
}

enum Target<'h> {
    /// The value at the place of a shared task.
    Shared,
    /// The value that the tasks to come are probably parts of. It is no root itself.
    Ahead,
    /// The value at a requested attribute path. The empty path stands for the complete source.
    Requested,
    /// An attribute of a set of derivations. If it is a set but not a derivation, it is searched
    /// only with `recurseForDerivations`.
    Attribute(Held<'h>),
    /// An element of a list, or an attribute of a set of sets. It is always searched.
    Element(Held<'h>),
}

/// An attribute that was searched, and the attribute that contains it.
struct Trail {
    pos: Pos,
    name: Symbol,
    around: Option<Rc<Trail>>,
}

/// The search for the requested roots.
struct Search<'h, 'w> {
    wire: &'w Wire,
    source: Held<'h>,
    selector: Selector<'h>,
    /// The next task is at the front, so that the search is depth-first.
    tasks: RefCell<VecDeque<Task<'h>>>,
    found: Rc<RefCell<FxHashMap<Identity, Found>>>,
    /// How jobs are evaluated, if the request is for jobs.
    jobs: Option<&'w JobOptions>,
    /// The source of tasks, if several evaluations share the search.
    shared: Option<TaskSource>,
    /// Whether `shared` gives no more tasks.
    ended: Cell<bool>,
    /// The attribute path to evaluate while there are no tasks yet, if the request is for jobs.
    ahead: Cell<Option<String>>,
}

/// The identity of a root. Derivations of one requested attribute path with the same attributes are
/// one root: index of the attribute path, and address and length of the attributes.
type Identity = (Option<usize>, usize, usize);

/// A derivation that was found.
struct Found {
    /// Its first place so far.
    order: RootOrder,
    /// The place with which it was yielded.
    yielded: Option<RootOrder>,
}

/// Why a value that was searched is not a root.
enum Failed {
    NotFound(Box<Error>),
    NoSuchOutput(EvalError),
    /// The search failed on the way to the value.
    Error(Box<Error>),
    /// The derivation was found, but cannot be instantiated. C++ Nix instantiates after the search,
    /// so the trace does not include the search.
    Derivation(Box<Error>),
}

impl From<Box<Error>> for Failed {
    fn from(error: Box<Error>) -> Self {
        Self::Error(error)
    }
}

type Searched = std::result::Result<(), Failed>;

/// Evaluates a request, or the tasks of it that `shared` gives, until it is complete or cancelled.
pub(super) fn evaluate<'h>(
    interp: &Interp<'h>,
    wire: &Wire,
    request: &EvalRequest,
    shared: Option<TaskSource>,
) {
    interp.allow_collection();
    if request.jobs.is_some() {
        interp.collect_for_jobs();
    }
    let Some(source) = interp.source(&request.source) else {
        return;
    };
    let whole = [String::new()];
    let requested = match request.attr_paths.is_empty() {
        _ if shared.is_some() => &[],
        true => &whole[..],
        false => &request.attr_paths[..],
    };
    let tasks = requested.iter().enumerate().map(|(number, name)| Task {
        name: name.clone(),
        order: RootOrder::of(number),
        target: Target::Requested,
        trail: None,
        shared: None,
        began: Began::default(),
    });
    let search = Search {
        wire,
        source: interp.hold(source),
        selector: Selector::new(interp, &request.args),
        tasks: RefCell::new(tasks.collect()),
        found: Rc::default(),
        jobs: request.jobs.as_ref(),
        shared,
        ended: Cell::new(false),
        ahead: Cell::new(request.jobs.is_some().then(|| {
            let first = request.attr_paths.first();
            first.cloned().unwrap_or_default()
        })),
    };
    // Attributes that were freed are not found again, and others may get their address.
    let found = search.found.clone();
    interp.on_collection(move |alive| {
        let mut found = found.borrow_mut();
        found.retain(|(_, address, _), _| alive.has(*address));
    });
    let search = &search;
    loop {
        // Tasks add further tasks, so an empty queue does not end the iterator for good.
        let jobs = std::iter::from_fn(|| {
            let task = search.next(interp)?;
            Some(Box::new(move |interp: &Interp<'h>| search.perform(interp, task)) as Job<'h, '_>)
        });
        if let Err(error) = interp.run(jobs) {
            if error.kind != ErrorKind::Cancelled {
                wire.failed(EvalError::Expression {
                    kind: error.kind.into(),
                    attr_path: None,
                    message: error.message,
                    place: Box::default(),
                });
            }
            return;
        }
        if !search.wait() {
            return;
        }
    }
}

impl<'h> Search<'h, '_> {
    fn perform(&self, interp: &Interp<'h>, mut task: Task<'h>) {
        if self.jobs.is_some() {
            task.began = Began::now(interp);
        }
        let outcome = match &task.target {
            // Whatever it is, tasks come to it again.
            Target::Ahead => return self.begin(interp, &task.name),
            Target::Shared => self.shared(interp, &mut task),
            Target::Requested => self.requested(interp, &task),
            Target::Attribute(cell) => self.attribute(interp, &task, cell.cell()),
            Target::Element(cell) => self.search(interp, &task, cell.cell()),
        };
        if let Err(failed) = outcome {
            self.failed(interp, task, failed);
        }
    }

    fn requested(&self, interp: &Interp<'h>, task: &Task<'h>) -> Searched {
        match self
            .selector
            .try_select(interp, self.source.cell(), &task.name)
        {
            Ok(cell) => self.search(interp, task, cell),
            Err(SelectError::NotFound(error)) => Err(Failed::NotFound(error)),
            Err(SelectError::Failed(error)) => Err(error.into()),
        }
    }

    /// Searches a value, which must be a derivation, or a set or list of derivations.
    fn search(&self, interp: &Interp<'h>, task: &Task<'h>, cell: Ref<'h>) -> Searched {
        let cell = self.called(interp, cell)?;
        match interp.force(cell)? {
            Value::Attrs(attrs) if interp.is_derivation(attrs)? => {
                self.derivation(interp, task, attrs)
            }
            Value::Attrs(attrs) => {
                check_depth(interp, task)?;
                self.attributes(interp, task, attrs);
                Ok(())
            }
            Value::List(list) => {
                check_depth(interp, task)?;
                self.elements(interp, task, list.items);
                Ok(())
            }
            _ if self.jobs.is_some() && task.order.0.len() > 1 => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Type,
                "expression does not evaluate to a derivation (or a set or list of those)",
            )
            .into()),
        }
    }

    /// Adds a task for each attribute, so that an attribute that fails or waits does not affect
    /// others.
    fn attributes(&self, interp: &Interp<'h>, task: &Task<'h>, attrs: &Attrs<'h>) {
        let all = attrs.get(interp.intern("_combineChannels")).is_some();
        let members = interp.by_name(attrs).into_iter().enumerate();
        let members = members.filter_map(|(number, (member, attr))| {
            let member = std::str::from_utf8(member).ok();
            let member = member.filter(|member| self.jobs.is_some() || is_plain(member));
            member.map(|member| (number, member, attr))
        });
        if let Some(shared) = &task.shared {
            let reached = match all {
                true => Reached::Element,
                false => Reached::Attribute,
            };
            let members = members.map(|(number, member, _)| Member::from((number, member)));
            return shared.split(reached, members);
        }
        let mut tasks = self.tasks.borrow_mut();
        for (number, member, attr) in members.collect::<Vec<_>>().into_iter().rev() {
            tasks.push_front(Task {
                name: below(&task.name, |path| AttrPath::push_attribute(path, member)),
                order: task.order.child(number),
                target: match all {
                    true => Target::Element(interp.hold(attr.value)),
                    false => Target::Attribute(interp.hold(attr.value)),
                },
                trail: Some(Rc::new(Trail {
                    pos: attr.pos,
                    name: attr.name,
                    around: task.trail.clone(),
                })),
                shared: None,
                began: Began::default(),
            });
        }
    }

    /// Adds a task for each element.
    fn elements(&self, interp: &Interp<'h>, task: &Task<'h>, items: &[Ref<'h>]) {
        if let Some(shared) = &task.shared {
            let members = (0..items.len()).map(|number| Member::from((number, number.to_string())));
            return shared.split(Reached::Element, members);
        }
        let mut tasks = self.tasks.borrow_mut();
        for (number, item) in items.iter().enumerate().rev() {
            tasks.push_front(Task {
                name: below(&task.name, |path| AttrPath::push_element(path, number)),
                order: task.order.child(number),
                target: Target::Element(interp.hold(item)),
                trail: task.trail.clone(),
                shared: None,
                began: Began::default(),
            });
        }
    }

    /// Searches an attribute of a set: a derivation, a set to search, or a value to ignore.
    fn attribute(&self, interp: &Interp<'h>, task: &Task<'h>, cell: Ref<'h>) -> Searched {
        let cell = match self.jobs.is_some() && self.selector.accepts(interp, cell)? {
            true => self.selector.called(interp, cell)?,
            false => cell,
        };
        let Value::Attrs(attrs) = interp.force(cell)? else {
            return Ok(());
        };
        if interp.is_derivation(attrs)? {
            return self.derivation(interp, task, attrs);
        }
        if self.jobs.is_some_and(|options| options.force_recurse) {
            return self.search(interp, task, cell);
        }
        let recurse = attrs.get(interp.known.recurse);
        if let Some(recurse) = recurse
            && interp.expect_bool(
                recurse.value,
                recurse.pos,
                "while evaluating the attribute `recurseForDerivations`",
            )?
        {
            return self.search(interp, task, cell);
        }
        Ok(())
    }

    /// Yields a derivation as a root, unless it was yielded at an earlier place.
    fn derivation(&self, interp: &Interp<'h>, task: &Task<'h>, attrs: &Attrs<'h>) -> Searched {
        if let Some(options) = self.jobs {
            return self.job(interp, task, attrs, options);
        }
        if task.shared.is_some() {
            // Equal derivations are found when the events of all evaluations are merged.
            let root = self
                .root(interp, &task.name, attrs)?
                .with_order(task.order.clone());
            return match self.wire.event(EvalEvent::Root(root)) {
                true => Ok(()),
                false => Err(cancelled().into()),
            };
        }
        let entries = interp.entries(attrs);
        let address = entries.as_ptr().addr();
        let identity = (task.order.request_index(), address, entries.len());
        match self.found.borrow_mut().entry(identity) {
            Entry::Occupied(known) if known.get().order <= task.order => return Ok(()),
            Entry::Occupied(mut known) => known.get_mut().order = task.order.clone(),
            Entry::Vacant(place) => {
                place.insert(Found {
                    order: task.order.clone(),
                    yielded: None,
                });
            }
        }
        let mut root = self.root(interp, &task.name, attrs)?;
        if let Some(found) = self.found.borrow_mut().get_mut(&identity) {
            // It was found at an earlier place while this task waited for a build.
            if found.order != task.order {
                return Ok(());
            }
            root.moved_from = found.yielded.replace(task.order.clone());
        }
        root.order = task.order.clone();
        match self.wire.event(EvalEvent::Root(root)) {
            true => Ok(()),
            false => Err(cancelled().into()),
        }
    }

    /// The derivation and output that a set represents.
    fn root(
        &self,
        interp: &Interp<'h>,
        name: &str,
        attrs: &Attrs<'h>,
    ) -> std::result::Result<Root, Failed> {
        let why = "while evaluating the 'name' attribute of a derivation";
        let Some(attr) = attrs.get(interp.known.name) else {
            return Err(Error::new(ErrorKind::Type, "derivation name missing").into());
        };
        interp.expect_plain_string(attr.value, Pos::NONE, why)?;
        let drv_path = interp.drv_path(attrs).map_err(Failed::Derivation)?;
        let known = interp
            .known_derivation(&drv_path)
            .map_err(Failed::Derivation)?;
        let output = match attrs.get(interp.known.output_name) {
            None => String::new(),
            Some(attr) => {
                let why = "while evaluating the output name of a derivation";
                let output = interp.expect_plain_string(attr.value, Pos::NONE, why);
                let output = output.map_err(Failed::Derivation)?;
                String::from_utf8_lossy(output.bytes).into_owned()
            }
        };
        if output.is_empty() {
            let shown = interp.world.settings.store_dir.display(&drv_path);
            let message = format!("derivation '{shown}' lacks an 'outputName' attribute");
            return Err(Failed::Derivation(Error::new(ErrorKind::Missing, message)));
        }
        let declared = |name: &OutputName| {
            let mut outputs = known.derivation.outputs.iter();
            outputs.any(|(output, _)| output == name)
        };
        match output.parse::<OutputName>() {
            Ok(output) if declared(&output) => {
                Ok(Root::new(name, WantedOutputs::new(drv_path, vec![output])))
            }
            _ => Err(Failed::NoSuchOutput(EvalError::NoSuchOutput {
                drv_path,
                output,
            })),
        }
    }
}

/// Limits the depth of the search, because sets may contain themselves.
fn check_depth(interp: &Interp<'_>, task: &Task<'_>) -> Result<()> {
    match u32::try_from(task.order.0.len()) {
        Ok(depth) if depth <= interp.max_depth => Ok(()),
        _ => Err(too_deep(Pos::NONE)),
    }
}

impl Failed {
    /// The error of the requested attribute; `None` if the evaluation is cancelled.
    fn of(self, interp: &Interp<'_>, task: &Task<'_>) -> Option<EvalError> {
        let attr_path = task.name.clone();
        let place = |error: &Error| {
            let place = ErrorPlace::of_root(task.order.clone());
            Box::new(place.with_position(interp.position_of(error)))
        };
        let mut trail = task.trail.as_deref();
        let mut error = match self {
            Self::NoSuchOutput(error) if attr_path.is_empty() => return Some(error),
            Self::NoSuchOutput(error) => {
                let error = EvalError::in_attribute(&attr_path, Arc::new(error));
                return Some(error.with_order(task.order.clone()));
            }
            Self::NotFound(error) => {
                let message = message(interp, &error);
                return Some(EvalError::AttributeNotFound {
                    attr_path,
                    message,
                    place: place(&error),
                });
            }
            Self::Error(error) | Self::Derivation(error) if error.kind == ErrorKind::Cancelled => {
                return None;
            }
            Self::Error(error) => error,
            Self::Derivation(error) => {
                trail = None;
                error
            }
        };
        while let Some(attr) = trail {
            let name = interp.display(attr.name);
            error = error.within(attr.pos, format!("while evaluating the attribute '{name}'"));
            trail = attr.around.as_deref();
        }
        let message = message(interp, &error);
        let place = place(&error);
        Some(match error.import {
            Some(source) => EvalError::Import {
                attr_path,
                trace: message,
                place,
                source,
            },
            None => EvalError::Expression {
                kind: error.kind.into(),
                attr_path: (!attr_path.is_empty()).then_some(attr_path),
                message,
                place,
            },
        })
    }
}

/// An error as printed by C++ Nix, without the prefix `error:`.
fn message(interp: &Interp<'_>, error: &Error) -> String {
    let rendered = interp.render(error);
    let rendered = rendered.strip_prefix("error:").unwrap_or(&rendered);
    rendered.strip_prefix(' ').unwrap_or(rendered).to_owned()
}

/// Whether a name can be the name of a package. Other attributes are skipped, as in C++ Nix.
fn is_plain(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '+'))
}

fn below(path: &str, push: impl FnOnce(&mut String)) -> String {
    let mut below = path.to_owned();
    push(&mut below);
    below
}
