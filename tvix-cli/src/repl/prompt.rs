//! The prompt: reads and executes lines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix_compat::store_path::StoreDir;
use rustyline::error::ReadlineError;
use tvix_eval::PrettyOptions;
use tvix_eval::error::{Error, ErrorKind};
use tvix_eval::interactive::{Parsed, ParsedInput};
use tvix_eval::interp::Interp;
use tvix_eval::select::Selector;
use tvix_eval::source::Pos;
use tvix_eval::value::{Ref, Value};
use tvix_eval_api::{EvalRequest, RealiseError};
use tvix_store_api::StoreUri;

use super::command::{self, split};
use super::complete::Names;
use super::input::{Input, Line};
use super::service::{Asking, Task};
use super::state::State;
use super::{doc, print};
use crate::output::say;
use crate::source::file_source;

/// Names of a loaded set that are listed.
const LISTED: usize = 20;

/// What `:u` makes of a derivation.
const SHELL: &str =
    "drv: (import <nixpkgs> {}).runCommand \"shell\" { buildInputs = [ drv ]; } \"\"";

/// Why a line was not done.
enum Stop {
    /// The input continues on the next line; the missing token.
    Unfinished(Box<Error>),
    /// Evaluation failed.
    Error(Box<Error>),
    /// Anything else.
    Message(String),
}

impl From<Box<Error>> for Stop {
    fn from(error: Box<Error>) -> Self {
        Self::Error(error)
    }
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

type Done<T = ()> = Result<T, Stop>;

/// Reads and evaluates lines until there are no more. `loaded` are sources whose attributes are
/// variables from the beginning.
pub fn run(
    interp: &Interp<'_>,
    arguments: &BTreeMap<String, String>,
    asking: Asking,
    store: Option<StoreUri>,
    interrupted: Arc<AtomicBool>,
    loaded: &[EvalRequest],
) -> Result<(), ReadlineError> {
    say!("Tvix {}\nType :? for help.", env!("CARGO_PKG_VERSION"));
    let state = RefCell::new(State::new(interp, interrupted));
    let mut prompt = Prompt {
        interp,
        state: &state,
        asking,
        store,
        selector: Selector::new(interp, arguments),
        loaded,
        files: Vec::new(),
        last_loaded: None,
    };
    if let Err(stop) = prompt.load_all() {
        prompt.report(&stop);
    }
    let mut input = Input::open(Names(&state))?;
    let ended = prompt.lines(&mut input);
    input.close();
    ended
}

struct Prompt<'r, 'i, 'h> {
    interp: &'i Interp<'h>,
    state: &'r RefCell<State<'i, 'h>>,
    asking: Asking,
    /// The store, unless it is the default one.
    store: Option<StoreUri>,
    selector: Selector<'h>,
    /// Loads the sources of the command line.
    loaded: &'r [EvalRequest],
    /// Files that were loaded later, as they were named.
    files: Vec<String>,
    /// Names that were loaded last.
    last_loaded: Option<Vec<String>>,
}

impl<'h> Prompt<'_, '_, 'h> {
    fn lines(&mut self, input: &mut Input<'_, '_, 'h>) -> Result<(), ReadlineError> {
        let mut text = String::new();
        let mut missing = None;
        loop {
            match input.line(!text.is_empty())? {
                Line::Text(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Line::Interrupted => {
                    text.clear();
                    continue;
                }
                Line::End => {
                    if let Some(missing) = missing {
                        self.report(&Stop::Error(missing));
                    }
                    return Ok(());
                }
            }
            missing = None;
            self.state
                .borrow()
                .interrupted
                .store(false, Ordering::Relaxed);
            match self.line(text.trim()) {
                Ok(true) => {}
                Ok(false) => {
                    input.remember(&text);
                    return Ok(());
                }
                Err(Stop::Unfinished(error)) => {
                    missing = Some(error);
                    continue;
                }
                Err(stop) => self.report(&stop),
            }
            input.remember(&text);
            text.clear();
            print::end_line();
        }
    }

    fn report(&self, stop: &Stop) {
        let text = match stop {
            Stop::Message(message) => format!("error: {message}"),
            Stop::Error(error) | Stop::Unfinished(error) if is_interrupt(error) => {
                "error: interrupted by the user".to_owned()
            }
            Stop::Error(error) | Stop::Unfinished(error) => self.interp.render(error),
        };
        say!("{text}");
    }

    /// Executes an input; false to leave the prompt.
    fn line(&mut self, text: &str) -> Done<bool> {
        if text.is_empty() {
            return Ok(true);
        }
        match split(text) {
            Some((":q" | ":quit", _)) => return Ok(false),
            Some((command, argument)) => self.command(command, argument)?,
            None => self.typed(text)?,
        }
        Ok(true)
    }

    fn command(&mut self, command: &str, argument: &str) -> Done {
        match command {
            ":?" | ":help" => print::out(command::help().as_bytes()),
            ":a" | ":add" => {
                let value = self.value(argument)?;
                self.add(value)?;
            }
            ":l" | ":load" => {
                self.interp.forget_files();
                self.load_file(argument)?;
            }
            ":ll" | ":last-loaded" => {
                let Some(names) = &self.last_loaded else {
                    return Err("nothing has been loaded yet".to_owned().into());
                };
                names.iter().for_each(|name| print::line(name));
            }
            ":lf" | ":load-flake" => {
                let message = "flakes are not supported; load a file with ':l FILE'";
                return Err(message.to_owned().into());
            }
            ":r" | ":reload" => self.reload()?,
            ":t" => print::line(&self.value(argument)?.type_phrase()),
            ":p" | ":print" => match self.value(argument)? {
                Value::String(string) => {
                    print::out(string.bytes);
                    print::end_line();
                }
                value => self.print(value, &PrettyOptions::default())?,
            },
            ":te" | ":trace-enable" => self.trace(command, argument)?,
            ":doc" => self.doc(argument)?,
            ":e" | ":edit" => self.edit(argument)?,
            ":b" | ":bl" => self.build(argument, command == ":bl")?,
            ":log" => {
                let derivation = self.derivation(argument)?;
                let log = self.asking.ask(Task::Log(self.store_path(derivation)?))?;
                print::out(&log);
            }
            ":i" => {
                let derivation = self.derivation(argument)?;
                self.run_nix("nix-env", &["-i"], derivation)?;
            }
            ":sh" => {
                let derivation = self.derivation(argument)?;
                self.run_nix("nix-shell", &[], derivation)?;
            }
            ":u" => {
                let value = self.value(argument)?;
                let shell = self.value(SHELL)?;
                let argument = self.interp.cell(value);
                let called = self.interp.call(shell, &[argument], Pos::NONE)?;
                let derivation = self.checked_derivation(called)?;
                self.run_nix("nix-shell", &[], derivation)?;
            }
            _ => return Err(format!("unknown command '{command}'").into()),
        }
        Ok(())
    }

    /// An expression or definitions.
    fn typed(&mut self, text: &str) -> Done {
        let parsed = {
            let state = self.state.borrow();
            self.interp
                .parse_input(text.as_bytes(), &state.base, &state.scope)
        };
        match parsed? {
            ParsedInput::Unfinished(error) => Err(Stop::Unfinished(error)),
            ParsedInput::Definitions(set) => {
                for (name, cell) in self.interp.define_typed(set)? {
                    self.define(name, cell);
                }
                Ok(())
            }
            ParsedInput::Expression(expr) => {
                let value = self.interp.eval_typed(expr)?;
                self.print(value, &PrettyOptions::default().with_depth(1))
            }
        }
    }

    /// Parses an expression.
    fn expression(&self, text: &str) -> Done<Parsed<'h>> {
        let state = self.state.borrow();
        let text = text.as_bytes();
        let parsed = self
            .interp
            .parse_input_expression(text, &state.base, &state.scope);
        match parsed? {
            Ok(expr) => Ok(expr),
            Err(error) => Err(Stop::Unfinished(error)),
        }
    }

    fn value(&self, text: &str) -> Done<Value<'h>> {
        Ok(self.interp.eval_typed(self.expression(text)?)?)
    }

    fn print(&self, value: Value<'h>, options: &PrettyOptions) -> Done {
        let options = options.clone().with_colours(true);
        let mut out = Vec::new();
        let printed = self
            .interp
            .pretty(self.interp.cell(value), &options, &mut out);
        // What was printed before the error; of what is too deep that would be all of it.
        if printed
            .as_ref()
            .err()
            .is_none_or(|error| error.kind != ErrorKind::Depth)
        {
            print::out(&out);
            if printed.is_ok() {
                print::end_line();
            }
        }
        Ok(printed?)
    }

    fn define(&self, name: String, cell: Ref<'h>) {
        let mut state = self.state.borrow_mut();
        state.scope.insert(self.interp.intern(&name), cell);
        state.names.insert(name);
    }

    /// Makes the attributes of a set variables.
    fn add(&mut self, value: Value<'h>) -> Done {
        let why = "while evaluating an attribute set to be merged in the global scope";
        let attrs = self
            .interp
            .expect_attrs(self.interp.cell(value), Pos::NONE, why)?;
        let entries = self.interp.named(attrs);
        let names: Vec<String> = entries.iter().map(|(name, _)| name.clone()).collect();
        for (name, cell) in entries {
            self.define(name, cell);
        }
        let listed: Vec<String> = names
            .iter()
            .take(LISTED)
            .map(|name| literal(name))
            .collect();
        let count = names.len();
        say!("Added {count} variables.\n{}", listed.join(", "));
        if count > LISTED {
            say!("... and {} more; view with :ll", count - LISTED);
        }
        self.last_loaded = Some(names);
        Ok(())
    }

    fn load_all(&mut self) -> Done {
        for request in self.loaded {
            if let Some(cell) = self.interp.source(&request.source) {
                self.load(cell, &request.attr_paths)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, cell: Ref<'h>, attr_paths: &[String]) -> Done {
        let whole = [String::new()];
        let paths = if attr_paths.is_empty() {
            &whole
        } else {
            attr_paths
        };
        for path in paths {
            let cell = self.selector.select(self.interp, cell, path)?;
            let cell = self.selector.called(self.interp, cell)?;
            let value = self.interp.force(cell)?;
            self.add(value)?;
        }
        Ok(())
    }

    fn load_file(&mut self, file: &str) -> Done {
        if file.is_empty() {
            return Err("':l' needs the path of a file".to_owned().into());
        }
        self.files.retain(|loaded| loaded != file);
        self.files.push(file.to_owned());
        let source = file_source(file).map_err(|error| error.to_string())?;
        match self.interp.source(&source) {
            Some(cell) => self.load(cell, &[]),
            None => Ok(()),
        }
    }

    /// Loads everything again; variables that were defined are forgotten, as in C++ Nix.
    fn reload(&mut self) -> Done {
        self.interp.forget_files();
        let interrupted = self.state.borrow().interrupted.clone();
        *self.state.borrow_mut() = State::new(self.interp, interrupted);
        for file in std::mem::take(&mut self.files) {
            say!("Loading \"{}\"...", file);
            self.load_file(&file)?;
        }
        self.load_all()
    }

    fn trace(&self, command: &str, argument: &str) -> Done {
        let show = match argument {
            "" => !self.interp.shows_traces(),
            "true" => true,
            "false" => false,
            _ => return Err(format!("unexpected argument '{argument}' to {command}").into()),
        };
        self.interp.show_traces(show);
        let not = if show { "" } else { "not " };
        print::line(&format!("{not}showing error traces"));
        Ok(())
    }

    fn doc(&self, argument: &str) -> Done {
        let expr = self.expression(argument)?;
        match self.interp.documentation(expr)? {
            Some(documented) => print::line(&doc::text(&documented)),
            None => return Err("value does not have documentation".to_owned().into()),
        }
        Ok(())
    }

    fn edit(&mut self, argument: &str) -> Done {
        let value = self.value(argument)?;
        let (file, line) = self.interp.file_of(value, argument)?;
        let file = String::from_utf8_lossy(&file).into_owned();
        let editor = std::env::var("EDITOR").unwrap_or_default();
        let mut words = editor.split_whitespace();
        let program = words.next().unwrap_or("cat");
        let mut command = Command::new(program);
        command.args(words);
        let takes_line = |name: &&str| program.contains(name);
        if let Some(line) = line
            && ["emacs", "nano", "vim", "kak"].iter().any(takes_line)
        {
            command.arg(format!("+{line}"));
        }
        let ran = command.arg(&file).status();
        ran.map_err(|error| format!("cannot run the editor '{program}': {error}"))?;
        self.reload()
    }

    fn build(&self, argument: &str, link: bool) -> Done {
        let derivation = self.derivation(argument)?;
        let built = self.interp.build_derivation(derivation)?;
        print::line("\nThis derivation produced the following outputs:");
        for (output, path) in built {
            if !link {
                print::line(&format!("  {output} -> {path}"));
                continue;
            }
            let name = format!("repl-result-{output}");
            let parsed = StoreDir::default().parse(&path);
            let parsed = parsed.map_err(|error| error.to_string())?;
            let here = std::env::current_dir().map_err(|error| error.to_string())?;
            let link = here.join(&name);
            self.asking.ask(Task::Root { link, path: parsed })?;
            print::line(&format!("  ./{name} -> {path}"));
        }
        Ok(())
    }

    fn derivation(&self, argument: &str) -> Done<Ref<'h>> {
        let value = self.value(argument)?;
        self.checked_derivation(value)
    }

    fn checked_derivation(&self, value: Value<'h>) -> Done<Ref<'h>> {
        match value {
            Value::Attrs(attrs) if self.interp.is_derivation(attrs)? => Ok(self.interp.cell(value)),
            _ => {
                let message = "expression does not evaluate to a derivation, so I can't build it";
                Err(message.to_owned().into())
            }
        }
    }

    fn store_path(&self, derivation: Ref<'h>) -> Done<nix_compat::store_path::StorePath> {
        let path = Selector::new(self.interp, &BTreeMap::new());
        let path = path.select(self.interp, derivation, "drvPath")?;
        let why = "while evaluating the 'drvPath' attribute of a derivation";
        let path = self.interp.expect_string(path, Pos::NONE, why)?;
        let parsed = StoreDir::default().parse(path.bytes);
        parsed.map_err(|error| error.to_string().into())
    }

    /// Runs a program of Nix with a derivation.
    fn run_nix(&self, program: &str, args: &[&str], derivation: Ref<'h>) -> Done {
        let path = self.store_path(derivation)?;
        self.asking.ask(Task::Record)?;
        let path = StoreDir::default().display(&path).to_string();
        let mut command = Command::new(program);
        if let Some(store) = &self.store {
            command.arg("--store").arg(store.to_string());
        }
        let ran = command.args(args).arg(path).status();
        ran.map_err(|error| format!("cannot run '{program}', which this needs of Nix: {error}"))?;
        Ok(())
    }
}

fn is_interrupt(error: &Error) -> bool {
    error.kind == ErrorKind::Cancelled
        || matches!(error.import.as_deref(), Some(RealiseError::Cancelled))
}

fn literal(name: &str) -> String {
    let mut literal = Vec::new();
    tvix_eval::literal::write_attribute_name(&mut literal, name.as_bytes());
    String::from_utf8_lossy(&literal).into_owned()
}
