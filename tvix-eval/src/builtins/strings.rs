//! Strings.

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::{Demand, Interp};
use crate::paths;
use crate::source::Pos;
use crate::text::version;
use crate::value::{Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("baseNameOf", 1, base_name_of).strict(0b1),
    def("compareVersions", 2, compare_versions).strict(0b11),
    def("concatStringsSep", 2, concat_strings_sep).strict(0b11),
    def("dirOf", 1, dir_of).strict(0b1),
    def("parseDrvName", 1, parse_drv_name).strict(0b1),
    def("replaceStrings", 3, replace_strings).strict(0b111),
    def("splitVersion", 1, split_version).strict(0b1),
    def("stringLength", 1, string_length).strict(0b1),
    def("substring", 3, substring).strict(0b111),
    def("toString", 1, to_string).strict(0b1),
];

fn to_string<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp
        .coerce_cell(
            args[0],
            Coercion::TO_STRING,
            pos,
            "while evaluating the first argument passed to builtins.toString",
        )
        .map(Value::String)
}

fn string_length<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the argument passed to builtins.stringLength",
    )?;
    Ok(Value::Int(text.bytes.len() as i64))
}

fn substring<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let start = interp.expect_int(
        args[0],
        pos,
        "while evaluating the first argument (the start offset) passed to builtins.substring",
    )?;
    let Ok(start) = usize::try_from(start) else {
        return Err(Error::new(
            ErrorKind::Other,
            "negative start position in 'substring'",
        ));
    };
    let length = interp.expect_int(
        args[1],
        pos,
        "while evaluating the second argument (the substring length) passed to builtins.substring",
    )?;
    // An empty substring keeps the context of the string. The argument need not be a string then.
    if length == 0
        && let Value::String(text) = interp.force_at(args[2], pos)?
    {
        return Ok(interp.string(b"", text.context));
    }
    let text = interp.coerce_cell(
        args[2],
        Coercion::INTERPOLATION,
        pos,
        "while evaluating the third argument (the string) passed to builtins.substring",
    )?;
    let rest = text.bytes.get(start..).unwrap_or_default();
    let part = match usize::try_from(length) {
        Ok(length) => &rest[..length.min(rest.len())],
        Err(_) => rest,
    };
    Ok(interp.string_in_heap(part, text.context))
}

fn concat_strings_sep<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let separator = interp.expect_string(
        args[0],
        pos,
        "while evaluating the first argument (the separator string) passed to builtins.concatStringsSep",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument (the list of strings to concat) passed to builtins.concatStringsSep",
    )?;
    interp.with_buffer(|buffer| {
        let mut context = separator.context;
        interp.each_upcoming(list.items, |item| item, Demand::Text, |index, item| {
            if index > 0 {
                interp.make_room(buffer.len() + separator.bytes.len())?;
                buffer.extend_from_slice(separator.bytes);
            }
            let value = interp.force_at(item, pos)?;
            interp.coerce(
                value,
                Coercion::INTERPOLATION,
                pos,
                "while evaluating one element of the list of strings to concat passed to builtins.concatStringsSep",
                buffer,
                &mut context,
            )
        })?;
        Ok(interp.string(&*buffer, context))
    })
}

fn replace_strings<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let from = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.replaceStrings",
    )?;
    let to = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.replaceStrings",
    )?;
    if from.items.len() != to.items.len() {
        return Err(Error::new(
            ErrorKind::Other,
            "'from' and 'to' arguments passed to builtins.replaceStrings have different lengths",
        ));
    }
    let mut patterns = Vec::with_capacity(from.items.len());
    interp.each_upcoming(
        from.items,
        |item| item,
        Demand::Value,
        |_, item| {
            let why =
                "while evaluating one of the strings to replace passed to builtins.replaceStrings";
            patterns.push(interp.expect_string(item, pos, why)?.bytes);
            Ok(())
        },
    )?;
    let text = interp.expect_string(
        args[2],
        pos,
        "while evaluating the third argument passed to builtins.replaceStrings",
    )?;
    // Most bytes are not the first byte of any pattern.
    let mut begins = [false; 256];
    let mut matches_nothing = false;
    for pattern in &patterns {
        match pattern.first() {
            Some(first) => begins[usize::from(*first)] = true,
            None => matches_nothing = true,
        }
    }
    interp.with_buffer(|out| {
        let mut context = text.context;
        let mut at = 0;
        while at <= text.bytes.len() {
            let rest = &text.bytes[at..];
            let possible = matches_nothing || rest.first().is_some_and(|byte| begins[usize::from(*byte)]);
            let found = if possible {
                patterns.iter().position(|pattern| rest.starts_with(pattern))
            } else {
                None
            };
            match found {
                Some(index) => {
                    let replacement = interp.expect_string(
                        to.items[index],
                        pos,
                        "while evaluating one of the replacement strings passed to builtins.replaceStrings",
                    )?;
                    interp.make_room(out.len() + replacement.bytes.len())?;
                    out.extend_from_slice(replacement.bytes);
                    context = interp.contexts.union(context, replacement.context);
                    if patterns[index].is_empty() {
                        out.extend(rest.first());
                        at += 1;
                    } else {
                        at += patterns[index].len();
                    }
                }
                None => {
                    out.extend(rest.first());
                    at += 1;
                }
            }
        }
        Ok(interp.string(&*out, context))
    })
}

fn base_name_of<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.coerce_cell(
        args[0],
        Coercion::STRICT,
        pos,
        "while evaluating the first argument passed to builtins.baseNameOf",
    )?;
    Ok(interp.string(paths::base_name(text.bytes), text.context))
}

fn dir_of<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    if let Value::Path(path) = interp.force_at(args[0], pos)? {
        return Ok(interp.path(paths::dir_name(path.bytes)));
    }
    let text = interp.coerce_cell(
        args[0],
        Coercion::STRICT,
        pos,
        "while evaluating the first argument passed to 'builtins.dirOf'",
    )?;
    Ok(interp.string(paths::dir_name(text.bytes), text.context))
}

fn parse_drv_name<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.parseDrvName",
    )?;
    let (name, version) = version::parse_drv_name(text.bytes);
    Ok(interp.attrs(vec![
        interp.attr("name", interp.text(name)),
        interp.attr("version", interp.text(version)),
    ]))
}

fn split_version<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.splitVersion",
    )?;
    Ok(interp.list_of(version::split_version(text.bytes).map(|part| interp.text(part))))
}

fn compare_versions<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let left = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.compareVersions",
    )?;
    let right = interp.expect_plain_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.compareVersions",
    )?;
    Ok(Value::Int(
        version::compare_versions(left.bytes, right.bytes) as i64,
    ))
}

impl<'h> Interp<'h> {
    /// Sends a warning to the user.
    pub(crate) fn warn(&self, message: impl Into<String>) {
        self.diagnostic(tvix_eval_api::Diagnostic::new(
            tvix_eval_api::Severity::Warning,
            format!("warning: {}", message.into()),
        ));
    }
}
