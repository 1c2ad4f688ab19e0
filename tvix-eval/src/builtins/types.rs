//! Type tests.

use super::{Def, def};
use crate::error::Result;
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("typeOf", 1, type_of).strict(0b1),
    def("isAttrs", 1, is_attrs).strict(0b1),
    def("isBool", 1, is_bool).strict(0b1),
    def("isFloat", 1, is_float).strict(0b1),
    def("isFunction", 1, is_function).strict(0b1),
    def("isInt", 1, is_int).strict(0b1),
    def("isList", 1, is_list).strict(0b1),
    def("isNull", 1, is_null).strict(0b1),
    def("isPath", 1, is_path).strict(0b1),
    def("isString", 1, is_string).strict(0b1),
];

fn type_of<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let value = interp.force_at(args[0], pos)?;
    Ok(interp.text(value.type_name()))
}

macro_rules! test {
    ($name:ident, $pattern:pat) => {
        fn $name<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
            let value = interp.force_at(args[0], pos)?;
            Ok(Value::Bool(matches!(value, $pattern)))
        }
    };
}

test!(is_attrs, Value::Attrs(_));
test!(is_bool, Value::Bool(_));
test!(is_float, Value::Float(_));
test!(
    is_function,
    Value::Lambda { .. } | Value::Builtin(_) | Value::Partial(_)
);
test!(is_int, Value::Int(_));
test!(is_list, Value::List(_));
test!(is_null, Value::Null);
test!(is_path, Value::Path(_));
test!(is_string, Value::String(_));
