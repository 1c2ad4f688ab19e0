//! Numbers, and the order of values.

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::ir::BinaryOp;
use crate::source::Pos;
use crate::value::{Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("add", 2, add).strict(0b11),
    def("sub", 2, sub).strict(0b11),
    def("mul", 2, mul).strict(0b11),
    def("div", 2, div).strict(0b10),
    def("lessThan", 2, less_than).strict(0b11),
    def("bitAnd", 2, bit_and).strict(0b11),
    def("bitOr", 2, bit_or).strict(0b11),
    def("bitXor", 2, bit_xor).strict(0b11),
    def("ceil", 1, ceil).strict(0b1),
    def("floor", 1, floor).strict(0b1),
];

macro_rules! arithmetic {
    ($name:ident, $op:expr) => {
        fn $name<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
            let left = interp.force_at(args[0], pos)?;
            let right = interp.force_at(args[1], pos)?;
            interp.arithmetic($op, left, right)
        }
    };
}

arithmetic!(add, BinaryOp::Add);
arithmetic!(sub, BinaryOp::Sub);
arithmetic!(mul, BinaryOp::Mul);
arithmetic!(div, BinaryOp::Div);

fn less_than<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let left = interp.force_at(args[0], pos)?;
    let right = interp.force_at(args[1], pos)?;
    Ok(Value::Bool(interp.less(left, right)?))
}

macro_rules! bits {
    ($name:ident, $operator:tt, $first:literal, $second:literal) => {
        fn $name<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
            let left = interp.expect_int(args[0], pos, $first)?;
            let right = interp.expect_int(args[1], pos, $second)?;
            Ok(Value::Int(left $operator right))
        }
    };
}

bits!(
    bit_and,
    &,
    "while evaluating the first argument passed to builtins.bitAnd",
    "while evaluating the second argument passed to builtins.bitAnd"
);
bits!(
    bit_or,
    |,
    "while evaluating the first argument passed to builtins.bitOr",
    "while evaluating the second argument passed to builtins.bitOr"
);
bits!(
    bit_xor,
    ^,
    "while evaluating the first argument passed to builtins.bitXor",
    "while evaluating the second argument passed to builtins.bitXor"
);

fn ceil<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    round(
        interp,
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.ceil",
        f64::ceil,
    )
}

fn floor<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    round(
        interp,
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.floor",
        f64::floor,
    )
}

/// Older versions of C++ Nix rounded integers as floats. Integers for which that result was wrong
/// are an error now.
fn rounded_integer<'h>(value: i64) -> Result<Value<'h>> {
    const ISSUE: &str = "Due to a bug (see https://github.com/NixOS/nix/issues/12899)";
    // Indented as in C++ Nix.
    const LATER: &str = " Future Nix versions might implement the correct behavior.";
    let as_float = value as f64;
    let message = if as_float >= 2_f64.powi(63) {
        format!(
            "{ISSUE} the NixInt argument {value} caused undefined behavior in previous Nix versions.\n{LATER}"
        )
    } else if as_float as i64 != value {
        format!(
            "{ISSUE} a loss of precision occurred in previous Nix versions because the NixInt argument {value} was rounded to {}.\n   {LATER}",
            as_float as i64
        )
    } else {
        return Ok(Value::Int(value));
    };
    Err(Error::new(ErrorKind::Other, message))
}

fn round<'h>(
    interp: &Interp<'h>,
    arg: Ref<'h>,
    pos: Pos,
    context: &'static str,
    direction: fn(f64) -> f64,
) -> Result<Value<'h>> {
    let number = match interp.force_at(arg, pos)? {
        Value::Int(value) => return rounded_integer(value),
        Value::Float(value) => value,
        other => return Err(interp.type_error("a float", other).within(pos, context)),
    };
    let rounded = direction(number);
    // 2^63 itself is not a 64-bit integer.
    if rounded >= -(2_f64.powi(63)) && rounded < 2_f64.powi(63) {
        return Ok(Value::Int(rounded as i64));
    }
    let shown = interp.show(Value::Float(number));
    Err(Error::new(
        ErrorKind::Other,
        format!("NixFloat argument {shown} is not in the range of NixInt"),
    ))
}
