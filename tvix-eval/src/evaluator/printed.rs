//! Values as text.

use futures::StreamExt as _;
use tokio::sync::oneshot;
use tvix_eval_api::EvalRequest;

use super::NixEvaluator;
use super::embed::{Evaluation, Failure, run};
use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::Interp;
use crate::select::Selector;
use crate::source::Pos;
use crate::value::{ContextId, Ref};

/// How values are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrintFormat {
    /// The form of the language. Parts that are not evaluated are `<CODE>`.
    Nix {
        /// Whether all parts are evaluated.
        strict: bool,
    },
    /// The form of `builtins.toJSON`.
    Json,
    /// The form of `builtins.toXML`.
    Xml {
        /// Whether all parts are evaluated.
        strict: bool,
        /// Whether it has the positions of definitions.
        places: bool,
    },
    /// A string, as it is.
    Raw,
}

/// Values as text, made by [`NixEvaluator::print`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Printed {
    /// The values, in the order of the requests. In case of an error, what was printed before it.
    pub text: Vec<u8>,
    /// The first error.
    pub failure: Option<Failure>,
}

impl NixEvaluator {
    /// Evaluates and prints the values at the attribute paths of requests. Imports from derivation
    /// are requested through the events. Garbage is collected, unlike by [`NixEvaluator::spawn`].
    ///
    /// # Errors
    ///
    /// If the thread cannot be started. Errors of the evaluation are in [`Printed::failure`].
    pub fn print(
        &self,
        requests: Vec<EvalRequest>,
        format: PrintFormat,
    ) -> std::result::Result<Evaluation<Printed>, Failure> {
        self.printing(true, move |interp, text| {
            let mut requests = requests.iter();
            requests.try_for_each(|request| values(interp, request, format, text))
        })
    }

    /// Evaluates what `work` asks for, and returns the text that it writes. As with
    /// [`NixEvaluator::spawn`], nothing is collected.
    ///
    /// # Errors
    ///
    /// As for [`NixEvaluator::print`].
    pub fn print_with<F>(&self, work: F) -> std::result::Result<Evaluation<Printed>, Failure>
    where
        F: for<'i, 'h> FnOnce(&'i Interp<'h>, &mut Vec<u8>) -> Result<()> + Send + 'static,
    {
        self.printing(false, work)
    }

    fn printing<F>(
        &self,
        collects: bool,
        work: F,
    ) -> std::result::Result<Evaluation<Printed>, Failure>
    where
        F: for<'i, 'h> FnOnce(&'i Interp<'h>, &mut Vec<u8>) -> Result<()> + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let events = self.setup().spawn(move |interp, _| {
            if collects {
                interp.allow_collection();
            }
            let mut text = Vec::new();
            let done = run(interp, |interp| work(interp, &mut text));
            let failure = done.err();
            let _ = sender.send(Ok(Printed { text, failure }));
        })?;
        Ok(Evaluation {
            events: events.boxed(),
            result,
        })
    }
}

fn values(
    interp: &Interp<'_>,
    request: &EvalRequest,
    format: PrintFormat,
    out: &mut Vec<u8>,
) -> Result<()> {
    let selector = Selector::new(interp, &request.args);
    let Some(source) = interp.source(&request.source) else {
        return Err(Error::new(ErrorKind::Unsupported, "nothing to evaluate"));
    };
    let source = interp.hold(source);
    let whole = [String::new()];
    let paths = match request.attr_paths.is_empty() {
        true => &whole,
        false => &request.attr_paths[..],
    };
    for path in paths {
        let mut cell = selector.select(interp, source.cell(), path)?;
        interp.force(cell)?;
        if selector.has_args() {
            cell = selector.called(interp, cell)?;
        }
        let held = interp.hold(cell);
        write(interp, held.cell(), format, out)?;
    }
    Ok(())
}

fn write<'h>(
    interp: &Interp<'h>,
    cell: Ref<'h>,
    format: PrintFormat,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut context = ContextId::EMPTY;
    match format {
        PrintFormat::Raw => {
            let why = "while generating the output";
            let text = interp.coerce_cell(cell, Coercion::STRICT, Pos::NONE, why)?;
            out.extend_from_slice(text.bytes);
            return Ok(());
        }
        PrintFormat::Json => interp.write_json(cell, Pos::NONE, true, out, &mut context)?,
        PrintFormat::Xml { strict, places } => {
            let text = interp.to_xml(cell, Pos::NONE, strict, places, &mut context)?;
            out.extend_from_slice(&text);
            return Ok(());
        }
        PrintFormat::Nix { strict } => {
            let value = match strict {
                true => interp.force_deep(cell, Pos::NONE)?,
                false => interp.force(cell)?,
            };
            interp.print(value, out)?;
        }
    }
    out.push(b'\n');
    Ok(())
}
