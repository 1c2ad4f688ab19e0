//! Standard output.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write as _};

use crate::error::CliError;

/// Prints lines.
pub fn print<T: Display>(lines: impl IntoIterator<Item = T>) -> Result<(), CliError> {
    write(|out| {
        lines
            .into_iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    })
}

/// Has something written, all of it.
pub fn write(
    what: impl FnOnce(&mut BufWriter<StdoutLock<'_>>) -> io::Result<()>,
) -> Result<(), CliError> {
    let mut out = BufWriter::new(io::stdout().lock());
    what(&mut out)
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}
