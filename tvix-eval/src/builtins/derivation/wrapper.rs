//! `derivation`: the lazy wrapper around `derivationStrict`, with one set for each output.

use crate::builtins::{Builtin, Function};
use crate::error::Result;
use crate::interp::Interp;
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Apply, Apply2, Attr, Ref, Value};

pub(super) fn derivation<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the value passed for the lambda argument",
    )?;
    let known = &interp.known;
    let names = match attrs.get(known.outputs) {
        None => vec![known.out],
        Some(outputs) => {
            let list = interp.expect_list(
                outputs.value,
                outputs.pos,
                "while evaluating the second argument passed to builtins.map",
            )?;
            let mut names: Vec<Symbol> = Vec::with_capacity(list.items.len());
            for item in list.items {
                let name = interp.expect_plain_string(
                    item,
                    outputs.pos,
                    "while evaluating the `name` attribute of an element of the list passed to builtins.listToAttrs",
                )?;
                names.push(interp.intern_string(name));
            }
            names
        }
    };
    let Some(first) = names.first() else {
        return Err(crate::error::Error::new(
            crate::error::ErrorKind::Other,
            "'builtins.head' called on an empty list",
        ));
    };

    let strict = interp.cell(Value::Apply(interp.heap.alloc(Apply {
        func: builtin(
            interp,
            "derivationStrict",
            1,
            &super::strict::derivation_strict,
        ),
        arg: args[0],
    })));
    // One cell for each output, in the order of the list; all sets hold all of them.
    let cells: &'h [Ref<'h>] = interp
        .heap
        .alloc_slice_fill_with(names.len(), |_| interp.cell(Value::Null));
    let plain = |name, value| Attr {
        name,
        pos: Pos::NONE,
        value,
    };
    let mut common = Vec::with_capacity(names.len() + 2);
    for (name, cell) in names.iter().zip(cells) {
        if !common.iter().any(|attr: &Attr<'h>| attr.name == *name) {
            common.push(plain(*name, *cell));
        }
    }
    common.retain(|attr| attr.name != known.all && attr.name != known.drv_attrs);
    common.push(plain(known.all, interp.cell(interp.list(cells))));
    common.push(plain(known.drv_attrs, args[0]));
    common.sort_by_key(|attr| attr.name);
    let Value::Attrs(added) = interp.attrs_sorted(&common) else {
        return Ok(Value::Null);
    };
    let Value::Attrs(common) = interp.update(attrs, added) else {
        return Ok(Value::Null);
    };

    let select = builtin(interp, "getAttr", 2, &select_output);
    let lazy = |name: Symbol| {
        interp.cell(Value::Apply2(interp.heap.alloc(Apply2 {
            func: select,
            args: [interp.name_cell(name), strict],
        })))
    };
    let drv_path = lazy(known.drv_path);
    let kind = interp.cell(interp.text("derivation"));
    let one = move |interp: &Interp<'h>, name: Symbol, out_path: Ref<'h>| {
        let known = &interp.known;
        let mut own = [
            plain(known.out_path, out_path),
            plain(known.drv_path, drv_path),
            plain(known.kind, kind),
            plain(known.output_name, interp.name_cell(name)),
        ];
        own.sort_by_key(|attr| attr.name);
        match interp.attrs_sorted(&own) {
            Value::Attrs(own) => interp.update(common, own),
            other => other,
        }
    };
    for (name, cell) in names.iter().zip(cells).skip(1) {
        let name = *name;
        let out_path = lazy(name);
        let make: &'h Function<'h> =
            interp
                .heap
                .alloc(move |interp: &Interp<'h>, _: &[Ref<'h>], _: Pos| {
                    Ok(one(interp, name, out_path))
                });
        cell.set(Value::Apply(interp.heap.alloc(Apply {
            func: builtin(interp, "derivation", 1, make),
            arg: args[0],
        })));
    }
    let value = one(interp, *first, lazy(*first));
    cells[0].set(value);
    Ok(value)
}

fn select_output<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
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

/// A builtin that errors do not mention.
pub(super) fn builtin<'h>(
    interp: &Interp<'h>,
    name: &'h str,
    arity: u8,
    function: &'h Function<'h>,
) -> Ref<'h> {
    interp.cell(Value::Builtin(interp.heap.alloc(Builtin {
        name,
        arity,
        quiet: name != "derivationStrict",
        strict: 0,
        function,
    })))
}
