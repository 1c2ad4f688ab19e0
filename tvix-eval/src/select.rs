//! Selection of values: sources, arguments, attribute paths.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustc_hash::FxHashMap;
use tvix_eval_api::{AttrPath, EvalSource};

use crate::collect::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::is_pseudo_url;
use crate::interp::Interp;
use crate::paths;
use crate::source::Pos;
use crate::value::{Apply, Attrs, Ref, Value};
use crate::value::{Builtin, Function};

/// Why an attribute path does not lead to a value.
pub(crate) enum SelectError {
    /// The attribute or element does not exist.
    NotFound(Box<Error>),
    /// Evaluation failed on the way.
    Failed(Box<Error>),
}

impl From<Box<Error>> for SelectError {
    fn from(error: Box<Error>) -> Self {
        Self::Failed(error)
    }
}

/// Follows attribute paths as `nix-build -A` does: functions on the path are called with the user's
/// arguments, and each function is called once even if several paths lead through it.
pub struct Selector<'h> {
    args: &'h Attrs<'h>,
    /// Keeps `args`.
    _args: Held<'h>,
    caller: Held<'h>,
    /// Results of calls, by the address of the function's cell, which is kept too.
    called: RefCell<FxHashMap<usize, (Held<'h>, Held<'h>)>>,
}

impl<'h> Selector<'h> {
    /// A selector with arguments: names and expressions. Relative paths in them are relative to the
    /// current directory.
    pub fn new(interp: &Interp<'h>, args: &BTreeMap<String, String>) -> Self {
        let base: &'h [u8] = interp.heap.copy_text(&current_folder());
        let entries = args.iter().map(|(name, text)| {
            let text: &'h [u8] = interp.heap.copy_text(text.as_bytes());
            let value = interp.later(move |interp| interp.eval_text(text, base));
            let mut attr = interp.attr(name, Value::Null);
            attr.value = value;
            attr
        });
        let args = match interp.attrs(entries.collect()) {
            Value::Attrs(attrs) => attrs,
            _ => interp.shared.no_attrs,
        };
        let caller = interp.cell(interp.closure(move |interp, value| {
            let value = interp.force(value)?;
            interp.auto_call(value, args)
        }));
        Self {
            args,
            _args: interp.hold(interp.cell(Value::Attrs(args))),
            caller: interp.hold(caller),
            called: RefCell::default(),
        }
    }

    /// Whether there are arguments.
    pub(crate) fn has_args(&self) -> bool {
        !self.args.is_empty()
    }

    /// Whether a value is a function that needs no further arguments.
    pub(crate) fn accepts(&self, interp: &Interp<'h>, cell: Ref<'h>) -> Result<bool> {
        let Value::Lambda { code, .. } = interp.force(cell)? else {
            return Ok(false);
        };
        let formals = interp.lambdas.get(code).formals.as_ref();
        Ok(formals.is_some_and(|formals| {
            let mut formals = formals.items.iter();
            formals.all(|it| it.default.is_some() || self.args.get(it.name).is_some())
        }))
    }

    /// The cell of a function's result, called with the arguments. For a value that is not called,
    /// its own cell.
    pub fn called(&self, interp: &Interp<'h>, cell: Ref<'h>) -> Result<Ref<'h>> {
        let callable = match interp.force(cell)? {
            Value::Lambda { code, .. } => interp.lambdas.get(code).formals.is_some(),
            Value::Attrs(attrs) => attrs.get(interp.known.functor).is_some(),
            _ => false,
        };
        if !callable {
            return Ok(cell);
        }
        let address = std::ptr::from_ref(cell).addr();
        let call = || {
            interp.cell(Value::Apply(interp.heap.alloc(Apply {
                func: self.caller.cell(),
                arg: cell,
            })))
        };
        let mut known = self.called.borrow_mut();
        let held = known
            .entry(address)
            .or_insert_with(|| (interp.hold(cell), interp.hold(call())));
        let called = held.1.cell();
        drop(known);
        interp.force(called)?;
        Ok(called)
    }

    /// The cell at an attribute path. Its value is evaluated, but not called.
    pub fn select(&self, interp: &Interp<'h>, start: Ref<'h>, path: &str) -> Result<Ref<'h>> {
        self.try_select(interp, start, path)
            .map_err(|error| match error {
                SelectError::NotFound(error) | SelectError::Failed(error) => error,
            })
    }

    pub(crate) fn try_select(
        &self,
        interp: &Interp<'h>,
        start: Ref<'h>,
        path: &str,
    ) -> std::result::Result<Ref<'h>, SelectError> {
        let mut cell = start;
        let Some(parts) = AttrPath::parse(path) else {
            let message = format!("missing closing quote in selection path '{path}'");
            return Err(Error::new(ErrorKind::Other, message).into());
        };
        let last = parts.len().saturating_sub(1);
        for (place, part) in parts.into_iter().enumerate() {
            let index = part.text.parse::<u32>().ok();
            let (part, is_quoted) = (part.text, part.is_quoted);
            if part.is_empty() && place == last && !self.has_empty_name(interp, cell)? {
                // As in C++ Nix, where no attribute can be selected by such a name.
                break;
            }
            cell = self.called(interp, cell)?;
            let value = interp.force(cell)?;
            let wrong = |wanted: &str| {
                let shown = value.type_phrase();
                let message = format!(
                    "the expression selected by the selection path '{path}' should be {wanted} but is {shown}"
                );
                SelectError::Failed(Error::new(ErrorKind::Type, message))
            };
            cell = match (index, value) {
                (Some(index), Value::List(list)) => match list.items.get(index as usize) {
                    Some(item) => item,
                    None => {
                        let message = format!(
                            "list index {index} in selection path '{path}' is out of range"
                        );
                        return Err(SelectError::NotFound(Error::new(
                            ErrorKind::Missing,
                            message,
                        )));
                    }
                },
                (Some(_), Value::Attrs(_)) if !is_quoted => return Err(wrong("a list")),
                (Some(_), Value::Attrs(attrs)) => self.attribute(interp, attrs, &part, path)?,
                (Some(_), _) => return Err(wrong("a list")),
                (None, Value::Attrs(attrs)) if part.is_empty() => {
                    match attrs.get(interp.intern("")).filter(|_| is_quoted) {
                        Some(attr) => attr.value,
                        None => {
                            let message =
                                format!("empty attribute name in selection path '{path}'");
                            return Err(Error::new(ErrorKind::Other, message).into());
                        }
                    }
                }
                (None, Value::Attrs(attrs)) => self.attribute(interp, attrs, &part, path)?,
                (None, _) => return Err(wrong("a set")),
            };
            interp.force(cell)?;
        }
        Ok(cell)
    }

    /// Whether a value is a set with an attribute whose name is empty.
    fn has_empty_name(&self, interp: &Interp<'h>, cell: Ref<'h>) -> Result<bool> {
        let cell = self.called(interp, cell)?;
        Ok(match interp.force(cell)? {
            Value::Attrs(attrs) => attrs.get(interp.intern("")).is_some(),
            _ => false,
        })
    }

    fn attribute(
        &self,
        interp: &Interp<'h>,
        attrs: &'h Attrs<'h>,
        part: &str,
        path: &str,
    ) -> std::result::Result<Ref<'h>, SelectError> {
        let name = interp.intern(part);
        if let Some(attr) = attrs.get(name) {
            return Ok(attr.value);
        }
        let message = format!("attribute '{part}' in selection path '{path}' not found");
        let known = interp.entries(attrs).iter().map(|attr| attr.name);
        Err(SelectError::NotFound(
            Error::new(ErrorKind::Missing, message).suggesting(interp.suggest(name, known)),
        ))
    }
}

/// The current directory, as the base of relative paths.
pub(crate) fn current_folder() -> Vec<u8> {
    match std::env::current_dir() {
        Ok(folder) => folder.as_os_str().as_bytes().to_vec(),
        Err(_) => b"/".to_vec(),
    }
}

/// A path made absolute.
pub(crate) fn absolute(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    match path.first() {
        Some(b'/') => paths::canonical(path),
        _ => paths::canonical(&[&current_folder(), b"/".as_slice(), path].concat()),
    }
}

impl<'h> Interp<'h> {
    /// The unevaluated cell of a source; `None` for sources that are not in the Nix language.
    pub fn source(&self, source: &EvalSource) -> Option<Ref<'h>> {
        Some(match source {
            EvalSource::File(path) => {
                let given = path.as_os_str().as_bytes();
                let is_url = path.to_str().is_some_and(is_pseudo_url);
                let path: &'h [u8] = match is_url {
                    true => self.heap.copy_text(given),
                    false => self.heap.copy_text(&absolute(path)),
                };
                self.later(move |interp| interp.eval_file(&interp.path_or_url(path)?))
            }
            EvalSource::SearchPath(name) => {
                let name: &'h str = self.heap.permanent().alloc_str(name);
                self.later(move |interp| {
                    let entries = &interp.world.settings.search_path;
                    let entries: Vec<_> = entries
                        .iter()
                        .map(|(prefix, path)| (prefix.clone().into(), path.clone().into()))
                        .collect();
                    let found = interp.find_file(&entries, name.as_bytes())?;
                    interp.eval_file(&found)
                })
            }
            EvalSource::Expression { text, base } => {
                let text: &'h [u8] = self.heap.copy_text(text.as_bytes());
                let base: &'h [u8] = self.heap.copy_text(&absolute(base));
                self.later(move |interp| interp.eval_text(text, base))
            }
            EvalSource::Stdin { text, base } => {
                let text: &'h [u8] = self.heap.copy_text(text);
                let base: &'h [u8] = self.heap.copy_text(&absolute(base));
                self.later(move |interp| interp.eval_stdin(text, base))
            }
            _ => return None,
        })
    }

    /// The result of a function, called with the arguments that it accepts; any other value
    /// unchanged. Formals without an argument must have a default.
    pub(crate) fn auto_call(&self, value: Value<'h>, args: &'h Attrs<'h>) -> Result<Value<'h>> {
        match value {
            Value::Attrs(attrs) => match attrs.get(self.known.functor) {
                Some(functor) => self.nested(functor.pos, || {
                    let func = self.force(functor.value)?;
                    let called = self.call(func, &[self.cell(value)], functor.pos)?;
                    self.auto_call(called, args)
                }),
                None => Ok(value),
            },
            Value::Lambda { code, .. } => {
                let lambda = self.lambdas.get(code);
                let Some(formals) = &lambda.formals else {
                    return Ok(value);
                };
                if formals.ellipsis {
                    let all = self.cell(Value::Attrs(args));
                    return self.call(value, &[all], Pos::NONE);
                }
                let mut given = Vec::new();
                for formal in formals.items.iter() {
                    match args.get(formal.name) {
                        Some(attr) => given.push(*attr),
                        None if formal.default.is_some() => {}
                        None => {
                            let name = self.display(formal.name);
                            let message = format!(
                                "cannot evaluate a function that has an argument without a value ('{name}')\n\
                                 Nix attempted to evaluate a function as a top level expression; in\n\
                                 this case it must have its arguments supplied either by default\n\
                                 values, or passed explicitly with '--arg' or '--argstr'. See\n\
                                 https://nix.dev/manual/nix/stable/language/syntax.html#functions."
                            );
                            return Err(Error::new(ErrorKind::Missing, message).at(formal.pos));
                        }
                    }
                }
                let given = self.attrs(given);
                self.call(value, &[self.cell(given)], Pos::NONE)
            }
            _ => Ok(value),
        }
    }

    /// A Rust function as a value. Its captures are never dropped, so it should only borrow.
    fn closure(&self, work: impl Fn(&Self, Ref<'h>) -> Result<Value<'h>> + 'h) -> Value<'h> {
        let heap = self.heap.permanent();
        let function: &'h Function<'h> =
            heap.alloc(move |interp: &Self, args: &[Ref<'h>], _: Pos| work(interp, args[0]));
        Value::Builtin(heap.alloc(Builtin {
            name: "source",
            arity: 1,
            quiet: true,
            strict: 0,
            function,
        }))
    }

    /// The cell of a Rust function's result, which is computed on demand.
    fn later(&self, work: impl Fn(&Self) -> Result<Value<'h>> + 'h) -> Ref<'h> {
        let func = self.cell(self.closure(move |interp, _| work(interp)));
        self.cell(Value::Apply(self.heap.alloc(Apply {
            func,
            arg: self.shared.null,
        })))
    }
}
