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
mod strings;
mod text;
mod types;
mod xml;

use crate::error::Result;
use crate::interp::Interp;
use crate::source::Pos;
use crate::syntax::Scope;
use crate::value::{Attr, Ref, Slot, Value};

/// A Rust function that expressions can call.
pub struct Builtin<'h> {
    /// Name in messages.
    pub name: &'h str,
    /// Number of arguments; 1 to 6.
    pub arity: u8,
    /// Whether traces omit the builtin.
    pub quiet: bool,
    /// The arguments that are always evaluated, as a bit set: 1 for the first, 2 for the second and
    /// so on. They may be evaluated before the call, which saves their thunks.
    pub strict: u8,
    /// The implementation. Its arguments are not evaluated.
    pub function: &'h Function<'h>,
}

impl Builtin<'_> {
    /// Whether this is `derivation`, which is defined in the Nix language in C++ Nix.
    pub(crate) fn is_derivation(&self) -> bool {
        self.quiet && self.name == "derivation"
    }
}

/// The implementation of a [`Builtin`]: takes arguments and the position of the call.
pub type Function<'h> = dyn Fn(&Interp<'h>, &[Ref<'h>], Pos) -> Result<Value<'h>> + 'h;

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

/// The global scope, around every file.
pub(crate) fn scope<'h>(interp: &Interp<'h>) -> Scope<'h> {
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
    let natives = interp.world.natives;
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
    all.set(interp.attrs(entries));
    scope.insert(interp.intern("builtins"), all);
    scope
}

/// Names of builtins, for completion.
pub(crate) fn names<'i>(interp: &'i Interp<'_>) -> impl Iterator<Item = String> + 'i {
    let natives = interp.world.natives.iter().map(|native| native.name());
    let ours = TABLES.iter().copied().flatten().map(|def| def.name);
    let prefixed = natives.chain(ours).map(|name| format!("builtins.{name}"));
    let global = GLOBAL.iter().filter(|name| {
        let name = interp.intern(name);
        interp.scope.borrow().lookup(name).is_some()
    });
    prefixed.chain(global.map(|name| (*name).to_owned()))
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
