//! Attribute sets.

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result};
use crate::heap::HeapVec;
use crate::interp::{Demand, Interp};
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Apply2, Attr, Elements, Ref, Slot, Value, find};

pub(super) const BUILTINS: &[Def] = &[
    def("attrNames", 1, attr_names).strict(0b1),
    def("attrValues", 1, attr_values).strict(0b1),
    def("catAttrs", 2, cat_attrs).strict(0b11),
    def("functionArgs", 1, function_args).strict(0b1),
    def("getAttr", 2, get_attr).strict(0b11),
    def("hasAttr", 2, has_attr).strict(0b11),
    def("intersectAttrs", 2, intersect_attrs).strict(0b11),
    def("listToAttrs", 1, list_to_attrs).strict(0b1),
    def("mapAttrs", 2, map_attrs).strict(0b10),
    def("removeAttrs", 2, remove_attrs).strict(0b11),
    def("unsafeGetAttrPos", 2, unsafe_get_attr_pos),
    def("zipAttrsWith", 2, zip_attrs_with).strict(0b11),
];

fn attr_names<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.attrNames",
    )?;
    let names = interp.by_name(attrs);
    let items = interp.heap.slice_with(names.len(), |index| -> Ref<'h> {
        interp.name_cell(names[index].1.name)
    });
    Ok(interp.list_in_heap(items))
}

fn attr_values<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.attrValues",
    )?;
    let values: Vec<Ref<'h>> = interp
        .by_name(attrs)
        .into_iter()
        .map(|(_, attr)| attr.value)
        .collect();
    Ok(interp.list(&values))
}

fn cat_attrs<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.catAttrs",
    )?;
    let name = interp.intern_string(name);
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.catAttrs",
    )?;
    let mut found = Vec::new();
    interp.each_upcoming(list.items, |item| item, Demand::Value, |_, item| {
        let attrs = interp.expect_attrs(
            item,
            pos,
            "while evaluating an element in the list passed as second argument to builtins.catAttrs",
        )?;
        if let Some(attr) = attrs.get(name) {
            found.push(attr.value);
        }
        Ok(())
    })?;
    Ok(interp.list(&found))
}

fn function_args<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let code = match interp.force_at(args[0], pos)? {
        Value::Builtin(builtin) if builtin.is_derivation() => {
            let outputs = Attr {
                name: interp.known.outputs,
                pos: Pos::NONE,
                value: interp.shared.yes,
            };
            return Ok(interp.attrs_sorted(&[outputs]));
        }
        Value::Builtin(_) | Value::Partial(_) => {
            return Ok(Value::Attrs(interp.shared.no_attrs));
        }
        Value::Lambda { code, .. } => code,
        _ => {
            return Err(Error::new(
                ErrorKind::Type,
                "'functionArgs' requires a function",
            ));
        }
    };
    let Some(formals) = &interp.lambdas.get(code).formals else {
        return Ok(Value::Attrs(interp.shared.no_attrs));
    };
    let entries: Vec<Attr<'h>> = formals
        .items
        .iter()
        .map(|formal| Attr {
            name: formal.name,
            pos: formal.pos,
            value: if formal.default.is_some() {
                interp.shared.yes
            } else {
                interp.shared.no
            },
        })
        .collect();
    Ok(interp.attrs_sorted(&entries))
}

fn name_arg<'h>(
    interp: &Interp<'h>,
    arg: Ref<'h>,
    pos: Pos,
    context: &'static str,
) -> Result<Symbol> {
    let name = interp.expect_plain_string(arg, pos, context)?;
    Ok(interp.intern_string(name))
}

fn get_attr<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = name_arg(
        interp,
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.getAttr",
    )?;
    let attrs = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.getAttr",
    )?;
    match attrs.get(name) {
        Some(attr) => interp.force_at(attr.value, pos),
        None => Err(interp
            .missing_attr(name, Pos::NONE)
            .within(pos, "in the attribute set under consideration")),
    }
}

fn has_attr<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = name_arg(
        interp,
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.hasAttr",
    )?;
    let attrs = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.hasAttr",
    )?;
    Ok(Value::Bool(attrs.get(name).is_some()))
}

fn intersect_attrs<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let left = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.intersectAttrs",
    )?;
    let right = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.intersectAttrs",
    )?;
    // The values come from `right`; the shorter side is iterated.
    let mut both = HeapVec::with_capacity(interp.heap, left.size().min(right.size()));
    if left.size() < right.size() {
        for attr in interp.entries(left) {
            if let Some(found) = right.get(attr.name) {
                both.push(*found);
            }
        }
    } else {
        for attr in interp.entries(right) {
            if left.get(attr.name).is_some() {
                both.push(*attr);
            }
        }
    }
    match both.into_exact_slice() {
        [] => Ok(Value::Attrs(interp.shared.no_attrs)),
        both => Ok(interp.attrs_in_heap(both, Pos::NONE)),
    }
}

fn list_to_attrs<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.listToAttrs",
    )?;
    let mut entries: Vec<Attr<'h>> = Vec::with_capacity(list.items.len());
    interp.each_upcoming(list.items, |item| item, Demand::Value, |_, item| {
        let attrs = interp.expect_attrs(
            item,
            pos,
            "while evaluating an element of the list passed to builtins.listToAttrs",
        )?;
        let missing = |name| {
            let error = interp.missing_attr(name, Pos::NONE);
            Err(error.within(pos, "in a {name=...; value=...;} pair"))
        };
        let Some(name_attr) = attrs.get(interp.known.name) else {
            return missing(interp.known.name);
        };
        let name = name_arg(
            interp,
            name_attr.value,
            name_attr.pos,
            "while evaluating the `name` attribute of an element of the list passed to builtins.listToAttrs",
        )
        .map_err(|error| error.of_type_at(name_attr.pos))?;
        let Some(value) = attrs.get(interp.known.value) else {
            // The value of an earlier name is not looked up.
            if entries.iter().any(|entry| entry.name == name) {
                return Ok(());
            }
            return missing(interp.known.value);
        };
        entries.push(Attr {
            name,
            pos: value.pos,
            value: value.value,
        });
        Ok(())
    })?;
    Ok(interp.attrs(entries))
}

fn map_attrs<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.mapAttrs",
    )?;
    let entries = interp.entries(attrs);
    let count = entries.len();
    interp.make_room_for::<(Attr<'h>, Slot<'h>)>(count)?;
    let of: &'h Elements<'h> = interp.heap.alloc(Elements::MapAttrs {
        func: args[0],
        entries,
    });
    let entries = interp.heap.slice_with(count, |index| Attr {
        name: entries[index].name,
        pos: Pos::NONE,
        value: interp.cell(Value::Element {
            index: index as u32,
            of,
        }),
    });
    Ok(interp.attrs_in_heap(entries, Pos::NONE))
}

fn remove_attrs<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.removeAttrs",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.removeAttrs",
    )?;
    let mut names = Vec::with_capacity(list.items.len());
    for item in list.items {
        names.push(name_arg(
            interp,
            item,
            pos,
            "while evaluating the values of the second argument passed to builtins.removeAttrs",
        )?);
    }
    names.retain(|name| attrs.get(*name).is_some());
    if names.is_empty() {
        return Ok(Value::Attrs(attrs));
    }
    names.sort_unstable();
    names.dedup();
    let mut entries = interp.entries(attrs);
    let mut kept = HeapVec::with_capacity(interp.heap, entries.len() - names.len());
    for name in names {
        // Both are sorted.
        let Some(at) = find(entries, name) else {
            continue;
        };
        kept.extend_from_slice(&entries[..at]);
        entries = &entries[at + 1..];
    }
    kept.extend_from_slice(entries);
    Ok(interp.attrs_in_heap(kept.into_slice(), attrs.pos))
}

fn unsafe_get_attr_pos<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = name_arg(
        interp,
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.unsafeGetAttrPos",
    )?;
    let attrs = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.unsafeGetAttrPos",
    )?;
    Ok(match attrs.get(name) {
        Some(attr) => interp.pos_attrs(attr.pos),
        None => Value::Null,
    })
}

fn zip_attrs_with<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.zipAttrsWith",
    )?;
    let sets = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.zipAttrsWith",
    )?;
    let mut values: std::collections::BTreeMap<Symbol, Vec<Ref<'h>>> =
        std::collections::BTreeMap::new();
    let mut count = 0;
    interp.each_upcoming(sets.items, |set| set, Demand::Value, |_, set| {
        let attrs = interp.expect_attrs(
            set,
            pos,
            "while evaluating a value of the list passed as second argument to builtins.zipAttrsWith",
        )?;
        let entries = interp.entries(attrs);
        count += entries.len();
        interp.make_room_for::<Ref<'h>>(count)?;
        for attr in entries {
            values.entry(attr.name).or_default().push(attr.value);
        }
        Ok(())
    })?;
    let entries: Vec<Attr<'h>> = values
        .into_iter()
        .map(|(name, values)| Attr {
            name,
            pos: Pos::NONE,
            value: interp.cell(Value::Apply2(interp.heap.alloc(Apply2 {
                func: args[0],
                args: [interp.name_cell(name), interp.cell(interp.list(&values))],
            }))),
        })
        .collect();
    Ok(interp.attrs_sorted(&entries))
}
