//! Chains of one operator, which are evaluated without recursion.

use crate::ir::{Binary, Expr};

/// Whether a node is the end of a chain of the same operator, with five operands or more.
#[inline]
pub(super) fn is_chain(node: &Binary<'_>) -> bool {
    let mut node = node;
    for _ in 0..3 {
        match &node.left {
            Expr::Binary(left) if left.op == node.op => node = left,
            _ => return false,
        }
    }
    true
}

/// The first operand of a chain of the same operator, and its nodes in the order of evaluation.
pub(super) fn chain<'h>(node: &'h Binary<'h>) -> (&'h Expr<'h>, Vec<&'h Binary<'h>>) {
    let mut nodes = vec![node];
    let mut first = &node.left;
    while let Expr::Binary(left) = first
        && left.op == node.op
    {
        nodes.push(left);
        first = &left.left;
    }
    nodes.reverse();
    (first, nodes)
}
