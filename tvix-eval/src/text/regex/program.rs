//! The executable form of a pattern: without empty states, with loops over a set as a single step,
//! and with the possible next bytes of every choice.

use super::bracket::ByteSet;
use super::syntax::{Graph, Kind, NONE};

/// Limit of the total number of states visited to compute [`First`].
const FIRST_BUDGET: usize = 200_000;

/// The possible continuations at a state. May contain impossible ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct First {
    pub(super) set: ByteSet,
    /// The end of the text is possible.
    pub(super) end: bool,
    /// The match may be complete here.
    pub(super) accept: bool,
}

impl First {
    const ANY: Self = Self {
        set: ByteSet::FULL,
        end: true,
        accept: true,
    };
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Byte {
        byte: u8,
        next: u32,
    },
    Set {
        set: u32,
        next: u32,
    },
    /// As many bytes of a set as possible, then fewer.
    Loop {
        set: u32,
        next: u32,
        first: u32,
        kind: LoopKind,
    },
    Alternative {
        alt: u32,
        next: u32,
        alt_first: u32,
        next_first: u32,
    },
    Repeat {
        alt: u32,
        next: u32,
        alt_first: u32,
        next_first: u32,
        /// The counter of iterations at the current position, if the body can be empty.
        counter: u32,
    },
    Begin {
        group: u32,
        next: u32,
    },
    End {
        group: u32,
        next: u32,
    },
    LineBegin {
        next: u32,
    },
    LineEnd {
        next: u32,
    },
    Accept,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LoopKind {
    /// The continuation never starts with a byte of the set, so that fewer iterations need not be
    /// tried when the whole text must match.
    pub(super) whole_exclusive: bool,
    /// The same for a search.
    pub(super) search_exclusive: bool,
    /// The excluded byte, if the set is all bytes but one, which can be searched for quickly.
    pub(super) all_but: Option<u8>,
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
    pub(super) sets: Vec<ByteSet>,
    pub(super) firsts: Vec<First>,
    pub(super) start: u32,
    pub(super) start_first: First,
    /// The only byte with which a match can start.
    pub(super) start_byte: Option<u8>,
    pub(super) groups: u32,
    pub(super) counters: u32,
    pub(super) has_alternatives: bool,
}

impl Program {
    pub(super) fn new(mut graph: Graph) -> Self {
        remove_dummies(&mut graph);
        let in_cycle = empty_cycles(&graph);
        let mut program = Builder {
            graph: &graph,
            sets: Vec::new(),
            firsts: vec![First::ANY],
            first_of: rustc_hash::FxHashMap::default(),
            places: vec![NONE; graph.states.len()],
            order: Vec::new(),
            budget: FIRST_BUDGET,
            seen: vec![0; graph.states.len()],
            round: 0,
        };
        let start = program.place(graph.start);
        let start_first = program.first(graph.start);
        let start_first = program.firsts[start_first as usize];
        let mut ops = Vec::new();
        let mut counters = 0;
        let mut has_alternatives = false;
        let mut at = 0;
        while let Some(&state) = program.order.get(at) {
            at += 1;
            let op = program.op(state, &in_cycle, &mut counters);
            has_alternatives |= matches!(op, Op::Alternative { .. });
            ops.push(op);
        }
        let only = start_first.set.len() == 1 && !start_first.end && !start_first.accept;
        Self {
            ops,
            sets: program.sets,
            firsts: program.firsts,
            start,
            start_first,
            start_byte: start_first.set.bytes().next().filter(|_| only),
            groups: graph.groups,
            counters,
            has_alternatives,
        }
    }
}

/// Redirects every transition past the empty states.
fn remove_dummies(graph: &mut Graph) {
    let states = &mut graph.states;
    // Chains of empty states are shortened on the way, so that each is followed about once.
    let skip = |states: &mut Vec<super::syntax::State>, from: u32| {
        let mut to = from;
        while to != NONE && matches!(states[to as usize].kind, Kind::Dummy) {
            to = states[to as usize].next;
        }
        let mut at = from;
        while at != NONE && at != to {
            at = std::mem::replace(&mut states[at as usize].next, to);
        }
        to
    };
    for state in 0..states.len() {
        let next = skip(states, states[state].next);
        states[state].next = next;
        if let Kind::Alternative { alt } | Kind::Repeat { alt } = states[state].kind {
            let to = skip(states, alt);
            if let Kind::Alternative { alt } | Kind::Repeat { alt } = &mut states[state].kind {
                *alt = to;
            }
        }
    }
    graph.start = skip(states, graph.start);
}

/// The states that are reachable from a state without consuming a byte.
fn empty_edges(graph: &Graph, state: u32) -> [u32; 2] {
    let state = &graph.states[state as usize];
    match state.kind {
        Kind::Byte(_) | Kind::Set(_) | Kind::Accept => [NONE, NONE],
        Kind::Alternative { alt } | Kind::Repeat { alt } => [alt, state.next],
        _ => [state.next, NONE],
    }
}

/// For every state, the number of its cycle of states that consume no byte (Tarjan's strongly
/// connected components, with an explicit stack).
fn empty_cycles(graph: &Graph) -> Vec<u32> {
    let count = graph.states.len();
    let mut component = vec![NONE; count];
    let mut index = vec![NONE; count];
    let mut low = vec![0; count];
    let mut stack = Vec::new();
    let mut calls: Vec<(u32, usize)> = Vec::new();
    let (mut next_index, mut next_component) = (0, 0);
    for root in 0..count as u32 {
        if index[root as usize] != NONE {
            continue;
        }
        calls.push((root, 0));
        while let Some((state, edge)) = calls.pop() {
            let s = state as usize;
            if edge == 0 {
                index[s] = next_index;
                low[s] = next_index;
                next_index += 1;
                stack.push(state);
            }
            if let Some(to) = empty_edges(graph, state).get(edge) {
                calls.push((state, edge + 1));
                if *to == NONE {
                    continue;
                }
                if index[*to as usize] == NONE {
                    calls.push((*to, 0));
                } else if component[*to as usize] == NONE {
                    low[s] = low[s].min(index[*to as usize]);
                }
                continue;
            }
            if low[s] == index[s] {
                while let Some(member) = stack.pop() {
                    component[member as usize] = next_component;
                    if member == state {
                        break;
                    }
                }
                next_component += 1;
            }
            if let Some((parent, _)) = calls.last() {
                low[*parent as usize] = low[*parent as usize].min(low[s]);
            }
        }
    }
    component
}

struct Builder<'g> {
    graph: &'g Graph,
    sets: Vec<ByteSet>,
    firsts: Vec<First>,
    first_of: rustc_hash::FxHashMap<u32, u32>,
    /// The index of each state's step.
    places: Vec<u32>,
    order: Vec<u32>,
    budget: usize,
    seen: Vec<u32>,
    round: u32,
}

impl Builder<'_> {
    fn place(&mut self, state: u32) -> u32 {
        let place = &mut self.places[state as usize];
        if *place == NONE {
            *place = self.order.len() as u32;
            self.order.push(state);
        }
        *place
    }

    fn set(&mut self, set: ByteSet) -> u32 {
        let found = self.sets.iter().take(64).position(|s| *s == set);
        found.unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        }) as u32
    }

    fn first(&mut self, state: u32) -> u32 {
        if let Some(known) = self.first_of.get(&state) {
            return *known;
        }
        let mut first = First::default();
        self.round += 1;
        let mut todo = vec![state];
        while let Some(state) = todo.pop() {
            if state == NONE || self.seen[state as usize] == self.round {
                continue;
            }
            self.seen[state as usize] = self.round;
            let Some(budget) = self.budget.checked_sub(1) else {
                return 0;
            };
            self.budget = budget;
            match self.graph.states[state as usize].kind {
                Kind::Byte(byte) => first.set.insert(byte),
                Kind::Set(set) => first.set.union(&set),
                Kind::Accept => first.accept = true,
                // No further byte can be consumed.
                Kind::LineEnd => first.end = true,
                _ => todo.extend(empty_edges(self.graph, state)),
            }
        }
        self.firsts.push(first);
        let place = self.firsts.len() as u32 - 1;
        self.first_of.insert(state, place);
        place
    }

    fn op(&mut self, state: u32, in_cycle: &[u32], counters: &mut u32) -> Op {
        let super::syntax::State { kind, next } = self.graph.states[state as usize];
        let place = |builder: &mut Self| builder.place(next);
        match kind {
            Kind::Byte(byte) => Op::Byte {
                byte,
                next: place(self),
            },
            Kind::Set(set) => Op::Set {
                set: self.set(set),
                next: place(self),
            },
            Kind::Begin(group) => Op::Begin {
                group: group - 1,
                next: place(self),
            },
            Kind::End(group) => Op::End {
                group: group - 1,
                next: place(self),
            },
            Kind::LineBegin => Op::LineBegin { next: place(self) },
            Kind::LineEnd => Op::LineEnd { next: place(self) },
            // The only remaining dummy is the accepting end.
            Kind::Accept | Kind::Dummy => Op::Accept,
            Kind::Alternative { alt } => Op::Alternative {
                alt_first: self.first(alt),
                next_first: self.first(next),
                alt: self.place(alt),
                next: self.place(next),
            },
            Kind::Repeat { alt } => {
                let body = &self.graph.states[alt as usize];
                let one = match body.kind {
                    Kind::Byte(byte) => Some(ByteSet::one(byte)),
                    Kind::Set(set) => Some(set),
                    _ => None,
                };
                if let Some(set) = one.filter(|_| body.next == state) {
                    return self.one_set_loop(set, next);
                }
                let counter = if in_cycle[alt as usize] == in_cycle[state as usize] {
                    *counters += 1;
                    *counters - 1
                } else {
                    NONE
                };
                Op::Repeat {
                    alt_first: self.first(alt),
                    next_first: self.first(next),
                    alt: self.place(alt),
                    next: self.place(next),
                    counter,
                }
            }
        }
    }

    fn one_set_loop(&mut self, set: ByteSet, next: u32) -> Op {
        let first = self.first(next);
        let follow = self.firsts[first as usize];
        let exclusive = follow.set.is_disjoint(&set);
        let others = set.complement();
        Op::Loop {
            set: self.set(set),
            next: self.place(next),
            first,
            kind: LoopKind {
                whole_exclusive: exclusive,
                search_exclusive: exclusive && !follow.accept,
                all_but: others.bytes().next().filter(|_| others.len() == 1),
            },
        }
    }
}
