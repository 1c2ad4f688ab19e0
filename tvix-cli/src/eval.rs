//! `tvix eval`.

use std::io::Write as _;
use std::process::ExitCode;

use tvix_eval::{Evaluation, Failure, NixEvaluator, PrintFormat, Printed};
use tvix_eval_api::{EvalRequest, EvalSource};

use crate::args::{EvalArgs, PrintArgs};
use crate::error::CliError;
use crate::output::say;
use crate::{exit, imports, output, source};

/// How values are printed.
fn format(args: &PrintArgs) -> PrintFormat {
    let strict = args.strict;
    match args {
        PrintArgs { json: true, .. } => PrintFormat::Json,
        PrintArgs { raw: true, .. } => PrintFormat::Raw,
        PrintArgs { xml: true, .. } => PrintFormat::Xml {
            strict,
            places: !args.no_location,
        },
        _ => PrintFormat::Nix { strict },
    }
}

/// Evaluates, prints, and returns the exit code.
pub async fn run(args: EvalArgs) -> Result<ExitCode, CliError> {
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
                format: format(&args.print),
            },
        }
    };
    let Evaluation { events, result } = match wanted.start(&evaluator) {
        Ok(evaluation) => evaluation,
        Err(failure) => {
            say!("{}", failure.rendered);
            return Ok(ExitCode::from(exit::ERROR));
        }
    };
    let failures = imports::follow(events, &args.building, args.print.read_write_mode).await?;
    let printed = match result.await {
        Ok(Ok(printed)) => printed,
        Ok(Err(failure)) => {
            say!("{}", failure.rendered);
            return Ok(ExitCode::from(exit::ERROR));
        }
        Err(_) => {
            say!("error: the evaluation ended early");
            return Ok(ExitCode::from(exit::ERROR));
        }
    };
    // What was printed before an error is printed, too.
    output::write(|out| out.write_all(&printed.text))?;
    let Some(failure) = printed.failure else {
        return Ok(ExitCode::SUCCESS);
    };
    say!("{}", failure.rendered);
    let code = match failure.import {
        Some(_) => failures.code(),
        None => exit::ERROR,
    };
    Ok(ExitCode::from(code))
}

/// The requested output.
enum Wanted {
    Values {
        requests: Vec<EvalRequest>,
        format: PrintFormat,
    },
    /// Syntax trees.
    Trees(Vec<EvalSource>),
    /// Where entries of the search path are.
    Files(Vec<String>),
}

impl Wanted {
    fn start(self, evaluator: &NixEvaluator) -> Result<Evaluation<Printed>, Failure> {
        match self {
            Self::Values { requests, format } => evaluator.print(requests, format),
            Self::Trees(sources) => evaluator.print_with(move |interp, out| {
                sources.iter().try_for_each(|source| {
                    line(out, &interp.syntax_tree(source)?);
                    Ok(())
                })
            }),
            Self::Files(names) => evaluator.print_with(move |interp, out| {
                names.iter().try_for_each(|name| {
                    line(out, &interp.search(name)?);
                    Ok(())
                })
            }),
        }
    }
}

fn line(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(b'\n');
}
