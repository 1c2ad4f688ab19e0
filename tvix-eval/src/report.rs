//! Errors as text, with places and source lines, as printed by C++ Nix.

use std::collections::HashSet;
use std::fmt::Write as _;

use tvix_eval_api::Position;

use crate::error::{Error, Frame};
use crate::interp::Interp;
use crate::print::origin;
use crate::source::{Origin, Pos};

/// Maximum number of frames in a shortened trace; frames with a position count twice.
const MAX_SHOWN: usize = 4;

/// Maximum number of repeated frames that are shown; further ones are only counted.
const MAX_REPEATED: usize = 5;

impl Interp<'_> {
    /// An error as printed by C++ Nix, without colours and without final newline.
    pub fn render(&self, error: &Error) -> String {
        let mut out = String::from("error:");
        if error.trace.is_empty() {
            let _ = write!(out, " {}", indented(&error.message, 7));
            self.render_place(&mut out, error.pos, 7);
        } else {
            self.render_trace(&mut out, error);
            let _ = write!(out, "\n       error: {}", indented(&error.message, 7));
            self.render_place(&mut out, error.pos, 7);
        }
        if let [first, rest @ ..] = error.suggestions.as_slice() {
            out.push_str("\n       Did you mean ");
            match rest {
                [] => out.push_str(first),
                [middle @ .., last] => {
                    let _ = write!(out, "one of {first}");
                    for name in middle {
                        let _ = write!(out, ", {name}");
                    }
                    let _ = write!(out, " or {last}");
                }
            }
            out.push('?');
        }
        // C++ Nix indents all lines, and removes trailing spaces.
        let lines: Vec<&str> = out.trim_end().split('\n').map(str::trim_end).collect();
        lines.join("\n")
    }

    /// Where an error happened: its own position, or that of the innermost frame that has one.
    pub(crate) fn position_of(&self, error: &Error) -> Option<Position> {
        let frames = error.trace.iter().map(|frame| frame.pos);
        let mut positions = std::iter::once(error.pos).chain(frames);
        let place = positions.find_map(|pos| self.sources.place(pos))?;
        Some(Position::new(
            origin(place.origin),
            place.line,
            place.column,
        ))
    }

    /// The trace, outermost frame first, without duplicates, and shortened.
    fn render_trace(&self, out: &mut String, error: &Error) {
        let mut seen: HashSet<(Pos, &str)> = HashSet::new();
        let mut again: Vec<&Frame> = Vec::new();
        let mut shown = 0;
        let mut truncated = false;
        for frame in error.trace.iter().rev() {
            truncated |= shown >= MAX_SHOWN && !self.show_trace.get();
            if truncated && !frame.always {
                continue;
            }
            if !seen.insert((frame.pos, &frame.text)) {
                again.push(frame);
                continue;
            }
            self.render_again(out, &mut again, &mut seen);
            shown += if frame.pos.is_some() { 2 } else { 1 };
            self.render_frame(out, frame);
        }
        self.render_again(out, &mut again, &mut seen);
        if truncated {
            out.push_str("\n       (stack trace truncated; use '--show-trace' to show the full, detailed trace)\n");
        }
    }

    fn render_again<'e>(
        &self,
        out: &mut String,
        again: &mut Vec<&'e Frame>,
        seen: &mut HashSet<(Pos, &'e str)>,
    ) {
        if again.len() <= MAX_REPEATED {
            for frame in again.iter() {
                self.render_frame(out, frame);
            }
        } else {
            let _ = writeln!(out, "\n       ({} duplicate frames omitted)", again.len());
            // Frames after this one are shown again.
            seen.clear();
        }
        again.clear();
    }

    fn render_frame(&self, out: &mut String, frame: &Frame) {
        let _ = write!(out, "\n       … {}", indented(&frame.text, 7));
        self.render_place(out, frame.pos, 9);
        out.push('\n');
    }

    fn render_place(&self, out: &mut String, pos: Pos, indent: usize) {
        let Some(place) = self.sources.place(pos) else {
            return;
        };
        let pad = " ".repeat(indent);
        let _ = write!(
            out,
            "\n{pad}at {}:{}:{}:",
            origin(place.origin),
            place.line,
            place.column
        );
        // This source has no text: see `builtins::derivation::internal`.
        if place.origin == Origin::Internal {
            return;
        }
        let [before, line, after] = self.sources.lines_around(pos);
        let shown = |out: &mut String, number: u32, line: Option<&[u8]>| {
            if let Some(line) = line {
                let text = String::from_utf8_lossy(line);
                let text = text.trim_end();
                let space = if text.is_empty() { "" } else { " " };
                let _ = write!(out, "\n{number:>13}|{space}{text}");
            }
        };
        shown(out, place.line.saturating_sub(1), before);
        shown(out, place.line, line);
        let _ = write!(
            out,
            "\n{:>13}| {}^",
            "",
            " ".repeat(place.column as usize - 1)
        );
        shown(out, place.line + 1, after);
    }
}

fn indented(message: &str, by: usize) -> String {
    message.replace('\n', &format!("\n{}", " ".repeat(by)))
}
