//! Expressions in the form in which C++ Nix prints them after parsing.

use std::io::Write;

use crate::ir::{AttrKind, AttrName, AttrSet, Binary, BinaryOp, Delayed, Expr, Formals, Lambda};
use crate::symbol::{Symbol, Symbols};
use crate::text::number::write_printed;
use crate::text::print::{write_attribute_name, write_string};
use crate::value::Value;

/// An unresolved expression, as printed by `nix-instantiate --parse`.
///
/// Resolved variables are printed as question marks.
pub fn print<'h>(symbols: &Symbols<'h>, expr: &Expr<'h>) -> Vec<u8> {
    run(symbols, expr, false)
}

/// Like [`print()`], with `inherit (set) name;` printed as `name = (set).name;`, as Nix 2.8 does.
#[doc(hidden)]
pub fn print_older<'h>(symbols: &Symbols<'h>, expr: &Expr<'h>) -> Vec<u8> {
    run(symbols, expr, true)
}

fn run<'h>(symbols: &Symbols<'h>, expr: &Expr<'h>, older: bool) -> Vec<u8> {
    let mut printer = Printer {
        symbols,
        older,
        out: Vec::new(),
        tasks: vec![Task::Expr(expr)],
    };
    while let Some(task) = printer.tasks.pop() {
        match task {
            Task::Text(text) => printer.out.extend_from_slice(text.as_bytes()),
            Task::Name(name) => write_attribute_name(&mut printer.out, symbols.name(name)),
            Task::Expr(expr) => printer.expr(expr),
        }
    }
    printer.out
}

/// A stack of parts to print, because expressions may be nested deeper than the machine's stack
/// allows.
enum Task<'x, 'h> {
    Text(&'static str),
    Name(Symbol),
    Expr(&'x Expr<'h>),
}

struct Printer<'c, 'x, 'h> {
    symbols: &'c Symbols<'h>,
    older: bool,
    out: Vec<u8>,
    tasks: Vec<Task<'x, 'h>>,
}

impl<'x, 'h> Printer<'_, 'x, 'h> {
    fn expr(&mut self, expr: &'x Expr<'h>) {
        // Tasks are pushed in reading order and reversed at the end.
        let start = self.tasks.len();
        match expr {
            Expr::Const(cell) => self.constant(cell.get()),
            Expr::Name { name, .. } => self.tasks.push(Task::Name(*name)),
            Expr::WithName(variable) => self.tasks.push(Task::Name(variable.name)),
            Expr::Global(_) | Expr::Local { .. } | Expr::Outer { .. } => self.text("?"),
            Expr::Select(select) => {
                self.text("(");
                self.push(&select.base);
                self.text(").");
                self.path(select.path);
                if let Some(default) = &select.default {
                    self.text(" or (");
                    self.push(default);
                    self.text(")");
                }
            }
            Expr::HasAttr(has) => {
                self.text("((");
                self.push(&has.base);
                self.text(") ? ");
                self.path(has.path);
                self.text(")");
            }
            Expr::AttrSet(set) => {
                self.text(if set.recursive { "rec { " } else { "{ " });
                self.bindings(set);
                self.text("}");
            }
            Expr::List(list) => {
                self.text("[ ");
                for item in list.items.iter() {
                    self.text("(");
                    self.push(&item.expr);
                    self.text(") ");
                }
                self.text("]");
            }
            Expr::Lambda(lambda) => self.lambda(lambda),
            Expr::Call(_) => self.call(expr),
            Expr::Let(let_in) => {
                self.text("(let ");
                self.bindings(&let_in.attrs);
                self.text("in ");
                self.push(&let_in.body);
                self.text(")");
            }
            Expr::With(with) => {
                self.text("(with ");
                self.push(&with.attrs.expr);
                self.text("; ");
                self.push(&with.body);
                self.text(")");
            }
            Expr::If(branch) => {
                self.text("(if ");
                self.push(&branch.cond);
                self.text(" then ");
                self.push(&branch.yes);
                self.text(" else ");
                self.push(&branch.no);
                self.text(")");
            }
            Expr::Assert(assert) => {
                self.text("assert ");
                self.push(&assert.cond);
                self.text("; ");
                self.push(&assert.body);
            }
            Expr::Not(not) => {
                self.text("(! ");
                self.push(&not.operand);
                self.text(")");
            }
            Expr::Binary(binary) => self.binary(binary, &[]),
            Expr::Concat(concat) => {
                self.text("(");
                for (index, part) in concat.parts.iter().enumerate() {
                    if index > 0 {
                        self.text(" + ");
                    }
                    self.push(&part.expr);
                }
                self.text(")");
            }
            Expr::CurPos(_) => self.text("__curPos"),
        }
        self.tasks[start..].reverse();
    }

    fn text(&mut self, text: &'static str) {
        self.tasks.push(Task::Text(text));
    }

    fn push(&mut self, expr: &'x Expr<'h>) {
        self.tasks.push(Task::Expr(expr));
    }

    /// Prints a constant at once: it is the first part of its parent, or a task of its own.
    fn constant(&mut self, value: Value<'h>) {
        match value {
            Value::Int(int) => _ = write!(self.out, "{int}"),
            Value::Float(float) => write_printed(&mut self.out, float),
            Value::String(string) => write_string(&mut self.out, string.bytes),
            Value::Path(path) => self.out.extend_from_slice(path.bytes),
            _ => self.out.push(b'?'),
        }
    }

    fn path(&mut self, path: &'x [AttrName<'h>]) {
        for (index, name) in path.iter().enumerate() {
            if index > 0 {
                self.text(".");
            }
            match name {
                AttrName::Static(name) => self.tasks.push(Task::Name(*name)),
                AttrName::Dynamic(expr) => {
                    self.text("\"${");
                    self.push(expr);
                    self.text("}\"");
                }
            }
        }
    }

    fn bindings(&mut self, set: &'x AttrSet<'h>) {
        let mut defs: Vec<_> = set.defs.iter().collect();
        defs.sort_by_key(|def| self.symbols.name(def.name));
        let mut any = false;
        for def in &defs {
            if def.kind == AttrKind::Inherited {
                self.text(if any { " " } else { "inherit " });
                self.tasks.push(Task::Name(def.name));
                any = true;
            }
        }
        if any {
            self.text("; ");
        }
        let slot_of = |expr: &Expr<'_>| match expr {
            Expr::Select(select) => match select.base {
                Expr::Local { slot, .. } => slot,
                _ => 0,
            },
            _ => 0,
        };
        let mut inherited: Vec<_> = defs
            .iter()
            .filter(|def| def.kind == AttrKind::From && !self.older)
            .map(|def| (slot_of(&def.value.expr), def.name))
            .collect();
        inherited.sort_by_key(|(slot, _)| *slot);
        for group in inherited.chunk_by(|a, b| a.0 == b.0) {
            if let Some(from) = set.from.get(group[0].0 as usize) {
                self.text("inherit (");
                self.push(&from.expr);
                self.text(")");
            }
            for (_, name) in group {
                self.text(" ");
                self.tasks.push(Task::Name(*name));
            }
            self.text("; ");
        }
        for def in &defs {
            if def.kind == AttrKind::Inherited || (def.kind == AttrKind::From && !self.older) {
                continue;
            }
            self.tasks.push(Task::Name(def.name));
            self.text(" = ");
            match set.from.get(slot_of(&def.value.expr) as usize) {
                Some(from) if def.kind == AttrKind::From => {
                    self.text("(");
                    self.push(&from.expr);
                    self.text(").");
                    self.tasks.push(Task::Name(def.name));
                }
                _ => self.push(&def.value.expr),
            }
            self.text("; ");
        }
        for attr in set.dynamic.iter() {
            self.text("\"${");
            self.push(&attr.name);
            self.text("}\" = ");
            self.push(&attr.value.expr);
            self.text("; ");
        }
    }

    fn lambda(&mut self, lambda: &'x Lambda<'h>) {
        self.text("(");
        if let Some(formals) = &lambda.formals {
            self.formals(formals);
            if lambda.arg.is_some() {
                self.text(" @ ");
            }
        }
        if let Some(arg) = lambda.arg {
            self.tasks.push(Task::Name(arg));
        }
        self.text(": ");
        self.push(&lambda.body);
        self.text(")");
    }

    fn formals(&mut self, formals: &'x Formals<'h>) {
        let mut sorted: Vec<_> = formals.items.iter().collect();
        sorted.sort_by_key(|formal| self.symbols.name(formal.name));
        self.text("{ ");
        let mut any = false;
        for formal in sorted {
            if any {
                self.text(", ");
            }
            any = true;
            self.tasks.push(Task::Name(formal.name));
            if let Some(default) = &formal.default {
                self.text(" ? ");
                self.push(&default.expr);
            }
        }
        if formals.ellipsis {
            self.text(if any { ", ..." } else { "..." });
        }
        self.text(" }");
    }

    /// Prints nested calls, and operators that stand for calls, as one call.
    fn call(&mut self, mut expr: &'x Expr<'h>) {
        let mut args: Vec<&'x Delayed<'h>> = Vec::new();
        while let Expr::Call(call) = expr {
            args.extend(call.args.iter().rev());
            expr = &call.func;
        }
        args.reverse();
        if let Expr::Binary(binary) = expr
            && let Some((_, false)) = function_of(binary.op)
        {
            return self.binary(binary, &args);
        }
        self.text("(");
        self.push(expr);
        self.args(&args);
    }

    fn args(&mut self, args: &[&'x Delayed<'h>]) {
        for arg in args {
            self.text(" ");
            self.push(&arg.expr);
        }
        self.text(")");
    }

    fn binary(&mut self, binary: &'x Binary<'h>, args: &[&'x Delayed<'h>]) {
        if let Some((name, not)) = function_of(binary.op) {
            if not {
                self.text("(! ");
            }
            self.text("(");
            self.text(name);
            let swapped = matches!(binary.op, BinaryOp::Greater | BinaryOp::LessOrEqual);
            let (first, second) = match swapped {
                false => (&binary.left, &binary.right),
                true => (&binary.right, &binary.left),
            };
            self.text(" ");
            self.push(first);
            self.text(" ");
            self.push(second);
            self.args(args);
            if not {
                self.text(")");
            }
            return;
        }
        self.text("(");
        self.push(&binary.left);
        self.text(match binary.op {
            BinaryOp::Equal => " == ",
            BinaryOp::NotEqual => " != ",
            BinaryOp::And => " && ",
            BinaryOp::Or => " || ",
            BinaryOp::Implies => " -> ",
            BinaryOp::Update => " // ",
            BinaryOp::Concat => " ++ ",
            _ => " + ",
        });
        self.push(&binary.right);
        self.text(")");
    }
}

/// The function that an operator calls, and whether the result is negated.
fn function_of(op: BinaryOp) -> Option<(&'static str, bool)> {
    match op {
        BinaryOp::Sub => Some(("__sub", false)),
        BinaryOp::Mul => Some(("__mul", false)),
        BinaryOp::Div => Some(("__div", false)),
        BinaryOp::Less | BinaryOp::Greater => Some(("__lessThan", false)),
        BinaryOp::LessOrEqual | BinaryOp::GreaterOrEqual => Some(("__lessThan", true)),
        _ => None,
    }
}
