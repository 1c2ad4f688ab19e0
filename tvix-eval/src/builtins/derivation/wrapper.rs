//! `derivation`: the lazy wrapper around `derivationStrict`, which returns a set per output.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::eval::MAX_ARITY;
use crate::internal;
use crate::interp::Interp;
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Apply, Apply2, Attr, Attrs, Builtin, Function, Partial, Ref, Value};

pub(super) fn derivation<'h>(interp: &Interp<'h>, args: &[Ref<'h>], _: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        internal::FUNCTION,
        "while evaluating the value passed for the lambda argument",
    )?;
    let known = &interp.known;
    let names = match attrs.get(known.outputs) {
        None => vec![known.out],
        Some(outputs) => output_names(interp, outputs.value)?,
    };
    let Some(first) = names.first() else {
        let message = "'builtins.head' called on an empty list";
        return Err(in_head(Error::new(ErrorKind::Other, message)));
    };

    let strict = interp.cell(Value::Apply(interp.heap.alloc(Apply {
        func: builtin(interp, "derivationStrict", 1, &strict_call),
        arg: args[0],
    })));
    // One cell per output, in the order of the list; each set contains all of them.
    let cells = interp
        .heap
        .slice_with(names.len(), |_| interp.cell(Value::Null));
    let attr = |name, pos, value| Attr { name, pos, value };
    let mut common = Vec::with_capacity(names.len() + 2);
    for (name, cell) in names.iter().zip(cells) {
        if !common.iter().any(|attr: &Attr<'h>| attr.name == *name) {
            common.push(attr(*name, internal::VALUE, *cell));
        }
    }
    common.retain(|attr| attr.name != known.all && attr.name != known.drv_attrs);
    let all = interp.cell(interp.list_in_heap(cells));
    common.push(attr(known.all, internal::ALL, all));
    common.push(attr(known.drv_attrs, internal::DRV_ATTRS, args[0]));
    common.sort_by_key(|attr| attr.name);
    let Value::Attrs(added) = interp.attrs_sorted(&common) else {
        return Ok(Value::Null);
    };
    let Value::Attrs(common) = interp.update(attrs, added) else {
        return Ok(Value::Null);
    };

    let select = builtin(interp, "getAttr", 2, &select_output);
    let select_path = builtin(interp, "getAttr", 2, &select_path);
    let lazy = |select, name: Symbol| {
        interp.cell(Value::Apply2(interp.heap.alloc(Apply2 {
            func: select,
            args: [interp.name_cell(name), strict],
        })))
    };
    let drv_path = lazy(select_path, known.drv_path);
    let kind = interp.cell(interp.text("derivation"));
    let shared = interp.cell(Value::Attrs(common));
    for (name, cell) in names.iter().zip(cells).skip(1) {
        let out_path = lazy(select, *name);
        let captured = [shared, interp.name_cell(*name), out_path, drv_path, kind];
        interp.store(cell, later(interp, "output", &later_output, &captured));
    }
    let out_path = lazy(select, *first);
    let value = output(interp, common, *first, [out_path, drv_path, kind]);
    interp.store(cells[0], value);
    Ok(value)
}

/// The set of an output: the attributes of all outputs and its own ones.
fn output<'h>(
    interp: &Interp<'h>,
    common: &'h Attrs<'h>,
    name: Symbol,
    [out_path, drv_path, kind]: [Ref<'h>; 3],
) -> Value<'h> {
    let known = &interp.known;
    let attr = |name, pos, value| Attr { name, pos, value };
    let mut own = [
        attr(known.out_path, internal::OUT_PATH, out_path),
        attr(known.drv_path, internal::DRV_PATH, drv_path),
        attr(known.kind, internal::TYPE, kind),
        attr(
            known.output_name,
            internal::OUTPUT_NAME,
            interp.name_cell(name),
        ),
    ];
    own.sort_by_key(|attr| attr.name);
    match interp.attrs_sorted(&own) {
        Value::Attrs(own) => interp.update(common, own),
        other => other,
    }
}

/// [`output`] on demand, with the arguments in cells.
fn later_output<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let common = interp.expect_attrs(args[0], pos, "")?;
    let name = interp.expect_plain_string(args[1], pos, "")?;
    let name = interp.intern_string(name);
    Ok(output(interp, common, name, [args[2], args[3], args[4]]))
}

/// The names of the outputs. Errors have the positions at which C++ Nix evaluates them.
fn output_names<'h>(interp: &Interp<'h>, outputs: Ref<'h>) -> Result<Vec<Symbol>> {
    let why = "while evaluating the second argument passed to builtins.map";
    let list = interp
        .expect_list(outputs, Pos::NONE, why)
        .map_err(|error| {
            in_head(error.within(internal::OUTPUTS, "while calling the 'map' builtin"))
        })?;
    let mut names = Vec::with_capacity(list.items.len());
    for item in list.items {
        let why = "while evaluating the `name` attribute of an element of the list passed to builtins.listToAttrs";
        let name = interp
            .expect_plain_string(item, internal::OUTPUT, why)
            .map_err(|error| {
                let update = "in the left operand of the update (//) operator";
                error
                    .within(internal::COMMON, "while calling the 'listToAttrs' builtin")
                    .within(internal::COMMON, update)
                    .within(internal::OUTPUT_SET, update)
            })?;
        names.push(interp.intern_string(name));
    }
    Ok(names)
}

#[cold]
fn in_head(error: Box<Error>) -> Box<Error> {
    error.within(internal::HEAD, "while calling the 'head' builtin")
}

fn strict_call<'h>(interp: &Interp<'h>, args: &[Ref<'h>], _: Pos) -> Result<Value<'h>> {
    super::strict::derivation_strict(interp, args, Pos::NONE).within(
        internal::STRICT,
        "while calling the 'derivationStrict' builtin",
    )
}

/// The path of an output, selected by the output's name.
fn select_output<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    select_path(interp, args, pos).within(internal::GET_ATTR, "while calling the 'getAttr' builtin")
}

fn select_path<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = interp.expect_plain_string(args[0], pos, "while evaluating an attribute name")?;
    let name = interp.intern_string(name);
    match interp.force(args[1])? {
        Value::Attrs(attrs) => match attrs.get(name) {
            Some(attr) => interp.force(attr.value),
            None => Err(interp.missing_attr(name, pos)),
        },
        other => Err(interp.type_error("a set", other)),
    }
}

/// A thunk of a call of a Rust function that is not mentioned in traces, with at most 5 cells and an
/// argument that it ignores. The collector sees the cells, which it would not in a Rust closure.
pub(super) fn later<'h>(
    interp: &Interp<'h>,
    name: &'h str,
    function: &'h Function<'h>,
    cells: &[Ref<'h>],
) -> Value<'h> {
    let arity = cells.len() + 1;
    debug_assert!(arity <= MAX_ARITY);
    let Value::Builtin(builtin) = builtin(interp, name, arity as u8, function).get() else {
        return Value::Null;
    };
    let func = interp.cell(Value::Partial(interp.heap.alloc(Partial {
        builtin,
        args: interp.heap.slice_copy(cells),
    })));
    Value::Apply(interp.heap.alloc(Apply {
        func,
        arg: interp.shared.null,
    }))
}

/// A builtin that is not mentioned in traces.
pub(super) fn builtin<'h>(
    interp: &Interp<'h>,
    name: &'h str,
    arity: u8,
    function: &'h Function<'h>,
) -> Ref<'h> {
    interp.cell(Value::Builtin(interp.heap.alloc(Builtin {
        name,
        arity,
        quiet: true,
        strict: 0,
        function,
    })))
}
