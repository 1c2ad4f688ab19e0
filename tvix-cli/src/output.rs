//! The only way to standard output and standard error.
//!
//! Most output contains foreign text: logs, names, messages of caches. A terminal, and standard error in any case,
//! receives only its text and colours. Standard output receives the exact bytes if it is a file or a pipe.
//! `clippy.toml` rejects other ways to print.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::sync::{Mutex, PoisonError};

use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use tvix_build_api::terminal::{PrintableWriter, printable};

use crate::error::CliError;

/// Prints a line to standard error, with the arguments of `format!`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::output::say_line(format_args!($($argument)*)) };
}
pub(crate) use say;

/// The progress display, if one is shown: lines go above it.
static PROGRESS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Prints a line to standard error. That it cannot be written is no reason to stop.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn say_line(line: fmt::Arguments<'_>) {
    let line = line.to_string();
    let line = printable(&line);
    let progress = PROGRESS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bars) = &*progress {
        let _ = bars.println(line);
        return;
    }
    drop(progress);
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Whether standard error is a terminal.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn shows_progress() -> bool {
    io::stderr().is_terminal()
}

/// Begins a progress display on standard error.
pub fn start_progress() -> MultiProgress {
    let terminal = Box::new(Terminal(Term::buffered_stderr()));
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(terminal));
    *PROGRESS.lock().unwrap_or_else(PoisonError::into_inner) = Some(bars.clone());
    bars
}

/// Ends it, and removes it from the terminal.
pub fn end_progress() {
    let progress = PROGRESS.lock().unwrap_or_else(PoisonError::into_inner);
    let bars = { progress }.take();
    if let Some(bars) = bars {
        let _ = bars.clear();
    }
}

/// The terminal of a progress display. Moving the cursor belongs to the display; text is made printable.
#[derive(Debug)]
struct Terminal(Term);

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(&printable(text))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        match text {
            // The display goes back to the beginning of its line.
            "\r" => self.0.write_str(text),
            text => self.0.write_str(&printable(text)),
        }
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Standard output. To be flushed at the end.
pub enum Output {
    Terminal(PrintableWriter<StdoutLock<'static>>),
    Bytes(BufWriter<StdoutLock<'static>>),
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn stdout() -> Output {
    let out = io::stdout().lock();
    match out.is_terminal() {
        true => Output::Terminal(PrintableWriter::new(out)),
        false => Output::Bytes(BufWriter::new(out)),
    }
}

impl Output {
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Terminal(out) => out.write(bytes),
            Self::Bytes(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Terminal(out) => out.flush(),
            Self::Bytes(out) => out.flush(),
        }
    }
}

/// Prints lines to standard output.
pub fn print<T: Display>(lines: impl IntoIterator<Item = T>) -> Result<(), CliError> {
    write(|out| {
        lines
            .into_iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    })
}

/// Writes to standard output, all of it: whole lines, as a progress display on the same terminal is removed meanwhile.
pub fn write(what: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = stdout();
    let progress = PROGRESS.lock().unwrap_or_else(PoisonError::into_inner);
    let bars = progress.clone().filter(|_| out.is_terminal());
    drop(progress);
    let write = || what(&mut out).and_then(|()| out.flush());
    let written = match bars {
        Some(bars) => bars.suspend(write),
        None => write(),
    };
    written.map_err(CliError::Output)
}
