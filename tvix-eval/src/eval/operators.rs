//! Binary operators and assertions.

use super::chain::{chain, is_chain};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::interp::{Demand, Grown, Interp, Memo};
use crate::ir::{Assert, Binary, BinaryOp, Expr};
use crate::source::Pos;
use crate::value::{Attr, Attrs, Env, List, Slot, Value, Words};

/// `a >= b` is `!(a < b)`.
const NOT: &str = "in the argument of the not operator";

impl<'h> Interp<'h> {
    #[inline(never)]
    pub(super) fn binary(&self, node: &'h Binary<'h>, env: Env<'h>) -> Words<'h> {
        if let Err(error) = self.check_stack() {
            return Words::new(Err(error));
        }
        let depth = self.depth.get();
        let result = self.operation(node, env);
        self.depth.set(depth);
        Words::new(result)
    }

    #[inline(always)]
    fn operation(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<Value<'h>> {
        let pos = node.pos;
        let value = match node.op {
            BinaryOp::And | BinaryOp::Or if is_chain(node) => self.bool_chain(node, env)?,
            BinaryOp::And => {
                self.eval_bool(
                    &node.left,
                    env,
                    pos,
                    "in the left operand of the AND (&&) operator",
                )? && self.eval_bool(
                    &node.right,
                    env,
                    pos,
                    "in the right operand of the AND (&&) operator",
                )?
            }
            BinaryOp::Or => {
                self.eval_bool(
                    &node.left,
                    env,
                    pos,
                    "in the left operand of the OR (||) operator",
                )? || self.eval_bool(
                    &node.right,
                    env,
                    pos,
                    "in the right operand of the OR (||) operator",
                )?
            }
            BinaryOp::Implies => {
                !self.eval_bool(
                    &node.left,
                    env,
                    pos,
                    "in the left operand of the IMPL (->) operator",
                )? || self.eval_bool(
                    &node.right,
                    env,
                    pos,
                    "in the right operand of the IMPL (->) operator",
                )?
            }
            BinaryOp::Equal => {
                let (left, right) = self.eval_both(&node.left, &node.right, env)?;
                self.equal(left, right, pos)?
            }
            BinaryOp::NotEqual => {
                let (left, right) = self.eval_both(&node.left, &node.right, env)?;
                !self.equal(left, right, pos)?
            }
            BinaryOp::Update => return self.update_expr(node, env),
            BinaryOp::Concat => return self.concat_lists(node, env),
            BinaryOp::Add => return self.add(node, env),
            BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => {
                // In C++ Nix these operators are calls.
                self.deeper(pos)?;
                let result = (|| {
                    let (left, right) = self.eval_both(&node.left, &node.right, env)?;
                    self.arithmetic(node.op, left, right)
                })();
                return result.map_err(|error| {
                    let name = match node.op {
                        BinaryOp::Sub => "while calling the 'sub' builtin",
                        BinaryOp::Mul => "while calling the 'mul' builtin",
                        _ => "while calling the 'div' builtin",
                    };
                    error.within(pos, name)
                });
            }
            BinaryOp::Less | BinaryOp::GreaterOrEqual => {
                self.deeper(pos)?;
                let less = (|| {
                    let (left, right) = self.eval_both(&node.left, &node.right, env)?;
                    self.less(left, right)
                })()
                .within(pos, "while calling the 'lessThan' builtin");
                match less {
                    Err(error) if node.op == BinaryOp::GreaterOrEqual => {
                        return Err(error.within(pos, NOT));
                    }
                    less => less? != (node.op == BinaryOp::GreaterOrEqual),
                }
            }
            BinaryOp::Greater | BinaryOp::LessOrEqual => {
                self.deeper(pos)?;
                // `a > b` is `__lessThan b a`, which evaluates `b` first.
                let less = (|| {
                    let (right, left) = self.eval_both(&node.right, &node.left, env)?;
                    self.less(right, left)
                })()
                .within(pos, "while calling the 'lessThan' builtin");
                match less {
                    Err(error) if node.op == BinaryOp::LessOrEqual => {
                        return Err(error.within(pos, NOT));
                    }
                    less => less? != (node.op == BinaryOp::LessOrEqual),
                }
            }
        };
        Ok(Value::Bool(value))
    }

    /// `a && b && c …` or `a || b || c …`, without recursion.
    #[inline(never)]
    fn bool_chain(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<bool> {
        let (first, nodes) = chain(node);
        let is_and = node.op == BinaryOp::And;
        let (on_left, on_right) = match is_and {
            true => (
                "in the left operand of the AND (&&) operator",
                "in the right operand of the AND (&&) operator",
            ),
            false => (
                "in the left operand of the OR (||) operator",
                "in the right operand of the OR (||) operator",
            ),
        };
        let within = |error: Box<Error>, nodes: &[&'h Binary<'h>]| {
            let nodes = nodes.iter();
            nodes.fold(error, |error, node| error.within(node.pos, on_left))
        };
        let Some(innermost) = nodes.first() else {
            return Ok(is_and);
        };
        let left = self.eval_bool(first, env, innermost.pos, on_left);
        if left.map_err(|error| within(error, &nodes[1..]))? != is_and {
            return Ok(!is_and);
        }
        for (index, node) in nodes.iter().enumerate() {
            let right = self.eval_bool(&node.right, env, node.pos, on_right);
            if right.map_err(|error| within(error, &nodes[index + 1..]))? != is_and {
                return Ok(!is_and);
            }
        }
        Ok(is_and)
    }

    fn update_expr(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<Value<'h>> {
        // C++ Nix evaluates the right side first.
        let (right, memo) = match self.eval_first(&node.right, &node.left, env, Demand::Value) {
            Ok((right, memo)) => (Ok(right), memo),
            Err(error) => (Err(error), Memo::new()),
        };
        let right = self.operand_attrs(
            right,
            match &node.right {
                Expr::Global(_) => self.right_of(Pos(node.pos.0 + 1)),
                right => right.pos(),
            },
            "in the right operand of the update (//) operator",
        )?;
        let left = self.operand_attrs(
            self.eval_second(&memo, &node.left, env),
            node.left.pos(),
            "in the left operand of the update (//) operator",
        )?;
        self.make_room_for::<Attr<'h>>(left.size() + right.size())?;
        Ok(self.update(left, right))
    }

    fn operand_attrs(
        &self,
        value: Result<Value<'h>>,
        pos: Pos,
        context: &'static str,
    ) -> Result<&'h Attrs<'h>> {
        match value.within(pos, context)? {
            Value::Attrs(attrs) => Ok(attrs),
            other => Err(self.type_error("a set", other).within(pos, context)),
        }
    }

    fn concat_lists(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<Value<'h>> {
        // Both operands are evaluated before either is checked.
        let (left, right) = self.eval_both(&node.left, &node.right, env)?;
        let left = self.operand_list(left, node.pos)?;
        let right = self.operand_list(right, node.pos)?;
        if left.items.is_empty() {
            return Ok(Value::List(right));
        }
        if right.items.is_empty() {
            return Ok(Value::List(left));
        }
        let count = left.items.len() + right.items.len();
        self.make_room_for::<&Slot<'h>>(count)?;
        if size_of_val(left.items) >= Grown::SMALL && right.items.len() < left.items.len() {
            return Ok(self.list_in_heap(self.grown.items.append(left.items, right.items)));
        }
        if size_of_val(right.items) >= Grown::SMALL && left.items.len() < right.items.len() {
            return Ok(self.list_in_heap(self.grown.items.prepend(left.items, right.items)));
        }
        let items = self
            .heap
            .slice_with(count, |index| match left.items.get(index) {
                Some(item) => *item,
                None => right.items[index - left.items.len()],
            });
        Ok(self.list_in_heap(items))
    }

    fn operand_list(&self, value: Value<'h>, pos: Pos) -> Result<&'h List<'h>> {
        match value {
            Value::List(list) => Ok(list),
            other => Err(self
                .type_error("a list", other)
                .within(pos, "while evaluating one of the elements to concatenate")),
        }
    }

    /// `-`, `*`, `/`, and the equivalent builtins.
    pub(crate) fn arithmetic(
        &self,
        op: BinaryOp,
        left: Value<'h>,
        right: Value<'h>,
    ) -> Result<Value<'h>> {
        let (a, b) = match (left, right) {
            (Value::Int(a), Value::Int(b)) => return integers(op, a, b),
            (Value::Int(a), Value::Float(b)) => (a as f64, b),
            (Value::Float(a), Value::Int(b)) => (a, b as f64),
            (Value::Float(a), Value::Float(b)) => (a, b),
            _ => return Err(self.not_a_number(op, left, right)),
        };
        Ok(Value::Float(match op {
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div if b == 0.0 => {
                return Err(Error::new(ErrorKind::Other, "division by zero"));
            }
            BinaryOp::Div => a / b,
            _ => a + b,
        }))
    }

    #[cold]
    fn not_a_number(&self, op: BinaryOp, left: Value<'h>, right: Value<'h>) -> Box<Error> {
        let is_number = |value| matches!(value, Value::Int(_) | Value::Float(_));
        let is_zero = matches!(right, Value::Int(0)) || matches!(right, Value::Float(0.0));
        if op == BinaryOp::Div && is_zero {
            return Error::new(ErrorKind::Other, "division by zero");
        }
        // A division checks its divisor first, as a float.
        let is_float = matches!(left, Value::Float(_))
            || matches!(right, Value::Float(_))
            || (op == BinaryOp::Div && !is_number(right));
        let wanted = if is_float { "a float" } else { "an integer" };
        let (culprit, which) = if is_number(left) || (op == BinaryOp::Div && !is_number(right)) {
            (right, 1)
        } else {
            (left, 0)
        };
        let context = match (op, which) {
            (BinaryOp::Sub, 0) => "while evaluating the first argument of the subtraction",
            (BinaryOp::Sub, _) => "while evaluating the second argument of the subtraction",
            (BinaryOp::Mul, 0) => "while evaluating the first argument of the multiplication",
            (BinaryOp::Mul, _) => "while evaluating the second argument of the multiplication",
            (BinaryOp::Div, 0) => "while evaluating the first operand of the division",
            (BinaryOp::Div, _) => "while evaluating the second operand of the division",
            (_, 0) => "while evaluating the first argument of the addition",
            (_, _) => "while evaluating the second argument of the addition",
        };
        self.type_error(wanted, culprit).within(Pos::NONE, context)
    }

    pub(super) fn check_assertion(&self, assert: &'h Assert<'h>, env: Env<'h>) -> Result<()> {
        let pos = assert.pos;
        let holds = self.eval_bool(
            &assert.cond,
            env,
            pos,
            "in the condition of the assert statement",
        )?;
        if holds {
            return Ok(());
        }
        let text = self.assertion_text(pos);
        if let Expr::Binary(node) = &assert.cond
            && node.op == BinaryOp::Equal
        {
            let left = self.cell(self.eval(&node.left, env)?);
            let right = self.cell(self.eval(&node.right, env)?);
            let context = format!("while evaluating the condition of the assertion '{text}'");
            if let Err(error) = self.explain_difference(left, right) {
                return Err(error.within(pos, context));
            }
        }
        Err(Error::new(ErrorKind::Assertion, format!("assertion '{text}' failed")).at(pos))
    }
}

fn integers<'h>(op: BinaryOp, a: i64, b: i64) -> Result<Value<'h>> {
    let result = match op {
        BinaryOp::Sub => a.checked_sub(b),
        BinaryOp::Mul => a.checked_mul(b),
        BinaryOp::Div if b == 0 => {
            return Err(Error::new(ErrorKind::Other, "division by zero"));
        }
        BinaryOp::Div => a.checked_div(b),
        _ => a.checked_add(b),
    };
    result.map(Value::Int).ok_or_else(|| overflow(op, a, b))
}

#[cold]
fn overflow(op: BinaryOp, a: i64, b: i64) -> Box<Error> {
    let what = match op {
        BinaryOp::Sub => format!("subtracting {a} - {b}"),
        BinaryOp::Mul => format!("multiplying {a} * {b}"),
        BinaryOp::Div => format!("dividing {a} / {b}"),
        _ => format!("adding {a} + {b}"),
    };
    Error::new(ErrorKind::Other, format!("integer overflow in {what}"))
}

/// The sum of two integers.
pub(super) fn add_integers<'h>(a: i64, b: i64) -> Result<Value<'h>> {
    integers(BinaryOp::Add, a, b)
}
