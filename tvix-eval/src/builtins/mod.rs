//! Builtin functions (Nix manual, "Built-ins").

mod arithmetic;
mod attrs;
mod contexts;
mod control;
pub(crate) mod derivation;
mod fetch;
mod fetch_git;
mod files;
mod json;
mod keys;
mod lists;
mod merge_sort;
mod strings;
mod text;
mod types;
mod xml;

use std::cell::Cell;
use std::rc::Rc;

use crate::error::Result;
use crate::heap::Heap;
use crate::interp::Interp;
use crate::native::Native;
use crate::source::Pos;
use crate::syntax::Scope;
use crate::value::{Attr, Ref, Slot, Value};
use crate::world::World;

pub use crate::value::{Builtin, Function};

/// The definition of a builtin.
struct Def {
    name: &'static str,
    arity: u8,
    strict: u8,
    function: for<'i, 'h, 'a> fn(&'i Interp<'h>, &'a [Ref<'h>], Pos) -> Result<Value<'h>>,
}

impl Def {
    /// Sets the arguments that are always evaluated: see [`Builtin::strict`].
    const fn strict(mut self, arguments: u8) -> Self {
        self.strict = arguments;
        self
    }
}

const fn def(
    name: &'static str,
    arity: u8,
    function: for<'i, 'h, 'a> fn(&'i Interp<'h>, &'a [Ref<'h>], Pos) -> Result<Value<'h>>,
) -> Def {
    Def {
        name,
        arity,
        strict: 0,
        function,
    }
}

/// Builtins that are in the global scope under their own name, if present. The others have the
/// prefix `__`.
const GLOBAL: &[&str] = &[
    "abort",
    "baseNameOf",
    "break",
    "derivation",
    "derivationStrict",
    "dirOf",
    "false",
    "fetchGit",
    "fetchMercurial",
    "fetchTarball",
    "fetchTree",
    "fromTOML",
    "import",
    "isNull",
    "map",
    "null",
    "placeholder",
    "removeAttrs",
    "scopedImport",
    "throw",
    "toString",
    "true",
];

const VERSION: &str = "2.34.8";

const TABLES: &[&[Def]] = &[
    arithmetic::BUILTINS,
    attrs::BUILTINS,
    contexts::BUILTINS,
    control::BUILTINS,
    derivation::BUILTINS,
    fetch::BUILTINS,
    fetch_git::BUILTINS,
    files::BUILTINS,
    json::BUILTINS,
    lists::BUILTINS,
    strings::BUILTINS,
    text::BUILTINS,
    types::BUILTINS,
    xml::BUILTINS,
];

impl<'h> Interp<'h> {
    /// An evaluation in an empty heap.
    pub fn new(heap: &'h Heap, world: World<'h>) -> Self {
        Self::with_natives(heap, world, &[])
    }

    /// An evaluation in an empty heap with builtins of the embedder, which replace existing ones of
    /// the same name.
    pub(crate) fn with_natives(heap: &'h Heap, world: World<'h>, natives: &'h [Native]) -> Self {
        let interp = Self::without_builtins(heap, world);
        *interp.scope.borrow_mut() = Rc::new(scope(&interp, natives));
        interp.start_collector();
        interp
    }

    /// The names of all builtins: those in `builtins` as `builtins.name`, and the global ones
    /// without prefix.
    pub fn builtin_names(&self) -> Vec<String> {
        let scope = self.scope.borrow();
        let global = GLOBAL
            .iter()
            .filter(|name| scope.lookup(self.intern(name)).is_some())
            .map(|name| (*name).to_owned());
        let builtins = scope.lookup(self.intern("builtins")).map(Cell::get);
        let entries = match builtins {
            Some(Value::Attrs(all)) => self.entries(all),
            _ => &[],
        };
        entries
            .iter()
            .map(|attr| format!("builtins.{}", self.display(attr.name)))
            .chain(global)
            .collect()
    }
}

/// The global scope, around every file.
fn scope<'h>(interp: &Interp<'h>, natives: &'h [Native]) -> Scope<'h> {
    let mut scope = Scope::new();
    let mut entries = Vec::with_capacity(128);
    let mut add = |name: &str, value: Value<'h>| {
        let cell = interp.cell(value);
        let global = if GLOBAL.contains(&name) {
            interp.intern(name)
        } else {
            interp.intern(format!("__{name}"))
        };
        scope.insert(global, cell);
        entries.push(Attr {
            name: interp.intern(name),
            pos: Pos::NONE,
            value: cell,
        });
    };
    // The first of several equal names is kept.
    for native in natives {
        add(native.name(), Value::Builtin(native.builtin(interp.heap)));
    }
    for def in TABLES.iter().copied().flatten() {
        if natives.iter().any(|native| native.name() == def.name) {
            continue;
        }
        let function: &'h Function<'h> = interp.heap.permanent().alloc(def.function);
        let builtin = interp.heap.permanent().alloc(Builtin {
            name: def.name,
            arity: def.arity,
            quiet: matches!(def.name, "addErrorContext" | "break" | "derivation"),
            strict: def.strict,
            function,
        });
        add(def.name, Value::Builtin(builtin));
    }
    add("true", Value::Bool(true));
    add("false", Value::Bool(false));
    add("null", Value::Null);
    add("nixVersion", interp.text(VERSION));
    add("langVersion", Value::Int(6));
    add(
        "storeDir",
        interp.text(interp.world.settings.store_dir.as_str()),
    );
    if !interp.world.settings.pure {
        add("currentSystem", interp.text(&interp.world.settings.system));
        add("currentTime", Value::Int(interp.world.settings.time));
    }
    add("nixPath", search_path(interp));
    let all: &'h Slot<'h> = interp.cell(Value::Null);
    entries.push(Attr {
        name: interp.intern("builtins"),
        pos: Pos::NONE,
        value: all,
    });
    interp.store(all, interp.attrs(entries));
    scope.insert(interp.intern("builtins"), all);
    scope
}

/// The search path as a value: a list of `{ path, prefix }`.
fn search_path<'h>(interp: &Interp<'h>) -> Value<'h> {
    interp.list_of(
        interp
            .world
            .settings
            .search_path
            .iter()
            .map(|(prefix, path)| {
                interp.attrs(vec![
                    interp.attr("path", interp.text(path)),
                    interp.attr("prefix", interp.text(prefix)),
                ])
            }),
    )
}
