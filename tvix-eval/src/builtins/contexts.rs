//! String contexts: the store paths that a string depends on.

use std::collections::BTreeMap;

use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;

use super::{Def, def};
use crate::access::lossy;
use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{ContextElement, ContextId, Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("addDrvOutputDependencies", 1, add_drv_output_dependencies),
    def("appendContext", 2, append_context),
    def("getContext", 1, get_context).strict(0b1),
    def("hasContext", 1, has_context).strict(0b1),
    def(
        "unsafeDiscardOutputDependency",
        1,
        discard_output_dependency,
    ),
    def("unsafeDiscardStringContext", 1, discard_context).strict(0b1),
];

fn discard_context<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the argument passed to builtins.unsafeDiscardStringContext",
    )?;
    if text.context.is_empty() {
        return Ok(Value::String(text));
    }
    Ok(interp.string_in_heap(text.bytes, ContextId::EMPTY))
}

fn has_context<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_string(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.hasContext",
    )?;
    Ok(Value::Bool(!text.context.is_empty()))
}

fn discard_output_dependency<'h>(
    interp: &Interp<'h>,
    args: &[Ref<'h>],
    pos: Pos,
) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the argument passed to builtins.unsafeDiscardOutputDependency",
    )?;
    let elements = interp.contexts.elements(text.context);
    let plain = elements.iter().map(|element| match &**element {
        ContextElement::Deep(path) => ContextElement::Opaque(path.clone()),
        other => other.clone(),
    });
    Ok(interp.string_in_heap(text.bytes, interp.contexts.of(plain)))
}

fn add_drv_output_dependencies<'h>(
    interp: &Interp<'h>,
    args: &[Ref<'h>],
    pos: Pos,
) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the argument passed to builtins.addDrvOutputDependencies",
    )?;
    let elements = interp.contexts.elements(text.context);
    let [element] = elements.as_slice() else {
        return Err(Error::new(
            ErrorKind::Other,
            format!(
                "context of string '{}' must have exactly one element, but has {}",
                lossy(text.bytes),
                elements.len()
            ),
        ));
    };
    let deep = match &**element {
        ContextElement::Opaque(path) if path.is_derivation() => ContextElement::Deep(path.clone()),
        ContextElement::Opaque(path) => {
            return Err(Error::new(
                ErrorKind::Other,
                format!(
                    "path '{}' is not a derivation",
                    interp.world.settings.store_dir.display(path)
                ),
            ));
        }
        ContextElement::Deep(path) => ContextElement::Deep(path.clone()),
        ContextElement::Output { output, .. } => {
            return Err(Error::new(
                ErrorKind::Other,
                format!(
                    "`addDrvOutputDependencies` can only act on derivations, not on a derivation output such as '{}'",
                    output.as_str()
                ),
            ));
        }
    };
    Ok(interp.string_in_heap(text.bytes, interp.contexts.single(deep)))
}

#[derive(Default)]
struct Info {
    path: bool,
    all_outputs: bool,
    outputs: Vec<OutputName>,
}

fn get_context<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_string(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.getContext",
    )?;
    let mut infos: BTreeMap<StorePath, Info> = BTreeMap::new();
    for element in interp.contexts.elements(text.context) {
        match &*element {
            ContextElement::Opaque(path) => infos.entry(path.clone()).or_default().path = true,
            ContextElement::Deep(path) => {
                infos.entry(path.clone()).or_default().all_outputs = true;
            }
            ContextElement::Output { drv_path, output } => {
                let info = infos.entry(drv_path.clone()).or_default();
                info.outputs.push(output.clone());
            }
        }
    }
    let dir = &interp.world.settings.store_dir;
    let entries = infos
        .into_iter()
        .map(|(path, mut info)| {
            let mut attrs = Vec::new();
            if info.path {
                attrs.push(interp.attr("path", Value::Bool(true)));
            }
            if info.all_outputs {
                attrs.push(interp.attr("allOutputs", Value::Bool(true)));
            }
            if !info.outputs.is_empty() {
                info.outputs.sort();
                let names = info.outputs.iter().map(|name| interp.text(name.as_str()));
                attrs.push(interp.attr("outputs", interp.list_of(names)));
            }
            interp.attr(dir.display(&path).to_string(), interp.attrs(attrs))
        })
        .collect();
    Ok(interp.attrs(entries))
}

fn append_context<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.appendContext",
    )?;
    let added = interp.expect_attrs(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.appendContext",
    )?;
    let dir = &interp.world.settings.store_dir;
    let mut elements = Vec::new();
    for (name, attr) in interp.by_name(added) {
        let path = dir.parse(name).map_err(|_| {
            Error::new(
                ErrorKind::Other,
                format!("context key '\"{}\"' is not a store path", lossy(name)),
            )
            .at(attr.pos)
        })?;
        let info = interp.expect_attrs(
            attr.value,
            attr.pos,
            "while evaluating the value of a string context",
        )?;
        let flag = |key: &str, context| match info.get(interp.intern(key)) {
            Some(attr) => interp
                .expect_bool(attr.value, attr.pos, context)
                .map_err(|error| error.of_type_at(attr.pos)),
            None => Ok(false),
        };
        if flag(
            "path",
            "while evaluating the `path` attribute of a string context",
        )? {
            elements.push(ContextElement::Opaque(path.clone()));
        }
        let must_be_derivation = || {
            Error::new(
                ErrorKind::Other,
                format!(
                    "tried to add all-outputs context of \"{}\", which is not a derivation, to a string",
                    lossy(name)
                ),
            )
            .at(attr.pos)
        };
        if flag(
            "allOutputs",
            "while evaluating the `allOutputs` attribute of a string context",
        )? {
            if !path.is_derivation() {
                return Err(must_be_derivation());
            }
            elements.push(ContextElement::Deep(path.clone()));
        }
        let Some(outputs) = info.get(interp.intern("outputs")) else {
            continue;
        };
        let outputs = interp.expect_list(
            outputs.value,
            outputs.pos,
            "while evaluating the `outputs` attribute of a string context",
        )?;
        if !outputs.items.is_empty() && !path.is_derivation() {
            return Err(Error::new(
                ErrorKind::Other,
                format!(
                    "tried to add derivation output context of \"{}\", which is not a derivation, to a string",
                    lossy(name)
                ),
            )
            .at(attr.pos));
        }
        for item in outputs.items {
            let output = interp.expect_plain_string(
                item,
                attr.pos,
                "while evaluating an output name within a string context",
            )?;
            let output = lossy(output.bytes)
                .parse()
                .map_err(|error| Error::new(ErrorKind::Other, format!("{error}")))?;
            elements.push(ContextElement::Output {
                drv_path: path.clone(),
                output,
            });
        }
    }
    let context = interp
        .contexts
        .union(text.context, interp.contexts.of(elements));
    Ok(interp.string_in_heap(text.bytes, context))
}
