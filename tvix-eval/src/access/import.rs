//! `import`: files are parsed and evaluated once.

use std::rc::Rc;

use crate::error::{Error, ErrorKind, Result};
use crate::files::FileKind;
use crate::interp::Interp;
use crate::ir::Expr;
use crate::paths;
use crate::source::{Origin, Pos, Source};
use crate::syntax::{self, Scope};
use crate::value::{Env, Ref, Slot, Value};

use super::join;

/// Expressions may be nested so deep.
const MOST_NESTED: u32 = 10_000;

impl<'h> Interp<'h> {
    /// The file that importing a path reads: `default.nix` of a directory, links followed.
    pub(crate) fn imported_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        let resolved = self.resolve_existing(path)?;
        match self.known_kind(&resolved)? {
            Some(FileKind::Directory) => self.resolve_existing(&join(&resolved, b"default.nix")),
            _ => Ok(resolved),
        }
    }

    /// The cell of an imported file's value.
    pub(crate) fn import(&self, path: &[u8]) -> Result<Ref<'h>> {
        if let Some(cell) = self.world.imports.borrow().get(path) {
            return Ok(cell);
        }
        let file = match self.embedded(path) {
            Some(_) => path.to_vec(),
            None => self.imported_file(path)?,
        };
        let known = self.world.imports.borrow().get(file.as_slice()).copied();
        let cell = match known {
            Some(cell) => cell,
            None => {
                let scope = self.scope.borrow().clone();
                let expr = self.parse_file(&file, &scope)?;
                self.delayed_file(expr)
            }
        };
        let mut imports = self.world.imports.borrow_mut();
        imports.insert(self.heap.alloc_slice_copy(&file), cell);
        imports.insert(self.heap.alloc_slice_copy(path), cell);
        Ok(cell)
    }

    /// A file's value with other names in scope; never remembered.
    pub(crate) fn import_scoped(&self, path: &[u8], scope: &Scope<'h>) -> Result<Value<'h>> {
        let file = self.imported_file(path)?;
        let expr = self.parse_file(&file, scope)?;
        self.eval(expr, self.root_env())
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
        let text: &'h [u8] = match self.embedded(file) {
            Some(text) => text.as_bytes(),
            None => self.heap.alloc_slice_copy(&self.read_file(file)?),
        };
        let origin = Origin::File(self.heap.alloc_slice_copy(file));
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
        let cx = self.syntax_context(base, scope);
        syntax::parse(&cx, source).map_err(|error| self.syntax_error(&error))
    }

    /// What the parser needs for a text whose relative paths are relative to `base`.
    pub(crate) fn syntax_context<'a>(
        &'a self,
        base: &'a [u8],
        scope: &'a Scope<'h>,
    ) -> syntax::Context<'a, 'h> {
        use std::os::unix::ffi::OsStrExt;
        let home = self.world.settings.home.as_ref();
        syntax::Context {
            heap: self.heap,
            symbols: &self.symbols,
            base,
            home: home.map(|home| home.as_os_str().as_bytes()),
            scope,
            depth_limit: MOST_NESTED,
        }
    }

    /// Evaluates a text in the scope of files.
    pub fn eval_text(&self, text: &[u8], base: &[u8]) -> Result<Value<'h>> {
        let scope: Rc<Scope<'h>> = self.scope.borrow().clone();
        let text = self.heap.alloc_slice_copy(text);
        let expr = self.parse(Origin::Text, text, base, &scope)?;
        self.eval(expr, self.root_env())
    }

    /// Evaluates a text that was read from standard input.
    pub fn eval_stdin(&self, text: &[u8], base: &[u8]) -> Result<Value<'h>> {
        let scope: Rc<Scope<'h>> = self.scope.borrow().clone();
        let text = self.heap.alloc_slice_copy(text);
        let expr = self.parse(Origin::Stdin, text, base, &scope)?;
        self.eval(expr, self.root_env())
    }

    /// Evaluates a text in a scope.
    pub fn eval_text_in(&self, text: &[u8], base: &[u8], scope: &Scope<'h>) -> Result<Value<'h>> {
        let text = self.heap.alloc_slice_copy(text);
        let expr = self.parse(Origin::Text, text, base, scope)?;
        self.eval(expr, self.root_env())
    }

    /// The scope of files, to which names can be added: those of what is built in.
    pub fn global_scope(&self) -> Scope<'h> {
        Scope::layered(self.scope.borrow().clone(), [])
    }

    /// The names in `builtins`, as `builtins.name`, and those that need no such prefix.
    pub fn builtin_names(&self) -> impl Iterator<Item = String> + '_ {
        crate::builtins::names(self)
    }

    /// Evaluates a file.
    pub fn eval_file(&self, path: &[u8]) -> Result<Value<'h>> {
        self.force(self.import(path)?)
    }

    /// The condition of the assertion at a place, as messages write it.
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
            home: Some(b"/"),
            scope: &scope,
            depth_limit: MOST_NESTED,
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
    pub(crate) fn syntax_error(&self, error: &syntax::SyntaxError) -> Box<Error> {
        let kind = ErrorKind::Syntax;
        let message = match error.other {
            Some(other) => format!("{error} at {}", self.place_text(other)),
            None => error.to_string(),
        };
        Error::new(kind, message).at(error.pos)
    }

    /// Files that are part of the evaluator: `<nix/fetchurl.nix>`.
    pub(crate) fn embedded(&self, path: &[u8]) -> Option<&'static str> {
        match path {
            FETCHURL => Some(include_str!("fetchurl.nix")),
            _ => None,
        }
    }
}

/// Where `<nix/fetchurl.nix>` is found.
pub(crate) const FETCHURL: &[u8] = b"/builtin/nix/fetchurl.nix";
