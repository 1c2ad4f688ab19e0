//! Lists.

use super::keys::Keys;
use super::merge_sort::merge_sort;
use super::{Def, def};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::heap::{HeapQueue, HeapVec};
use crate::interp::{Demand, Interp, Offer, Upcoming};
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Attr, Elements, List, Ref, Slot, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("all", 2, all).strict(0b11),
    def("any", 2, any).strict(0b11),
    def("concatLists", 1, concat_lists).strict(0b1),
    def("concatMap", 2, concat_map).strict(0b11),
    def("elem", 2, elem).strict(0b10),
    def("elemAt", 2, elem_at).strict(0b10),
    def("filter", 2, filter).strict(0b10),
    def("foldl'", 3, foldl).strict(0b101),
    def("genList", 2, gen_list).strict(0b10),
    def("genericClosure", 1, generic_closure).strict(0b1),
    def("groupBy", 2, group_by).strict(0b11),
    def("head", 1, head).strict(0b1),
    def("length", 1, length).strict(0b1),
    def("map", 2, map).strict(0b10),
    def("partition", 2, partition).strict(0b11),
    def("sort", 2, sort).strict(0b10),
    def("tail", 1, tail).strict(0b1),
];

/// The Boolean result of a function for an element.
fn holds<'h>(
    interp: &Interp<'h>,
    func: Value<'h>,
    item: Ref<'h>,
    pos: Pos,
    context: &'static str,
) -> Result<bool> {
    let value = interp.call(func, &[item], pos)?;
    is_true(interp, value, pos, context)
}

fn is_true<'h>(
    interp: &Interp<'h>,
    value: Value<'h>,
    pos: Pos,
    context: &'static str,
) -> Result<bool> {
    match value {
        Value::Bool(value) => Ok(value),
        other => Err(interp.type_error("a Boolean", other).within(pos, context)),
    }
}

fn all<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.all",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.all",
    )?;
    for item in list.items {
        let context = "while evaluating the return value of the function passed to builtins.all";
        if !holds(interp, func, item, pos, context)? {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn any<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.any",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.any",
    )?;
    for item in list.items {
        let context = "while evaluating the return value of the function passed to builtins.any";
        if holds(interp, func, item, pos, context)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn concat_lists<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let lists = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.concatLists",
    )?;
    let mut total = 0;
    let mut longest: Option<&'h List<'h>> = None;
    interp.each_upcoming(
        lists.items,
        |list| list,
        Demand::Value,
        |_, list| {
            let list = interp.expect_list(
                list,
                pos,
                "while evaluating a value of the list passed to builtins.concatLists",
            )?;
            total += list.items.len();
            if longest.is_none_or(|longest| longest.items.len() < list.items.len()) {
                longest = Some(list);
            }
            Ok(())
        },
    )?;
    match longest {
        None => return Ok(Value::List(interp.shared.no_list)),
        Some(only) if only.items.len() == total => return Ok(Value::List(only)),
        Some(_) => {}
    }
    interp.make_room_for::<Ref<'h>>(total)?;
    let mut items = HeapVec::with_capacity(interp.heap, total);
    for list in lists.items {
        if let Value::List(list) = interp.force(list)? {
            items.extend_from_slice(list.items);
        }
    }
    Ok(interp.list_in_heap(items.into_slice()))
}

fn concat_map<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.concatMap",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.concatMap",
    )?;
    // The results are in the heap already. They are copied once, into a list of the right size.
    let mut parts = HeapVec::with_capacity(interp.heap, list.items.len());
    let mut count = 0;
    interp.call_each(func, list.items, pos, |_, value| match value {
        Value::List(part) => {
            count += part.items.len();
            interp.make_room_for::<Ref<'h>>(count)?;
            parts.push(interp.cell(value));
            Ok(())
        }
        other => {
            let context =
                "while evaluating the return value of the function passed to builtins.concatMap";
            let place = match func {
                Value::Lambda { code, .. } => interp.lambdas.get(code).pos,
                _ => pos,
            };
            Err(interp.type_error("a list", other).within(place, context))
        }
    })?;
    if count == 0 {
        return Ok(Value::List(interp.shared.no_list));
    }
    let mut items = HeapVec::with_capacity(interp.heap, count);
    for part in parts.iter() {
        if let Value::List(part) = part.get() {
            items.extend_from_slice(part.items);
        }
    }
    Ok(interp.list_in_heap(items.into_slice()))
}

fn elem<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.elem",
    )?;
    for item in list.items {
        if interp.equal_cells(args[0], item, pos)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn elem_at<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let index = interp.expect_int(
        args[1],
        pos,
        "while evaluating the second argument passed to 'builtins.elemAt'",
    )?;
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to 'builtins.elemAt'",
    )?;
    let item = usize::try_from(index)
        .ok()
        .and_then(|index| list.items.get(index));
    match item {
        Some(item) => interp.force_at(item, pos),
        None => Err(Error::new(
            ErrorKind::Other,
            format!(
                "'builtins.elemAt' called with index {index} on a list of size {}",
                list.items.len()
            ),
        )),
    }
}

fn filter<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.filter",
    )?;
    if list.items.is_empty() {
        return Ok(Value::List(list));
    }
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.filter",
    )?;
    let mut kept = Vec::with_capacity(list.items.len());
    interp.call_each(func, list.items, pos, |item, value| {
        let context =
            "while evaluating the return value of the filtering function passed to builtins.filter";
        if is_true(interp, value, pos, context)? {
            kept.push(item);
        }
        Ok(())
    })?;
    if kept.len() == list.items.len() {
        return Ok(Value::List(list));
    }
    Ok(interp.list(&kept))
}

fn foldl<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.foldlStrict",
    )?;
    let list = interp.expect_list(
        args[2],
        pos,
        "while evaluating the third argument passed to builtins.foldlStrict",
    )?;
    let Some((first, rest)) = list.items.split_first() else {
        return interp.force_at(args[1], pos);
    };
    let mut result = interp.call(func, &[args[1], first], Pos::NONE)?;
    for item in rest {
        let so_far = interp.cell(result);
        result = interp.call(func, &[so_far, item], Pos::NONE)?;
    }
    Ok(result)
}

fn gen_list<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let length = interp.expect_int(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.genList",
    )?;
    let Ok(length) = u32::try_from(length) else {
        return Err(Error::new(
            ErrorKind::Other,
            format!("cannot create list of size {length}"),
        ));
    };
    interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.genList",
    )?;
    let length = length as usize;
    let elements = Elements::GenList { func: args[0] };
    elements_in_list(interp, elements, length)
}

/// Minimum memory of an element of `genericClosure` in bytes: a cell, a set of one attribute, its
/// cell, the list that contained it, and its key. Only the limit of memory ends an infinite
/// closure.
const CLOSURE_ELEMENT: usize = 128;

fn generic_closure<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let arg = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.genericClosure",
    )?;
    let field = |name, context| {
        arg.get(name)
            .ok_or_else(|| interp.missing_attr(name, Pos::NONE).within(pos, context))
    };
    let start = field(
        interp.known.start_set,
        "in the attrset passed as argument to builtins.genericClosure",
    )?;
    let start = interp.expect_list(
        start.value,
        pos,
        "while evaluating the 'startSet' attribute passed as argument to builtins.genericClosure",
    )?;
    if start.items.is_empty() {
        return Ok(Value::List(start));
    }
    let operator = field(
        interp.known.operator,
        "in the attrset passed as argument to builtins.genericClosure",
    )?;
    let operator = interp.expect_function(
        operator.value,
        pos,
        "while evaluating the 'operator' attribute passed as argument to builtins.genericClosure",
    )?;
    // The elements that are known at the start are all forced.
    let offer = |index| Offer::item(start.items, index, |item| *item, Demand::Value);
    interp.upcoming(&offer, |upcoming| {
        closure(interp, operator, start.items, pos, upcoming)
    })
}

/// The elements that a function reaches from the elements `start`.
fn closure<'h>(
    interp: &Interp<'h>,
    operator: Value<'h>,
    start: &'h [Ref<'h>],
    pos: Pos,
    upcoming: &Upcoming<'h>,
) -> Result<Value<'h>> {
    let show = |item: Ref<'h>| interp.show_value(item);
    let mut queue = HeapQueue::of(interp.heap, start);
    let mut done = Keys::default();
    // Keeps what `done` refers to.
    let mut result = HeapVec::new(interp.heap);
    let mut taken = 0;
    while let Some(item) = queue.pop() {
        upcoming.at(taken);
        taken += 1;
        let attrs = match interp.force_at(item, pos)? {
            Value::Attrs(attrs) => attrs,
            other => {
                let what = format!("in genericClosure element {}", show(item));
                return Err(interp.type_error("a set", other).within(pos, what));
            }
        };
        let Some(key) = attrs.get(interp.known.key) else {
            return Err(interp
                .missing_attr(interp.known.key, Pos::NONE)
                .within(pos, format!("in genericClosure element {}", show(item))));
        };
        let key = interp.force_at(key.value, pos)?;
        if !done.insert(interp, key, item)? {
            continue;
        }
        result.push(item);
        interp.make_room((result.len() + queue.len()).saturating_mul(CLOSURE_ELEMENT))?;
        let context =
            "while evaluating the return value of the `operator` passed to builtins.genericClosure";
        let more = match interp.call(operator, &[item], pos) {
            Ok(Value::List(more)) => Ok(more),
            Ok(other) => Err(interp.type_error("a list", other).within(pos, context)),
            Err(error) => Err(error),
        };
        let more = more.within_with(pos, || {
            format!(
                "while calling operator on genericClosure element {}",
                show(item)
            )
        })?;
        queue.extend_from_slice(more.items);
    }
    Ok(interp.list_in_heap(result.into_slice()))
}

fn group_by<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.groupBy",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.groupBy",
    )?;
    // The list keeps its elements.
    let mut members: Vec<(Symbol, u32)> = Vec::new();
    let mut index = 0;
    interp.call_each(func, list.items, pos, |_, name| {
        let context =
            "while evaluating the return value of the grouping function passed to builtins.groupBy";
        let name = interp.expect_plain_string(interp.cell(name), pos, context)?;
        members.push((interp.intern_string(name), index));
        index += 1;
        Ok(())
    })?;
    members.sort_unstable();
    let groups = members.chunk_by(|one, other| one.0 == other.0);
    let entries: Vec<Attr<'h>> = groups
        .map(|group| {
            let items = interp
                .heap
                .slice_with(group.len(), |member| list.items[group[member].1 as usize]);
            Attr {
                name: group[0].0,
                pos: Pos::NONE,
                value: interp.cell(interp.list_in_heap(items)),
            }
        })
        .collect();
    Ok(interp.attrs_sorted(&entries))
}

fn head<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to 'builtins.head'",
    )?;
    match list.items.first() {
        Some(first) => interp.force_at(first, pos),
        None => Err(Error::new(
            ErrorKind::Other,
            "'builtins.head' called on an empty list",
        )),
    }
}

fn tail<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to 'builtins.tail'",
    )?;
    match list.items.split_first() {
        Some((_, [])) => Ok(Value::List(interp.shared.no_list)),
        Some((_, rest)) => Ok(interp.list_in_heap(rest)),
        None => Err(Error::new(
            ErrorKind::Other,
            "'builtins.tail' called on an empty list",
        )),
    }
}

fn length<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.length",
    )?;
    Ok(Value::Int(list.items.len() as i64))
}

fn map<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.map",
    )?;
    if list.items.is_empty() {
        return Ok(Value::List(list));
    }
    interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.map",
    )?;
    let elements = Elements::Map {
        func: args[0],
        items: list.items,
    };
    elements_in_list(interp, elements, list.items.len())
}

/// A list of `count` calls that are evaluated on demand.
fn elements_in_list<'h>(
    interp: &Interp<'h>,
    elements: Elements<'h>,
    count: usize,
) -> Result<Value<'h>> {
    interp.make_room_for::<(Ref<'h>, Slot<'h>)>(count)?;
    let of: &'h Elements<'h> = interp.heap.alloc(elements);
    let items = interp.heap.slice_with(count, |index| {
        let index = index as u32;
        interp.cell(Value::Element { index, of })
    });
    Ok(interp.list_in_heap(items))
}

fn partition<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.partition",
    )?;
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.partition",
    )?;
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    interp.each_upcoming(list.items, |item| item, Demand::Value, |_, item| {
        let context = "while evaluating the return value of the partition function passed to builtins.partition";
        interp.force_at(item, pos)?;
        if holds(interp, func, item, pos, context)? {
            right.push(*item);
        } else {
            wrong.push(*item);
        }
        Ok(())
    })?;
    let attr = |name, items: &[Ref<'h>]| Attr {
        name,
        pos: Pos::NONE,
        value: interp.cell(interp.list(items)),
    };
    Ok(interp.attrs(vec![
        attr(interp.known.right, &right),
        attr(interp.known.wrong, &wrong),
    ]))
}

fn sort<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let list = interp.expect_list(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.sort",
    )?;
    if list.items.is_empty() {
        return Ok(Value::List(list));
    }
    let func = interp.expect_function(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.sort",
    )?;
    interp.each_upcoming(
        list.items,
        |item| item,
        Demand::Value,
        |_, item| interp.force_at(item, pos).map(drop),
    )?;
    let is_less_than = matches!(func, Value::Builtin(builtin) if builtin.name == "lessThan");
    let context =
        "while evaluating the return value of the sorting function passed to builtins.sort";
    let less = |a: Ref<'h>, b: Ref<'h>| -> Result<bool> {
        if is_less_than {
            return interp.less(interp.force(a)?, interp.force(b)?).within(
                pos,
                "while evaluating the ordering function passed to builtins.sort",
            );
        }
        match interp.call(func, &[a, b], pos)? {
            Value::Bool(value) => Ok(value),
            other => Err(interp.type_error("a Boolean", other).within(pos, context)),
        }
    };
    let mut items = list.items.to_vec();
    merge_sort(&mut items, &less)?;
    Ok(interp.list(&items))
}
