//! Errors, traces and evaluation order.

use tvix_eval_api::{Diagnostic, Severity};

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::{Demand, Interp, Offer};
use crate::source::Pos;
use crate::value::{Attr, ContextId, Ref, THEN_OTHERS, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("abort", 1, abort),
    def("throw", 1, throw),
    def("seq", 2, seq).strict(0b1 | THEN_OTHERS),
    def("deepSeq", 2, deep_seq),
    def("tryEval", 1, try_eval),
    def("addErrorContext", 2, add_error_context),
    def("trace", 2, trace),
    def("traceVerbose", 2, trace_verbose),
    def("warn", 2, warn),
    def("break", 1, break_here),
];

fn abort<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the error message passed to builtins.abort",
    )?;
    let text = String::from_utf8_lossy(text.bytes);
    Err(Error::new(
        ErrorKind::Abort,
        format!("evaluation aborted with the following error message: '{text}'"),
    ))
}

fn throw<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the error message passed to builtin.throw",
    )?;
    Err(Error::new(
        ErrorKind::Thrown,
        String::from_utf8_lossy(text.bytes),
    ))
}

fn seq<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp.then_value(args, |cell| interp.force_at(cell, pos))?;
    interp.force_at(args[1], pos)
}

fn deep_seq<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp.then_value(args, |cell| interp.force_deep(cell, pos))?;
    interp.force_at(args[1], pos)
}

fn try_eval<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let depth = interp.depth.get();
    let (success, value) = match interp.force_at(args[0], pos) {
        Ok(_) => (interp.shared.yes, args[0]),
        Err(error) if error.is_catchable() => {
            interp.depth.set(depth);
            (interp.shared.no, interp.shared.no)
        }
        Err(error) => return Err(error),
    };
    let attr = |name, value| Attr {
        name,
        pos: Pos::NONE,
        value,
    };
    Ok(interp.attrs(vec![
        attr(interp.known.success, success),
        attr(interp.known.value, value),
    ]))
}

fn add_error_context<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let error = match interp.force_at(args[1], pos) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let text = interp.coerce_cell(
        args[0],
        Coercion::STRICT,
        pos,
        "while evaluating the error message passed to builtins.addErrorContext",
    )?;
    Err(error.within_always(Pos::NONE, String::from_utf8_lossy(text.bytes).into_owned()))
}

fn trace<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = match interp.force_at(args[0], pos)? {
        Value::String(string) => String::from_utf8_lossy(string.bytes).into_owned(),
        value => interp.show_whole(args[0], value)?,
    };
    interp.diagnostic(Diagnostic::new(Severity::Trace, format!("trace: {text}")));
    interp.force_at(args[1], pos)
}

fn trace_verbose<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    if interp.world.settings.trace_verbose {
        return trace(interp, args, pos);
    }
    interp.force_at(args[1], pos)
}

fn warn<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_string(
        args[0],
        pos,
        "while evaluating the first argument; the message passed to builtins.warn",
    )?;
    interp.diagnostic(Diagnostic::new(
        Severity::Warning,
        format!(
            "evaluation warning: {}",
            String::from_utf8_lossy(text.bytes)
        ),
    ));
    if interp.world.settings.abort_on_warn {
        return Err(Error::new(
            ErrorKind::Abort,
            "aborting to reveal stack trace of warning, as abort-on-warn is set",
        ));
    }
    interp.force_at(args[1], pos)
}

fn break_here<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp.force_at(args[0], pos)
}

impl<'h> Interp<'h> {
    /// Runs code for the first of two arguments. The second one is forced next.
    fn then_value(
        &self,
        args: &[Ref<'h>],
        work: impl FnOnce(Ref<'h>) -> Result<Value<'h>>,
    ) -> Result<Value<'h>> {
        let offer = |index| Offer::item(args, index, |arg| *arg, Demand::Value);
        self.upcoming(&offer, |_| work(args[0]))
    }

    /// Evaluates a value deeply.
    pub fn force_deep(&self, cell: Ref<'h>, pos: Pos) -> Result<Value<'h>> {
        let mut seen = rustc_hash::FxHashSet::default();
        self.force_deep_seen(cell, pos, &mut seen)
    }

    fn force_deep_seen(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        seen: &mut rustc_hash::FxHashSet<usize>,
    ) -> Result<Value<'h>> {
        // C++ Nix checks sets in place, and descends before it evaluates anything.
        let at = match cell.get() {
            Value::Attrs(attrs) => attrs.pos,
            _ => Pos::NONE,
        };
        self.nested(at, || {
            let value = self.force_at(cell, pos)?;
            match value {
                Value::List(list) if seen.insert(std::ptr::from_ref(list).addr()) => {
                    self.each_upcoming(
                        list.items,
                        |item| item,
                        Demand::Deep,
                        |index, item| {
                            if let Err(error) = self.force_deep_seen(item, pos, seen) {
                                let what =
                                    format!("while evaluating list element at index {index}");
                                return Err(error.within(Pos::NONE, what));
                            }
                            Ok(())
                        },
                    )?;
                }
                Value::Attrs(attrs) if seen.insert(std::ptr::from_ref(attrs).addr()) => {
                    self.each_upcoming(
                        self.entries(attrs),
                        |attr| attr.value,
                        Demand::Deep,
                        |_, attr| {
                            if let Err(error) = self.force_deep_seen(attr.value, attr.pos, seen) {
                                let name = self.display(attr.name);
                                return Err(error.within(
                                    attr.pos,
                                    format!("while evaluating the attribute '{name}'"),
                                ));
                            }
                            Ok(())
                        },
                    )?;
                }
                _ => {}
            }
            Ok(value)
        })
    }

    /// The attributes `{ file, line, column }` of a position, or null if it is not in a file.
    pub(crate) fn pos_attrs(&self, pos: Pos) -> Value<'h> {
        use crate::source::Origin;
        match self.place_in_values(pos) {
            Some(place) => {
                let path = match place.origin {
                    Origin::File(path) => path,
                    Origin::Internal => b"/derivation-internal.nix",
                    _ => return Value::Null,
                };
                let file = self.string(path, ContextId::EMPTY);
                let attr = |name, value| Attr {
                    name,
                    pos: Pos::NONE,
                    value: self.cell(value),
                };
                self.attrs(vec![
                    attr(self.known.file, file),
                    attr(self.known.line, Value::Int(i64::from(place.line))),
                    attr(self.known.column, Value::Int(i64::from(place.column))),
                ])
            }
            None => Value::Null,
        }
    }
}
