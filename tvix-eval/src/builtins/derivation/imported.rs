//! The value of an imported `.drv` file: a set for each output, as `derivation` returns them,
//! without the attributes that the derivation was made from.

use nix_compat::derivation::upstream_placeholder;
use nix_compat::store_path::StorePath;

use super::wrapper::later;
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Attr, Attrs, ContextElement, Ref, Value};

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
    let Some(first) = outputs.first() else {
        let message = "'builtins.head' called on an empty list";
        return Err(Error::new(ErrorKind::Other, message));
    };
    // All sets share the same cells, one per output.
    let cells = interp
        .heap
        .slice_with(outputs.len(), |_| interp.cell(Value::Null));

    let deep = interp.contexts.single(ContextElement::Deep(path.clone()));
    let name = derivation.env_var("name").map_or(&b""[..], |name| name);
    let all = interp.cell(interp.list_in_heap(cells));
    let mut common = vec![
        plain(names.all, interp.cell(on_demand(interp, all))),
        plain(
            names.drv_path,
            interp.cell(interp.string(dir.path_text(path), deep)),
        ),
        plain(names.name, interp.cell(interp.text(name))),
        plain(names.kind, interp.cell(interp.text("derivation"))),
    ];
    // The first of several equal names is kept.
    let one = outputs.iter().zip(cells);
    common.extend(one.map(|((output, _), cell)| plain(*output, cell)));
    let Value::Attrs(common) = interp.attrs(common) else {
        return Ok(Value::Null);
    };
    let shared = interp.cell(Value::Attrs(common));
    for ((output, out_path), cell) in outputs.iter().zip(cells).skip(1) {
        let captured = [shared, interp.name_cell(*output), *out_path];
        interp.store(cell, later(interp, "import", &later_output, &captured));
    }
    let value = output(interp, common, first.0, first.1);
    interp.store(cells[0], value);
    Ok(value)
}

fn plain<'h>(name: Symbol, value: Ref<'h>) -> Attr<'h> {
    Attr {
        name,
        pos: Pos::NONE,
        value,
    }
}

/// The set of an output.
fn output<'h>(
    interp: &Interp<'h>,
    common: &Attrs<'h>,
    name: Symbol,
    out_path: Ref<'h>,
) -> Value<'h> {
    let known = &interp.known;
    let mut entries = vec![
        plain(known.out_path, interp.cell(on_demand(interp, out_path))),
        plain(known.output_name, interp.name_cell(name)),
    ];
    entries.extend_from_slice(interp.entries(common));
    interp.attrs(entries)
}

/// [`output`] on demand, with the arguments in cells.
fn later_output<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let common = interp.expect_attrs(args[0], pos, "")?;
    let name = interp.expect_plain_string(args[1], pos, "")?;
    let name = interp.intern_string(name);
    Ok(output(interp, common, name, args[2]))
}

/// A thunk of a value that exists: it is printed as not evaluated yet.
fn on_demand<'h>(interp: &Interp<'h>, cell: Ref<'h>) -> Value<'h> {
    later(interp, "import", &the_same, &[cell])
}

fn the_same<'h>(interp: &Interp<'h>, args: &[Ref<'h>], _: Pos) -> Result<Value<'h>> {
    interp.force(args[0])
}
