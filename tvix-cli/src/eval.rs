//! `tvix eval`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tvix_eval::error::{Error, ErrorKind, Result};
use tvix_eval::interp::Interp;
use tvix_eval::select::Selector;
use tvix_eval::source::Pos;
use tvix_eval::value::{ContextId, Ref};
use tvix_eval::{Coercion, Evaluation};
use tvix_eval_api::{EvalRequest, EvalSource};

use crate::args::{EvalArgs, PrintArgs};
use crate::error::CliError;
use crate::output::say;
use crate::{exit, imports, output, source};

/// How a value is printed.
#[derive(Clone, Copy)]
enum Format {
    Nix { strict: bool },
    Json,
    Xml { strict: bool, places: bool },
    Raw,
}

impl Format {
    fn of(args: &PrintArgs) -> Self {
        let strict = args.strict;
        match args {
            PrintArgs { json: true, .. } => Self::Json,
            PrintArgs { raw: true, .. } => Self::Raw,
            PrintArgs { xml: true, .. } => Self::Xml {
                strict,
                places: !args.no_location,
            },
            _ => Self::Nix { strict },
        }
    }
}

/// Evaluates, prints, and returns the exit code.
pub async fn run(args: EvalArgs) -> std::result::Result<ExitCode, CliError> {
    let evaluator = source::evaluator(
        &args.source.search,
        &args.building,
        args.print.read_write_mode,
    );
    let wanted = if args.print.find_file {
        Wanted::Files(args.inputs)
    } else {
        let sources = source::sources(&args.source, &args.inputs)?;
        match args.print.parse {
            true => Wanted::Trees(sources),
            false => Wanted::Values {
                requests: source::requests(&args.source, sources)?,
                format: Format::of(&args.print),
            },
        }
    };
    // What was printed before an error is printed, too.
    let printed = Arc::new(Mutex::new(Vec::new()));
    let out = printed.clone();
    let started = evaluator.spawn(move |interp| {
        let mut text = Vec::new();
        let result = wanted.print(interp, &mut text);
        *out.lock().unwrap_or_else(PoisonError::into_inner) = text;
        result
    });
    let Evaluation { events, result } = match started {
        Ok(evaluation) => evaluation,
        Err(failure) => {
            say!("{}", failure.rendered);
            return Ok(ExitCode::from(exit::ERROR));
        }
    };
    let failures = imports::follow(events, &args.building, args.print.read_write_mode).await?;
    let result = result.await;
    output::write(|out| {
        let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&printed)
    })?;
    match result {
        Ok(Ok(())) => Ok(ExitCode::SUCCESS),
        Ok(Err(failure)) => {
            say!("{}", failure.rendered);
            let code = match failure.import {
                Some(_) => failures.code(),
                None => exit::ERROR,
            };
            Ok(ExitCode::from(code))
        }
        Err(_) => {
            say!("error: the evaluation ended early");
            Ok(ExitCode::from(exit::ERROR))
        }
    }
}

/// The requested output.
enum Wanted {
    Values {
        requests: Vec<EvalRequest>,
        format: Format,
    },
    /// Syntax trees.
    Trees(Vec<EvalSource>),
    /// Where entries of the search path are.
    Files(Vec<String>),
}

impl Wanted {
    fn print(self, interp: &Interp<'_>, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Values { requests, format } => requests
                .iter()
                .try_for_each(|request| values(interp, request, format, out)),
            Self::Trees(sources) => sources.iter().try_for_each(|source| {
                out.extend_from_slice(&interp.syntax_tree(source)?);
                out.push(b'\n');
                Ok(())
            }),
            Self::Files(names) => names.iter().try_for_each(|name| {
                out.extend_from_slice(&interp.search(name)?);
                out.push(b'\n');
                Ok(())
            }),
        }
    }
}

/// The values that were asked for, as text.
fn values(
    interp: &Interp<'_>,
    request: &EvalRequest,
    format: Format,
    out: &mut Vec<u8>,
) -> Result<()> {
    let selector = Selector::new(interp, &request.args);
    let Some(source) = interp.source(&request.source) else {
        return Err(Error::new(ErrorKind::Unsupported, "nothing to evaluate"));
    };
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
        write(interp, cell, format, out)?;
    }
    Ok(())
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
