//! Output of the prompt: values on standard output, everything else on standard error.

use std::io::Write as _;

use anstream::adapter::strip_bytes;

use crate::output;

/// Prints bytes. Colours are left out where there is no terminal.
pub fn out(text: &[u8]) {
    // Nobody may be there to read it.
    let _ = output::write(|out| match out.is_terminal() {
        true => out.write_all(text),
        false => strip_bytes(text).try_for_each(|piece| out.write_all(piece)),
    });
}

/// Prints a line.
pub fn line(text: &str) {
    out(format!("{text}\n").as_bytes());
}

/// Ends a line of standard output.
pub fn end_line() {
    out(b"\n");
}
