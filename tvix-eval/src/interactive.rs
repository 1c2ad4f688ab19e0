//! Interactive evaluation. A line is an expression, definitions, or the start of either that
//! continues on the next line.

use tvix_eval_api::EvalSource;

use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::fetch::is_pseudo_url;
use crate::interp::Interp;
use crate::ir::{AttrName, Expr};
use crate::paths;
use crate::select::{Selector, absolute};
use crate::source::{Origin, Place, Pos, Source};
use crate::syntax::{self, SyntaxError, SyntaxErrorKind};
use crate::value::{Ref, Value};

pub use crate::syntax::Scope;

/// The syntax tree of an input.
#[derive(Clone, Copy)]
pub struct Parsed<'h>(&'h Expr<'h>);

/// A parsed input.
pub enum ParsedInput<'h> {
    /// An expression.
    Expression(Parsed<'h>),
    /// Definitions, in the syntax of a set's body: `a = 1; b.c = 2; inherit (d) e`. The last
    /// semicolon is optional.
    Definitions(Parsed<'h>),
    /// The start of an expression or of definitions. The error says which part is missing.
    Unfinished(Box<Error>),
}

/// Documentation of a value.
#[non_exhaustive]
pub struct Documentation<'h> {
    /// Name of the function or attribute, if there is one.
    pub name: Option<String>,
    /// Whether this is the documentation of an attribute, because the value itself has none.
    pub of_attribute: bool,
    /// Place of the definition.
    pub place: Option<Place<'h>>,
    /// Text of the comment (`/** … */`), without its indentation.
    pub text: Option<String>,
}

/// The result of [`Interp::documentation`].
pub enum Documented<'h> {
    /// A builtin.
    Builtin {
        /// Name of the builtin.
        name: String,
        /// Number of its arguments.
        arity: u8,
    },
    /// A value defined in the language.
    Value(Documentation<'h>),
}

impl<'h> Interp<'h> {
    /// Parses an input. Variables are looked up in `scope`; relative paths are relative to `base`.
    pub fn parse_input(
        &self,
        text: &[u8],
        base: &[u8],
        scope: &Scope<'h>,
    ) -> Result<ParsedInput<'h>> {
        let text = self.heap.copy_text(text);
        let Some(source) = self.sources.add(Origin::Text, text) else {
            let message = "more than 4 GiB of Nix expressions";
            return Err(Error::new(ErrorKind::Limit, message));
        };
        let quiet = |_| {};
        let cx = self.syntax_context(base, scope, &quiet);
        let first = match syntax::parse_definitions(&cx, source) {
            Ok(set) => return Ok(ParsedInput::Definitions(Parsed(set))),
            Err(error) => error,
        };
        // The line break ends a comment. Positions refer to the text without the suffix.
        let closed = self.heap.copy_text(&[text, b"\n;"].concat());
        let closed = Source {
            text: closed,
            ..source
        };
        let second = match syntax::parse_definitions(&cx, closed) {
            Ok(set) => return Ok(ParsedInput::Definitions(Parsed(set))),
            Err(error) => error,
        };
        if let Some(unbound) = [&first, &second]
            .into_iter()
            .find(|error| is_unbound(error))
        {
            return Err(self.syntax_error(unbound));
        }
        let warn = |warning| self.syntax_warning(warning);
        let cx = self.syntax_context(base, scope, &warn);
        match syntax::parse(&cx, source) {
            Ok(expr) if !second.is_unfinished() => Ok(ParsedInput::Expression(Parsed(expr))),
            Ok(_) => Ok(ParsedInput::Unfinished(self.syntax_error(&second))),
            Err(error) if is_unbound(&error) => Err(self.syntax_error(&error)),
            Err(error) if error.is_unfinished() || in_comment(&error, source) => {
                Ok(ParsedInput::Unfinished(self.syntax_error(&error)))
            }
            Err(_)
                if first.is_unfinished() && is_after(&second, source)
                    || second.is_unfinished()
                    || in_comment(&first, source) =>
            {
                Ok(ParsedInput::Unfinished(self.syntax_error(&first)))
            }
            Err(error) => Err(self.syntax_error(&error)),
        }
    }

    /// Parses an expression. The error for an incomplete expression says which part is missing.
    pub fn parse_input_expression(
        &self,
        text: &[u8],
        base: &[u8],
        scope: &Scope<'h>,
    ) -> Result<std::result::Result<Parsed<'h>, Box<Error>>> {
        let text = self.heap.copy_text(text);
        let Some(source) = self.sources.add(Origin::Text, text) else {
            let message = "more than 4 GiB of Nix expressions";
            return Err(Error::new(ErrorKind::Limit, message));
        };
        match syntax::parse(&self.syntax_context(base, scope, &|_| {}), source) {
            Ok(expr) => Ok(Ok(Parsed(expr))),
            Err(error) if error.is_unfinished() || in_comment(&error, source) => {
                Ok(Err(self.syntax_error(&error)))
            }
            Err(error) => Err(self.syntax_error(&error)),
        }
    }

    /// The syntax tree of a source, as printed by `nix-instantiate --parse`.
    pub fn syntax_tree(&self, source: &EvalSource) -> Result<Vec<u8>> {
        let (origin, text, base) = match source {
            EvalSource::Expression { text, base } => {
                (Origin::Text, text.clone().into_bytes(), absolute(base))
            }
            EvalSource::Stdin { text, base } => (Origin::Stdin, text.clone(), absolute(base)),
            _ => {
                let file = self.source_file(source)?;
                let file: &'h [u8] = self.heap.copy_text(&file);
                let text = self.read_file(file)?;
                (Origin::File(file), text, paths::dir_name(file).to_vec())
            }
        };
        let text = self.heap.copy_text(&text);
        let Some(source) = self.sources.add(origin, text) else {
            let message = "more than 4 GiB of Nix expressions";
            return Err(Error::new(ErrorKind::Limit, message));
        };
        let scope = self.global_scope();
        let quiet = |_| {};
        let cx = self.syntax_context(&base, &scope, &quiet);
        let parsed = syntax::parse_unresolved(&cx, source);
        let expr = parsed.map_err(|error| self.syntax_error(&error))?;
        let printed = syntax::print(&self.symbols, expr);
        // Variables are resolved to report undefined ones, although the tree holds names.
        syntax::resolve(&cx, expr).map_err(|error| self.syntax_error(&error))?;
        Ok(printed)
    }

    fn source_file(&self, source: &EvalSource) -> Result<Vec<u8>> {
        let path = match source {
            EvalSource::File(path) => match path.to_str().filter(|path| is_pseudo_url(path)) {
                Some(url) => self.path_or_url(url.as_bytes())?,
                None => absolute(path),
            },
            EvalSource::SearchPath(name) => self.search(name)?,
            _ => return Err(Error::new(ErrorKind::Unsupported, "nothing to parse")),
        };
        self.imported_file(&path)
    }

    /// The path of a search path entry: the value of `<name>`.
    pub fn search(&self, name: &str) -> Result<Vec<u8>> {
        let entries = &self.world.settings.search_path;
        let entries: Vec<_> = entries
            .iter()
            .map(|(prefix, path)| (prefix.clone().into(), path.clone().into()))
            .collect();
        self.find_file(&entries, name.as_bytes())
    }

    /// Evaluates the result of [`Interp::parse_input`].
    pub fn eval_typed(&self, input: Parsed<'h>) -> Result<Value<'h>> {
        self.eval(input.0, self.root_env())
    }

    /// Names and values of definitions. The values are not evaluated.
    pub fn define_typed(&self, definitions: Parsed<'h>) -> Result<Vec<(String, Ref<'h>)>> {
        match self.eval_typed(definitions)? {
            Value::Attrs(attrs) => Ok(self.named(attrs)),
            _ => Ok(Vec::new()),
        }
    }

    /// The attributes of a set by name.
    pub fn named(&self, attrs: &crate::value::Attrs<'h>) -> Vec<(String, Ref<'h>)> {
        let entries = self.by_name(attrs).into_iter();
        let named =
            entries.map(|(name, attr)| (String::from_utf8_lossy(name).into_owned(), attr.value));
        named.collect()
    }

    /// Discards cached files, so that they are read again.
    pub fn forget_files(&self) {
        let world = &self.world;
        world.imports.borrow_mut().clear();
        world.copied.borrow_mut().clear();
        world.looked_up.borrow_mut().clear();
        world.kinds.borrow_mut().clear();
        world.direct.borrow_mut().clear();
    }

    /// Whether errors show complete traces.
    pub fn shows_traces(&self) -> bool {
        self.show_trace.get()
    }

    /// Sets whether errors show complete traces.
    pub fn show_traces(&self, show: bool) {
        self.show_trace.set(show);
    }

    /// The file of a value, and the line: of a path, of a function, or of a derivation's
    /// `meta.position`. Errors refer to the value as `what`.
    pub fn file_of(&self, value: Value<'h>, what: &str) -> Result<(Vec<u8>, Option<u32>)> {
        match value {
            Value::Path(_) | Value::String(_) => {
                let why = "while evaluating the filename to edit";
                let path = self.coerce_path(self.cell(value), Pos::NONE, why)?.0;
                Ok((path, None))
            }
            Value::Lambda { code, .. } => match self.sources.place(self.lambdas.get(code).pos) {
                Some(Place {
                    origin: Origin::File(path),
                    line,
                    ..
                }) => Ok((path.to_vec(), Some(line))),
                _ => {
                    let place = self.place_text(self.lambdas.get(code).pos);
                    let message = format!("'{place}' cannot be shown in an editor");
                    Err(Error::new(ErrorKind::Other, message))
                }
            },
            _ => self.file_of_package(value, what),
        }
    }

    fn file_of_package(&self, value: Value<'h>, what: &str) -> Result<(Vec<u8>, Option<u32>)> {
        let selector = Selector::new(self, &Default::default());
        let position = selector.select(self, self.cell(value), "meta.position");
        let Ok(position) = position else {
            let message = format!("package '{what}' has no source location information");
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let why = "while evaluating the 'meta.position' attribute of a derivation";
        let text = self.coerce_cell(position, Coercion::STRICT, Pos::NONE, why)?;
        let text = String::from_utf8_lossy(text.bytes);
        match text
            .rsplit_once(':')
            .map(|(file, line)| (file, line.parse()))
        {
            Some((file, Ok(line))) => Ok((file.as_bytes().to_vec(), Some(line))),
            _ => {
                let message = format!("cannot parse 'meta.position' attribute '{text}'");
                Err(Error::new(ErrorKind::Other, message))
            }
        }
    }

    /// The documentation of the value of an expression: of the function, or else of the attribute that
    /// the expression selects. `None` if there is none.
    pub fn documentation(&self, input: Parsed<'h>) -> Result<Option<Documented<'h>>> {
        let attr = self.selected(input.0)?;
        let value = self.eval_typed(input)?;
        if let Some(found) = self.documented_function(value)? {
            return Ok(Some(found));
        }
        let Some((name, pos)) = attr.filter(|(_, pos)| pos.is_some()) else {
            return Ok(None);
        };
        Ok(Some(Documented::Value(Documentation {
            name: Some(name),
            of_attribute: true,
            place: self.sources.place(pos),
            text: self.comment_before(pos, false),
        })))
    }

    fn documented_function(&self, value: Value<'h>) -> Result<Option<Documented<'h>>> {
        match value {
            Value::Builtin(builtin) => Ok(Some(Documented::Builtin {
                name: builtin.name.to_owned(),
                arity: builtin.arity,
            })),
            Value::Lambda { code, .. } => {
                let lambda = self.lambdas.get(code);
                Ok(Some(Documented::Value(Documentation {
                    name: lambda.name.get().map(|name| self.display(name)),
                    of_attribute: false,
                    place: self.sources.place(lambda.pos),
                    text: self.comment_before(lambda.pos, true),
                })))
            }
            Value::Attrs(attrs) => match attrs.get(self.known.functor) {
                Some(functor) => self.nested(functor.pos, || {
                    let func = self.force(functor.value)?;
                    let called = self.call(func, &[self.cell(value)], functor.pos)?;
                    self.documented_function(called)
                }),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The attribute that an expression selects, and the position of its definition.
    fn selected(&self, expr: &'h Expr<'h>) -> Result<Option<(String, Pos)>> {
        let Expr::Select(select) = expr else {
            return Ok(None);
        };
        let Some((last, before)) = select.path.split_last() else {
            return Ok(None);
        };
        let mut value = self.eval(&select.base, self.root_env())?;
        for part in before {
            let (AttrName::Static(name), Value::Attrs(attrs)) = (part, value) else {
                return Ok(None);
            };
            let Some(attr) = attrs.get(*name) else {
                return Ok(None);
            };
            value = self.force(attr.value)?;
        }
        let (AttrName::Static(name), Value::Attrs(attrs)) = (last, value) else {
            return Ok(None);
        };
        let attr = attrs.get(*name);
        Ok(attr.map(|attr| (self.display(*name), attr.pos)))
    }

    /// The text of the documentation comment directly before a position or, with `named`, before
    /// the name of the definition that has its value there.
    fn comment_before(&self, pos: Pos, named: bool) -> Option<String> {
        let place = self.sources.place(pos)?;
        let rest = self.sources.rest(pos)?;
        let before = &place.text[..place.text.len() - rest.len()];
        let text = String::from_utf8_lossy(before);
        // The body of `x: y: …` has the comment of the outer function.
        comment_at_end(&text).or_else(|| {
            let text = if named {
                before_name(&text)?
            } else {
                return None;
            };
            comment_at_end(text)
        })
    }
}

fn is_unbound(error: &SyntaxError) -> bool {
    matches!(error.kind, SyntaxErrorKind::UndefinedVariable(_))
}

/// Whether the error is an unterminated comment.
fn in_comment(error: &SyntaxError, source: Source<'_>) -> bool {
    let at = error.pos.0.saturating_sub(source.base) as usize;
    let opened = [at, at.wrapping_sub(1)].into_iter().find_map(|at| {
        let rest = source.text.get(at..)?;
        rest.starts_with(b"/*").then_some(rest)
    });
    opened.is_some_and(|rest| memchr::memmem::find(rest, b"*/").is_none())
}

/// Whether the error is in the suffix that was appended to the text.
fn is_after(error: &SyntaxError, source: Source<'_>) -> bool {
    error.pos.0.saturating_sub(source.base) as usize >= source.text.len()
}

/// The part of a text before `name =` at its end.
fn before_name(text: &str) -> Option<&str> {
    // With several arguments, the comment precedes the first one.
    let mut text = text.trim_end();
    while let Some(before) = text.strip_suffix(':') {
        let before = before.trim_end();
        text = before
            .trim_end_matches(|letter: char| {
                letter.is_ascii_alphanumeric() || "_'-".contains(letter)
            })
            .trim_end();
        if text.len() == before.len() {
            return None;
        }
    }
    let text = text.strip_suffix('=')?.trim_end();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_'-.\"".contains(letter);
    Some(text.trim_end_matches(is_name))
}

/// The documentation comment at the end of a text.
fn comment_at_end(text: &str) -> Option<String> {
    let body = text.trim_end().strip_suffix("*/")?;
    let begin = body.rfind("*/").map_or(0, |at| at + 2);
    let begin = begin + body[begin..].find("/*")?;
    let inner = body[begin..].strip_prefix("/**")?;
    let text = unindented(&format!("   {inner}"));
    (!text.is_empty()).then_some(text)
}

/// A text without the common indentation of its lines, and without leading and trailing empty
/// lines.
fn unindented(text: &str) -> String {
    let is_empty = |line: &&str| line.trim().is_empty();
    let lines = || text.lines().filter(|line| !is_empty(line));
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let common = lines().map(indent).min().unwrap_or(0);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.get(common..).unwrap_or_default().trim_end())
        .collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::heap::Heap;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    #[test]
    fn kinds_of_input() {
        let heap = Heap::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let scope = interp.global_scope();
        let kind = |text: &str| match interp.parse_input(text.as_bytes(), b"/", &scope) {
            Ok(ParsedInput::Expression(_)) => "expression",
            Ok(ParsedInput::Definitions(_)) => "definitions",
            Ok(ParsedInput::Unfinished(_)) => "unfinished",
            Err(_) => "error",
        };
        for (text, wanted) in [
            ("1 + 1", "expression"),
            ("{ a = 1; }", "expression"),
            ("1 # comment", "expression"),
            ("/* a */ 1 /* b */", "expression"),
            ("a = 1", "definitions"),
            ("a = 1;", "definitions"),
            ("a = 1 # comment", "definitions"),
            ("# comment\na = 1", "definitions"),
            (
                "a.b = 1; \"c d\" = 2; inherit (builtins) map",
                "definitions",
            ),
            ("inherit builtins", "definitions"),
            ("x = throw \"a\"", "definitions"),
            ("", "unfinished"),
            ("# comment", "unfinished"),
            ("/* comment", "unfinished"),
            ("1 /* comment", "unfinished"),
            ("{", "unfinished"),
            ("(1", "unfinished"),
            ("1 +", "unfinished"),
            ("let a = 1; in", "unfinished"),
            ("\"a", "unfinished"),
            ("a = \"b", "unfinished"),
            ("''\n  a", "unfinished"),
            ("a = {", "unfinished"),
            ("a = {\n  b = 1;", "unfinished"),
            ("a = {\n  /* comment", "unfinished"),
            ("a =", "unfinished"),
            ("a = 1; b = [", "unfinished"),
            ("a = let b = 1; in", "unfinished"),
            ("inherit (builtins)\n", "definitions"),
            (")", "error"),
            ("1 = 2", "error"),
            ("a = 1; a = 2", "error"),
            ("a = 1; a = 2; b = 3", "error"),
            ("a = 1; a = 2; b = {", "unfinished"),
            ("undefined", "error"),
            ("a = undefined", "error"),
            ("inherit undefined", "error"),
        ] {
            assert_eq!(kind(text), wanted, "{text}");
        }
    }

    #[test]
    fn comments() {
        let comment = |text| comment_at_end(text);
        assert_eq!(comment("{ /** a */ ").as_deref(), Some("a"));
        assert_eq!(
            comment("/** other */ 1;\n  /**\n    one\n\n      two\n  */\n  ").as_deref(),
            Some("one\n\n  two")
        );
        assert_eq!(comment("{ /* a */ "), None);
        assert_eq!(comment("{ /** a */ b"), None);
        assert_eq!(before_name("/** a */ b = "), Some("/** a */ "));
        assert_eq!(before_name("/** a */ b.c = x: "), Some("/** a */ "));
        assert_eq!(before_name("f (x: "), None);
    }
}
