//! The value of an imported `.drv` file: a set for each output, as `derivation` returns them,
//! without the attributes that the derivation was made from.

use nix_compat::derivation::upstream_placeholder;
use nix_compat::store_path::StorePath;

use super::wrapper::builtin;
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::Function;
use crate::value::{Apply, Attr, ContextElement, Ref, Value};

/// The value of the derivation at a store path.
pub(crate) fn imported_derivation<'h>(interp: &Interp<'h>, path: &StorePath) -> Result<Value<'h>> {
    let known = interp.known_derivation(path)?;
    let derivation = &known.derivation;
    let dir = &interp.world.settings.store_dir;
    let names = &interp.known;

    let mut outputs: Vec<(Symbol, Ref<'h>)> = Vec::new();
    for (output, _) in derivation.outputs.iter() {
        let text = match derivation.output_path(dir, output) {
            Some(path) => dir.path_text(&path),
            None => upstream_placeholder(path, output)
                .map_err(|error| Error::new(ErrorKind::Other, error.to_string()))?,
        };
        let context = interp.contexts.single(ContextElement::Output {
            drv_path: path.clone(),
            output: output.clone(),
        });
        let out_path = interp.cell(interp.string(text, context));
        outputs.push((interp.intern(output.as_str()), out_path));
    }
    let outputs: &'h [(Symbol, Ref<'h>)] = interp.heap.alloc_slice_copy(&outputs);
    let Some(first) = outputs.first() else {
        let message = "'builtins.head' called on an empty list";
        return Err(Error::new(ErrorKind::Other, message));
    };
    // All sets share the same cells, one per output.
    let cells: &'h [Ref<'h>] = interp
        .heap
        .alloc_slice_fill_with(outputs.len(), |_| interp.cell(Value::Null));

    let plain = |name, value| Attr {
        name,
        pos: Pos::NONE,
        value,
    };
    let deep = interp.contexts.single(ContextElement::Deep(path.clone()));
    let name = derivation.env_var("name").map_or(&b""[..], |name| name);
    let list: &'h Function<'h> = interp
        .heap
        .alloc(move |interp: &Interp<'h>, _: &[Ref<'h>], _: Pos| Ok(interp.list(cells)));
    let mut common = vec![
        plain(names.all, lazy(interp, list)),
        plain(
            names.drv_path,
            interp.cell(interp.string(dir.path_text(path), deep)),
        ),
        plain(names.name, interp.cell(interp.text(name))),
        plain(names.kind, interp.cell(interp.text("derivation"))),
    ];
    // The first of several equal names is kept.
    let one = outputs.iter().zip(cells);
    common.extend(one.map(|((output, _), cell)| plain(*output, *cell)));
    let common: &'h [Attr<'h>] = interp.heap.alloc_slice_copy(&common);
    let set_of = move |interp: &Interp<'h>, (output, out_path): (Symbol, Ref<'h>)| {
        let out_path_of: &'h Function<'h> = interp
            .heap
            .alloc(move |interp: &Interp<'h>, _: &[Ref<'h>], _: Pos| interp.force(out_path));
        let mut entries = vec![
            plain(interp.known.out_path, lazy(interp, out_path_of)),
            plain(interp.known.output_name, interp.name_cell(output)),
        ];
        entries.extend_from_slice(common);
        interp.attrs(entries)
    };
    for (output, cell) in outputs.iter().zip(cells).skip(1) {
        let make: &'h Function<'h> = interp
            .heap
            .alloc(move |interp: &Interp<'h>, _: &[Ref<'h>], _: Pos| Ok(set_of(interp, *output)));
        cell.set(Value::Apply(interp.heap.alloc(Apply {
            func: builtin(interp, "import", 1, make),
            arg: interp.shared.null,
        })));
    }
    let value = set_of(interp, *first);
    cells[0].set(value);
    Ok(value)
}

/// The cell of a function's result, which is computed on demand.
fn lazy<'h>(interp: &Interp<'h>, function: &'h Function<'h>) -> Ref<'h> {
    interp.cell(Value::Apply(interp.heap.alloc(Apply {
        func: builtin(interp, "import", 1, function),
        arg: interp.shared.null,
    })))
}
