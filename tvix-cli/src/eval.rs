//! `tvix eval`.

use std::io::Write as _;
use std::process::ExitCode;

use tvix_eval::error::{Error, ErrorKind, Result};
use tvix_eval::interp::Interp;
use tvix_eval::select::Selector;
use tvix_eval::source::Pos;
use tvix_eval::value::{ContextId, Ref};
use tvix_eval::{Coercion, Evaluation, Failure};
use tvix_eval_api::EvalRequest;

use crate::args::EvalArgs;
use crate::error::CliError;
use crate::output::say;
use crate::{imports, source};

/// How a value is printed.
#[derive(Clone, Copy)]
enum Format {
    Nix { strict: bool },
    Json,
    Xml { strict: bool, places: bool },
    Raw,
}

impl Format {
    fn of(args: &EvalArgs) -> Self {
        let strict = args.strict;
        match args {
            EvalArgs { json: true, .. } => Self::Json,
            EvalArgs { raw: true, .. } => Self::Raw,
            EvalArgs { xml: true, .. } => Self::Xml {
                strict,
                places: !args.no_location,
            },
            _ => Self::Nix { strict },
        }
    }
}

/// Evaluates, prints, and returns the exit code.
pub async fn run(mut args: EvalArgs) -> std::result::Result<ExitCode, CliError> {
    args.source.file = args.source.file.or(args.path.take());
    let request = source::request(&args.source);
    let evaluator = source::evaluator(
        &args.source.search,
        args.building.store.as_ref(),
        args.read_write_mode,
    );
    let format = Format::of(&args);
    let started = evaluator.start(move |interp| values(interp, &request, format));
    let Evaluation { events, result } = match started {
        Ok(evaluation) => evaluation,
        Err(failure) => return Ok(failed(&failure)),
    };
    imports::follow(events, &args.building, args.read_write_mode).await?;
    match result.await {
        Ok(Ok(text)) => {
            let mut out = crate::output::stdout();
            out.write_all(&text).map_err(CliError::Output)?;
            out.flush().map_err(CliError::Output)?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(failure)) => Ok(failed(&failure)),
        Err(_) => {
            say!("error: the evaluation ended early");
            Ok(ExitCode::from(1))
        }
    }
}

fn failed(failure: &Failure) -> ExitCode {
    say!("{}", failure.rendered);
    ExitCode::from(1)
}

/// The values that were asked for, as text.
fn values(interp: &Interp<'_>, request: &EvalRequest, format: Format) -> Result<Vec<u8>> {
    let selector = Selector::new(interp, &request.args);
    let Some(source) = interp.source(&request.source) else {
        return Err(Error::new(ErrorKind::Unsupported, "nothing to evaluate"));
    };
    let mut out = Vec::new();
    let whole = [String::new()];
    let paths = match request.attr_paths.is_empty() {
        true => &whole,
        false => &request.attr_paths[..],
    };
    for path in paths {
        let mut cell = selector.select(interp, source, path)?;
        interp.force(cell)?;
        if selector.has_args() {
            cell = selector.called(interp, cell)?;
        }
        write(interp, cell, format, &mut out)?;
    }
    Ok(out)
}

fn write<'h>(interp: &Interp<'h>, cell: Ref<'h>, format: Format, out: &mut Vec<u8>) -> Result<()> {
    let mut context = ContextId::EMPTY;
    match format {
        Format::Raw => {
            let why = "while generating the output";
            let text = interp.coerce_cell(cell, Coercion::STRICT, Pos::NONE, why)?;
            out.extend_from_slice(text.bytes);
            return Ok(());
        }
        Format::Json => interp.write_json(cell, Pos::NONE, true, out, &mut context)?,
        Format::Xml { strict, places } => {
            let text = interp.to_xml(cell, Pos::NONE, strict, places, &mut context)?;
            out.extend_from_slice(&text);
            return Ok(());
        }
        Format::Nix { strict } => {
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
