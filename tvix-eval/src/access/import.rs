//! `import`: each file is parsed and evaluated once.

use std::rc::Rc;

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::ir::Expr;
use crate::paths;
use crate::source::{Origin, Place, Pos, Source, lines};
use crate::syntax::{self, Home, Scope};
use crate::value::{Env, Ref, Slot, Value};

use super::Links;

/// Maximum nesting depth of expressions, if there is enough memory.
const MAX_NESTING: u32 = 1_000_000;

/// The least maximum of the nesting depth.
const LEAST_NESTING: u32 = 10_000;

/// Memory that a level of nesting takes while a text is parsed, in bytes.
const NESTING_BYTES: usize = 4 << 10;

/// Maximum nesting depth of expressions within a memory limit in bytes.
fn nesting_limit(memory: Option<usize>) -> u32 {
    let levels = memory.map_or(usize::MAX, |bytes| bytes / NESTING_BYTES);
    u32::try_from(levels).map_or(MAX_NESTING, |levels| {
        levels.clamp(LEAST_NESTING, MAX_NESTING)
    })
}

impl<'h> Interp<'h> {
    /// The cell of an imported file's value, and the path of that file.
    pub(crate) fn import(&self, path: &[u8]) -> Result<(Ref<'h>, &'h [u8])> {
        if let Some(known) = self.world.imports.borrow().get(path) {
            return Ok(*known);
        }
        let file = self.imported_file(path)?;
        let known = self.world.imports.borrow().get(file.as_slice()).copied();
        let (cell, file) = match known {
            Some(known) => known,
            None => {
                let file = self.heap.copy_text(&file);
                let scope = self.scope.borrow().clone();
                let expr = self.parse_file(file, &scope)?;
                (self.delayed_file(expr), file)
            }
        };
        let mut imports = self.world.imports.borrow_mut();
        imports.insert(file, (cell, file));
        imports.insert(self.heap.copy_text(path), (cell, file));
        Ok((cell, file))
    }

    /// The value of a file with additional names in scope. Never cached.
    pub(crate) fn import_scoped(&self, path: &[u8], scope: &Scope<'h>) -> Result<Value<'h>> {
        let file = self.imported_file(path)?;
        let expr = self.parse_file(&file, scope)?;
        self.without_unwinding(|| self.eval(expr, self.root_env()))
    }

    fn delayed_file(&self, expr: &'h Expr<'h>) -> Ref<'h> {
        let code = self.codes.push(expr);
        self.heap.alloc(Slot::new(Value::Thunk {
            code,
            env: self.root_env(),
        }))
    }

    pub(crate) fn root_env(&self) -> Env<'h> {
        Env::new(self.heap, None, 0)
    }

    fn parse_file(&self, file: &[u8], scope: &Scope<'h>) -> Result<&'h Expr<'h>> {
        let resolved = self.resolve(file, Links::All)?;
        let text: &'h [u8] = self.heap.copy_text(&self.read_file(&resolved)?);
        let name: &'h [u8] = self.heap.copy_text(file);
        if resolved != file {
            self.world.behind_links.borrow_mut().insert(name);
        }
        let origin = Origin::File(name);
        self.parse(origin, text, paths::dir_name(file), scope)
    }

    /// Parses a text. Relative paths in it are relative to `base`.
    pub(crate) fn parse(
        &self,
        origin: Origin<'h>,
        text: &'h [u8],
        base: &[u8],
        scope: &Scope<'h>,
    ) -> Result<&'h Expr<'h>> {
        let Some(source) = self.sources.add(origin, text) else {
            return Err(Error::new(
                ErrorKind::Limit,
                "more than 4 GiB of Nix expressions",
            ));
        };
        let warn = |warning| self.syntax_warning(warning);
        let cx = self.syntax_context(base, scope, &warn);
        syntax::parse(&cx, source).map_err(|error| self.syntax_error(&error))
    }

    /// The parser's context for a text with relative paths below `base`.
    pub(crate) fn syntax_context<'a>(
        &'a self,
        base: &'a [u8],
        scope: &'a Scope<'h>,
        warn: &'a dyn Fn(syntax::SyntaxWarning),
    ) -> syntax::Context<'a, 'h> {
        use std::os::unix::ffi::OsStrExt as _;
        let settings = &self.world.settings;
        let home = match &settings.home {
            _ if settings.pure => Home::Forbidden,
            Some(home) => Home::At(home.as_os_str().as_bytes()),
            None => Home::Unknown,
        };
        syntax::Context {
            heap: self.heap,
            symbols: &self.symbols,
            base,
            home,
            scope,
            depth_limit: nesting_limit(self.world.settings.limits.memory),
            warn,
        }
    }

    /// Evaluates a text in the scope of files. Relative paths in it are relative to `base`.
    pub fn eval_text(&self, text: &[u8], base: &[u8]) -> Result<Value<'h>> {
        let scope: Rc<Scope<'h>> = self.scope.borrow().clone();
        let text = self.heap.copy_text(text);
        let expr = self.parse(Origin::Text, text, base, &scope)?;
        self.without_unwinding(|| self.eval(expr, self.root_env()))
    }

    /// Evaluates a text from standard input.
    pub(crate) fn eval_stdin(&self, text: &[u8], base: &[u8]) -> Result<Value<'h>> {
        let scope: Rc<Scope<'h>> = self.scope.borrow().clone();
        let text = self.heap.copy_text(text);
        let expr = self.parse(Origin::Stdin, text, base, &scope)?;
        self.without_unwinding(|| self.eval(expr, self.root_env()))
    }

    /// The scope of files, which holds the builtins, as a layer to which names can be added.
    pub fn global_scope(&self) -> Scope<'h> {
        Scope::layered(self.scope.borrow().clone(), [])
    }

    /// Evaluates a file.
    pub fn eval_file(&self, path: &[u8]) -> Result<Value<'h>> {
        let (cell, _) = self.import(path)?;
        self.force(cell)
    }

    /// The place of a position, as expressions see it. For files imported through a symbolic link,
    /// C++ Nix has no lines: every position in them is in line 1.
    pub(crate) fn place_in_values(&self, pos: Pos) -> Option<Place<'h>> {
        let mut place = self.sources.place(pos)?;
        if let Origin::File(path) = place.origin
            && self.world.behind_links.borrow().contains(path)
        {
            let rest = self.sources.rest(pos).unwrap_or_default();
            place.line = 1;
            place.column = (place.text.len() - rest.len() + 1) as u32;
        }
        Some(place)
    }

    /// The condition of the assertion at a position, as printed in messages.
    #[cold]
    pub(crate) fn assertion_text(&self, pos: Pos) -> String {
        let text = self.sources.rest(pos).unwrap_or_default();
        let base: &[u8] = match self.sources.place(pos).map(|place| place.origin) {
            Some(Origin::File(path)) => paths::dir_name(path),
            _ => b"/",
        };
        let scope = Scope::new();
        let cx = syntax::Context {
            heap: self.heap,
            symbols: &self.symbols,
            base,
            home: Home::At(b"/"),
            scope: &scope,
            depth_limit: nesting_limit(self.world.settings.limits.memory),
            warn: &|_| {},
        };
        let source = Source {
            origin: Origin::Text,
            text,
            base: pos.0,
        };
        let condition = syntax::assertion_text(&cx, source).unwrap_or_default();
        String::from_utf8_lossy(&condition).into_owned()
    }

    #[cold]
    pub(crate) fn syntax_warning(&self, warning: syntax::SyntaxWarning) {
        match warning {
            syntax::SyntaxWarning::OrAsName { start, end } => {
                let place = self.place_text(start);
                let rest = self.sources.rest(start).unwrap_or_default();
                let text = rest.get(..(end.0 - start.0) as usize).unwrap_or(rest);
                let lines: Vec<_> = lines(text).map(String::from_utf8_lossy).collect();
                let text = lines.join("\n");
                self.warn(format!(
                    "at {place}: This expression uses `or` as an identifier in a way that will change in a future Nix release.\n\
                     Wrap this entire expression in parentheses to preserve its current meaning:\n    \
                     ({text})\n\
                     Give feedback at https://github.com/NixOS/nix/pull/11121"
                ));
            }
        }
    }

    #[cold]
    pub(crate) fn syntax_error(&self, error: &syntax::SyntaxError) -> Box<Error> {
        let kind = ErrorKind::Syntax;
        let message = match error.other {
            Some(other) => format!("{error} at {}", self.place_text(other)),
            None => error.to_string(),
        };
        Error::new(kind, message).at(error.pos)
    }

    /// Files built into the evaluator: `<nix/fetchurl.nix>`.
    pub(crate) fn embedded(&self, path: &[u8]) -> Option<&'static str> {
        match path {
            FETCHURL => Some(include_str!("fetchurl.nix")),
            _ => None,
        }
    }
}

/// Path of `<nix/fetchurl.nix>`.
pub(crate) const FETCHURL: &[u8] = b"/builtin/nix/fetchurl.nix";
