//! `tvix repl`.
//!
//! Lines are read and evaluated on the evaluation's thread. What a line needs built is asked for as
//! by any other evaluation, and built here meanwhile.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use tvix_eval::error::Result;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::syntax::Scope;
use tvix_eval::value::{Ref, Value};
use tvix_eval::{Evaluation, Failure};

use crate::args::ReplArgs;
use crate::error::CliError;
use crate::output::{answer, say};
use crate::{imports, source};

const HELP: &str = "\
EXPR          evaluate and print
NAME = EXPR   give a name to a value
:l FILE       load the attributes of a file as names
:t EXPR       the type of a value
:p EXPR       evaluate all of a value and print it
:b EXPR       build a derivation and print the paths of its outputs
:q            leave
:?            this help";

/// Reads, evaluates and prints until there is no more to read.
pub async fn run(args: ReplArgs) -> std::result::Result<ExitCode, CliError> {
    let evaluator = source::evaluator(&args.search, args.building.store.as_ref(), true);
    let started = evaluator.start(|interp| Ok(Repl::new(interp).run()));
    let Evaluation { events, result } = match started {
        Ok(evaluation) => evaluation,
        Err(failure) => return Ok(failed(&failure)),
    };
    imports::follow(events, &args.building, false).await?;
    match result.await {
        Ok(Ok(Ok(()))) => Ok(ExitCode::SUCCESS),
        Ok(Ok(Err(error))) => Err(CliError::Terminal(error)),
        Ok(Err(failure)) => Ok(failed(&failure)),
        Err(_) => {
            say!("error: the evaluation ended early");
            Ok(ExitCode::from(2))
        }
    }
}

fn failed(failure: &Failure) -> ExitCode {
    say!("{}", failure.rendered);
    ExitCode::from(2)
}

struct Repl<'i, 'h> {
    interp: &'i Interp<'h>,
    scope: Scope<'h>,
    names: Arc<Mutex<Vec<String>>>,
    base: Vec<u8>,
}

impl<'i, 'h> Repl<'i, 'h> {
    fn new(interp: &'i Interp<'h>) -> Self {
        let base = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let mut names: Vec<_> = interp.builtin_names().collect();
        names.extend([":l ", ":t ", ":p ", ":b ", ":q", ":?"].map(str::to_owned));
        Self {
            interp,
            scope: interp.global_scope(),
            names: Arc::new(Mutex::new(names)),
            base: base.into_os_string().into_encoded_bytes(),
        }
    }

    fn run(mut self) -> std::result::Result<(), ReadlineError> {
        let mut editor: Editor<Names, DefaultHistory> = Editor::new()?;
        editor.set_helper(Some(Names(self.names.clone())));
        let history = std::env::home_dir().map(|home| home.join(".local/share/tvix/repl-history"));
        if let Some(history) = &history {
            // No history is no reason not to start.
            let _ = editor.load_history(history);
        }
        loop {
            match editor.readline("tvix-repl> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    if line.trim() == ":q" {
                        break;
                    }
                    if let Err(error) = self.line(line.trim()) {
                        say!("{}", self.interp.render(&error));
                    }
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error),
            }
        }
        if let Some(history) = &history {
            let _ = history.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(history);
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "" => Ok(()),
            ":?" | ":help" => {
                answer!("{HELP}");
                Ok(())
            }
            ":l" => self.load(rest.trim()),
            ":t" => {
                answer!("{}", self.value(rest)?.type_phrase());
                Ok(())
            }
            ":p" => {
                let cell = self.interp.cell(self.value(rest)?);
                let value = self.interp.force_deep(cell, Pos::NONE)?;
                self.print(value)
            }
            ":b" => {
                let cell = self.interp.cell(self.value(rest)?);
                for (output, path) in self.interp.build_derivation(cell)? {
                    answer!("{output} -> {path}");
                }
                Ok(())
            }
            command if command.starts_with(':') => {
                say!("error: unknown command '{command}'; ':?' lists them");
                Ok(())
            }
            _ => match definition(line) {
                Some((name, text)) => {
                    let cell = self.interp.cell(self.value(text)?);
                    self.define(name, cell);
                    Ok(())
                }
                None => self.print(self.value(line)?),
            },
        }
    }

    fn value(&self, text: &str) -> Result<Value<'h>> {
        let (text, base) = (text.as_bytes(), &self.base);
        self.interp.eval_text_in(text, base, &self.scope)
    }

    fn print(&self, value: Value<'h>) -> Result<()> {
        let mut out = Vec::new();
        self.interp.print(value, &mut out)?;
        answer!("{}", String::from_utf8_lossy(&out));
        Ok(())
    }

    fn define(&mut self, name: &str, cell: Ref<'h>) {
        self.scope.insert(self.interp.intern(name), cell);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name.to_owned());
    }

    fn load(&mut self, file: &str) -> Result<()> {
        let source = match file.strip_prefix('<').and_then(|it| it.strip_suffix('>')) {
            Some(name) => tvix_eval_api::EvalSource::SearchPath(name.to_owned()),
            None => tvix_eval_api::EvalSource::File(file.into()),
        };
        let Some(cell) = self.interp.source(&source) else {
            return Ok(());
        };
        let none = tvix_eval::select::Selector::new(self.interp, &Default::default());
        let cell = none.called(self.interp, cell)?;
        let attrs = self
            .interp
            .expect_attrs(cell, Pos::NONE, "while loading a file")?;
        let entries = self.interp.by_name(attrs);
        answer!("added {} names", entries.len());
        for (name, attr) in entries {
            self.define(&String::from_utf8_lossy(name), attr.value);
        }
        Ok(())
    }
}

/// `name = expression`, perhaps with a semicolon.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, text) = line.split_once('=')?;
    let name = name.trim();
    let mut letters = name.chars();
    let first = letters.next()?;
    let plain = (first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "_-'".contains(letter));
    if !plain || text.starts_with('=') {
        return None;
    }
    let text = text.trim();
    Some((name, text.strip_suffix(';').unwrap_or(text)))
}

/// Completes names.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Names(Arc<Mutex<Vec<String>>>);

impl Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..pos];
        let is_part = |letter: char| letter.is_alphanumeric() || "_-'.:".contains(letter);
        let start = before.rfind(|letter| !is_part(letter)).map_or(0, |at| {
            at + before[at..].chars().next().map_or(1, char::len_utf8)
        });
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<String> = names
            .iter()
            .filter(|name| name.starts_with(&before[start..]))
            .cloned()
            .collect();
        found.sort();
        found.dedup();
        Ok((start, found))
    }
}

#[cfg(test)]
mod tests {
    use super::definition;

    #[test]
    fn definitions() {
        assert_eq!(definition("a = 1 + 1;"), Some(("a", "1 + 1")));
        assert_eq!(definition("a == 1"), None);
        assert_eq!(definition("{ a = 1; }"), None);
        assert_eq!(definition("x: x"), None);
    }
}
