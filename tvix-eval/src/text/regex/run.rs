//! The matcher: a depth-first search, with its stack on the heap.
//!
//! The order of choices and the selection among several matches are those of libstdc++'s
//! depth-first executor: a repetition takes the result of its greediest attempt, an alternative
//! tries both sides and keeps the longer match, or the first of two equally long ones.
//! Optimisations (excluding choices by the next byte, and memoising choices after many steps) do
//! not affect results.

use super::RegexError;
use super::program::{First, Op, Program};
use super::syntax::NONE;
use rustc_hash::FxHashMap;

/// Number of steps after which choices are memoised.
const REMEMBER_AFTER: u64 = 1 << 12;
const MAX_REMEMBERED: usize = 1 << 21;
const MAX_FRAMES: usize = 1 << 24;
/// Maximum number of counters for memoisation.
const MAX_KEYED_COUNTERS: u32 = 80;

#[derive(Clone, Copy, Debug)]
pub(super) struct Capture {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Capture {
    const NONE: Self = Self {
        start: NONE,
        end: NONE,
    };
}

/// Constraints on the start and end of a match.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Flags {
    pub(super) whole: bool,
    pub(super) not_empty: bool,
    /// The match must start at the given position.
    pub(super) here: bool,
    /// `^` does not match at the given position.
    pub(super) continued: bool,
}

enum Frame {
    /// Continue with the `next` of this repetition, if its `alt` has found nothing.
    Repeat {
        op: u32,
        position: u32,
    },
    /// Take one byte less in this loop, but not less than `low`.
    Loop {
        op: u32,
        low: u32,
        position: u32,
    },
    /// Try the other side as well.
    Alternative {
        op: u32,
        position: u32,
    },
    /// Both sides have been tried.
    Found(bool),
    Start {
        group: u32,
        start: u32,
    },
    End {
        group: u32,
        end: u32,
    },
    Counter {
        counter: u32,
        position: u32,
        rounds: u8,
    },
    Remember {
        op: u32,
        position: u32,
    },
}

#[derive(Clone, Copy)]
struct Rounds {
    position: u32,
    rounds: u8,
}

/// Buffers of a search, reused by the next one.
#[derive(Default)]
pub(super) struct Scratch {
    frames: Vec<Frame>,
    captures: Vec<Capture>,
    best: Vec<Capture>,
    rounds: Vec<Rounds>,
    remembered: FxHashMap<(u32, u32, u128), bool>,
}

impl Scratch {
    pub(super) fn groups(&self) -> &[Capture] {
        &self.best
    }
}

pub(super) struct Run<'r> {
    pub(super) program: &'r Program,
    pub(super) text: &'r [u8],
    pub(super) flags: Flags,
    pub(super) limit: u64,
    /// Memory that the match may take, in bytes.
    pub(super) room: usize,
}

/// Memory of a result that is remembered, in bytes, in a map that may have grown just now.
const REMEMBERED_BYTES: usize = 96;

/// The most frames within `room` bytes, of which half are for results. A vector that grows has up
/// to three times the size of its elements.
fn most_frames(room: usize) -> usize {
    (room / 2 / (3 * size_of::<Frame>())).min(MAX_FRAMES)
}

/// Whether matches may take less memory than usual.
pub(super) fn is_cramped(room: usize) -> bool {
    most_frames(room) < MAX_FRAMES
}

impl Run<'_> {
    /// Searches from `begin` on. Returns the range of the match; its captures are in the scratch.
    pub(super) fn search(
        mut self,
        begin: usize,
        scratch: &mut Scratch,
    ) -> Result<Option<(usize, usize)>, RegexError> {
        if u32::try_from(self.text.len()).map_or(true, |l| l == NONE) {
            return Err(RegexError::Complexity);
        }
        let mut steps = 0;
        let mut position = begin;
        if self.flags.whole || self.flags.here {
            if !self.possible(&self.program.start_first, begin) {
                return Ok(None);
            }
            let end = self.run(begin, scratch, &mut steps)?;
            scratch.remembered.clear();
            return Ok(end.map(|end| (begin, end)));
        }
        let found = loop {
            let Some(at) = self.candidate(position) else {
                break None;
            };
            if at > begin {
                self.flags.continued = true;
            }
            if let Some(end) = self.run(at, scratch, &mut steps)? {
                break Some((at, end));
            }
            // Choices at the first position may have failed because of `^`.
            if at == begin {
                scratch.remembered.clear();
            }
            position = at + 1;
        };
        scratch.remembered.clear();
        Ok(found)
    }

    /// The next position at which a match can start.
    fn candidate(&self, from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        if let Some(byte) = self.program.start_byte {
            return memchr::memchr(byte, rest).map(|at| from + at);
        }
        (from..=self.text.len()).find(|at| self.possible(&self.program.start_first, *at))
    }

    #[inline]
    fn possible(&self, first: &First, position: usize) -> bool {
        match self.text.get(position) {
            Some(byte) => first.set.contains(*byte) || (first.accept && !self.flags.whole),
            None => first.end || first.accept,
        }
    }

    #[inline]
    fn possible_at(&self, first: u32, position: usize) -> bool {
        self.possible(&self.program.firsts[first as usize], position)
    }

    /// Tries one position: the end of the match that starts at `begin`.
    fn run(
        &self,
        begin: usize,
        scratch: &mut Scratch,
        steps: &mut u64,
    ) -> Result<Option<usize>, RegexError> {
        let program = self.program;
        let text = self.text;
        let Scratch {
            frames,
            captures,
            best,
            rounds,
            remembered,
        } = scratch;
        frames.clear();
        captures.clear();
        captures.resize(program.groups as usize, Capture::NONE);
        rounds.clear();
        rounds.resize(
            program.counters as usize,
            Rounds {
                position: 0,
                rounds: 0,
            },
        );
        let mut best_end: Option<usize> = None;
        // Whether the current choice has found a match. Always false when a step is made.
        let mut found = false;
        let mut op = program.start;
        let mut position = begin;
        let mut remembering = false;
        let most_frames = most_frames(self.room);
        let most_remembered = (self.room / 2 / REMEMBERED_BYTES).min(MAX_REMEMBERED);
        let mut check_at = if *steps >= REMEMBER_AFTER {
            *steps
        } else {
            REMEMBER_AFTER
        };
        loop {
            'forward: loop {
                // Memoising takes time proportional to the number of counters.
                *steps += if remembering {
                    1 + u64::from(program.counters) / 4
                } else {
                    1
                };
                if *steps >= check_at {
                    if *steps > self.limit || frames.len() > most_frames {
                        return Err(RegexError::Complexity);
                    }
                    remembering = program.counters <= MAX_KEYED_COUNTERS
                        && remembered.len() < most_remembered;
                    check_at = *steps + 4096;
                }
                match program.ops[op as usize] {
                    Op::Byte { byte, next } => {
                        if text.get(position) != Some(&byte) {
                            break 'forward;
                        }
                        position += 1;
                        op = next;
                    }
                    Op::Set { set, next } => {
                        match text.get(position) {
                            Some(byte) if program.sets[set as usize].contains(*byte) => {}
                            _ => break 'forward,
                        }
                        position += 1;
                        op = next;
                    }
                    Op::Loop {
                        set,
                        next,
                        first,
                        kind,
                    } => {
                        let rest = &text[position..];
                        let length = match kind.all_but {
                            Some(byte) => memchr::memchr(byte, rest).unwrap_or(rest.len()),
                            None => {
                                let set = &program.sets[set as usize];
                                rest.iter()
                                    .position(|b| !set.contains(*b))
                                    .unwrap_or(rest.len())
                            }
                        };
                        *steps += length as u64 / 8;
                        let low = position;
                        position += length;
                        let exclusive = if self.flags.whole {
                            kind.whole_exclusive
                        } else {
                            kind.search_exclusive
                        };
                        if length > 0 && !exclusive {
                            if remembering {
                                if let Some(known) =
                                    remembered.get(&(op, low as u32, key(rounds, low)))
                                {
                                    found = *known;
                                    break 'forward;
                                }
                                frames.push(Frame::Remember {
                                    op,
                                    position: low as u32,
                                });
                            }
                            while position > low && !self.possible_at(first, position) {
                                position -= 1;
                                *steps += 1;
                            }
                            if position > low {
                                frames.push(Frame::Loop {
                                    op,
                                    low: low as u32,
                                    position: position as u32,
                                });
                            }
                        }
                        if !self.possible_at(first, position) {
                            break 'forward;
                        }
                        op = next;
                    }
                    Op::Repeat {
                        alt,
                        next,
                        alt_first,
                        next_first,
                        counter,
                    } => {
                        if !self.possible_at(alt_first, position) {
                            op = next;
                            continue;
                        }
                        let go_on = self.possible_at(next_first, position);
                        if counter == NONE && !go_on {
                            op = alt;
                            continue;
                        }
                        if remembering {
                            if let Some(known) =
                                remembered.get(&(op, position as u32, key(rounds, position)))
                            {
                                found = *known;
                                break 'forward;
                            }
                            frames.push(Frame::Remember {
                                op,
                                position: position as u32,
                            });
                        }
                        if counter != NONE {
                            let slot = &mut rounds[counter as usize];
                            let old = *slot;
                            let again = if old.rounds == 0 || old.position != position as u32 {
                                1
                            } else if old.rounds < 2 {
                                2
                            } else {
                                op = next;
                                continue;
                            };
                            *slot = Rounds {
                                position: position as u32,
                                rounds: again,
                            };
                            if go_on {
                                frames.push(Frame::Repeat {
                                    op: next,
                                    position: position as u32,
                                });
                            }
                            frames.push(Frame::Counter {
                                counter,
                                position: old.position,
                                rounds: old.rounds,
                            });
                        } else {
                            frames.push(Frame::Repeat {
                                op: next,
                                position: position as u32,
                            });
                        }
                        op = alt;
                    }
                    Op::Alternative {
                        alt,
                        next,
                        alt_first,
                        next_first,
                    } => {
                        let left = self.possible_at(alt_first, position);
                        let right = self.possible_at(next_first, position);
                        op = match (left, right) {
                            (false, false) => break 'forward,
                            (true, false) => alt,
                            (false, true) => next,
                            (true, true) => {
                                if remembering {
                                    if let Some(known) = remembered.get(&(
                                        op,
                                        position as u32,
                                        key(rounds, position),
                                    )) {
                                        found = *known;
                                        break 'forward;
                                    }
                                    frames.push(Frame::Remember {
                                        op,
                                        position: position as u32,
                                    });
                                }
                                frames.push(Frame::Alternative {
                                    op: next,
                                    position: position as u32,
                                });
                                alt
                            }
                        };
                    }
                    Op::Begin { group, next } => {
                        let capture = &mut captures[group as usize];
                        // Without earlier choices nothing has to be restored.
                        if !frames.is_empty() {
                            frames.push(Frame::Start {
                                group,
                                start: capture.start,
                            });
                        }
                        capture.start = position as u32;
                        op = next;
                    }
                    Op::End { group, next } => {
                        let capture = &mut captures[group as usize];
                        if !frames.is_empty() {
                            frames.push(Frame::End {
                                group,
                                end: capture.end,
                            });
                        }
                        capture.end = position as u32;
                        op = next;
                    }
                    Op::LineBegin { next } => {
                        if position != begin || self.flags.continued {
                            break 'forward;
                        }
                        op = next;
                    }
                    Op::LineEnd { next } => {
                        if position != text.len() {
                            break 'forward;
                        }
                        op = next;
                    }
                    Op::Accept => {
                        let at_end = position == text.len();
                        if (self.flags.whole && !at_end)
                            || (self.flags.not_empty && position == begin)
                        {
                            break 'forward;
                        }
                        if best_end.is_none_or(|end| end < position) {
                            best_end = Some(position);
                            best.clone_from(captures);
                        }
                        // No longer match is possible.
                        if at_end || !program.has_alternatives {
                            return Ok(best_end);
                        }
                        found = true;
                        break 'forward;
                    }
                }
            }
            loop {
                match frames.pop() {
                    None => return Ok(best_end),
                    Some(Frame::Repeat {
                        op: next,
                        position: at,
                    }) => {
                        if !found {
                            op = next;
                            position = at as usize;
                            break;
                        }
                    }
                    Some(Frame::Loop {
                        op: this,
                        low,
                        position: at,
                    }) => {
                        if found {
                            continue;
                        }
                        let Op::Loop { next, first, .. } = program.ops[this as usize] else {
                            continue;
                        };
                        let (low, mut at) = (low as usize, at as usize);
                        let least = at - 1;
                        at = least;
                        while at > low && !self.possible_at(first, at) {
                            at -= 1;
                        }
                        *steps += (least - at) as u64;
                        if at > low {
                            frames.push(Frame::Loop {
                                op: this,
                                low: low as u32,
                                position: at as u32,
                            });
                        } else if !self.possible_at(first, at) {
                            continue;
                        }
                        op = next;
                        position = at;
                        break;
                    }
                    Some(Frame::Alternative {
                        op: next,
                        position: at,
                    }) => {
                        frames.push(Frame::Found(found));
                        found = false;
                        op = next;
                        position = at as usize;
                        break;
                    }
                    Some(Frame::Found(before)) => found |= before,
                    Some(Frame::Start { group, start }) => captures[group as usize].start = start,
                    Some(Frame::End { group, end }) => captures[group as usize].end = end,
                    Some(Frame::Counter {
                        counter,
                        position,
                        rounds: count,
                    }) => {
                        rounds[counter as usize] = Rounds {
                            position,
                            rounds: count,
                        };
                    }
                    Some(Frame::Remember {
                        op: this,
                        position: at,
                    }) => {
                        if remembered.len() < most_remembered {
                            remembered.insert((this, at, key(rounds, at as usize)), found);
                        }
                    }
                }
            }
        }
    }
}

/// The iteration counts that are relevant at a position, as one number.
#[inline]
fn key(rounds: &[Rounds], position: usize) -> u128 {
    rounds.iter().fold(0, |key, slot| {
        let count = if slot.position as usize == position {
            slot.rounds
        } else {
            0
        };
        key * 3 + u128::from(count)
    })
}
