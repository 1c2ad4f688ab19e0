//! Reading lines: from a terminal with history and completion, or from standard input.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use super::complete::Names;

/// The prompt of a line.
pub const PROMPT: &str = "tvix-repl> ";
/// The prompt of a continuation line.
const CONTINUED: &str = "         > ";

/// A line, or why there is none.
pub enum Line {
    /// One, without its end.
    Text(String),
    /// The input so far is discarded.
    Interrupted,
    /// There are no more.
    End,
}

/// Where lines come from.
pub enum Input<'r, 'i, 'h> {
    Terminal {
        editor: Box<Editor<Names<'r, 'i, 'h>, DefaultHistory>>,
        history: Option<PathBuf>,
    },
    /// Lines are echoed, as in C++ Nix, so that the output includes them.
    Stream(io::StdinLock<'static>),
}

impl<'r, 'i, 'h> Input<'r, 'i, 'h> {
    pub fn open(names: Names<'r, 'i, 'h>) -> Result<Self, ReadlineError> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Stream(io::stdin().lock()));
        }
        let config = Config::builder()
            .completion_type(rustyline::CompletionType::List)
            .max_history_size(10_000)?
            .build();
        let mut editor = Box::new(Editor::with_config(config)?);
        editor.set_helper(Some(names));
        let history = history_file();
        if let Some(history) = &history {
            // No history is no reason not to start.
            let _ = editor.load_history(history);
        }
        Ok(Self::Terminal { editor, history })
    }

    /// Reads a line; `continued` if it belongs to those before it.
    pub fn line(&mut self, continued: bool) -> Result<Line, ReadlineError> {
        let prompt = if continued { CONTINUED } else { PROMPT };
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error),
            },
            Self::Stream(stdin) => {
                let mut line = Vec::new();
                let read = stdin.read_until(b'\n', &mut line)?;
                let line = String::from_utf8_lossy(&line);
                let line = line.strip_suffix('\n').unwrap_or(&line);
                let line = line.strip_suffix('\r').unwrap_or(line);
                super::print::line(&format!("{prompt}{line}"));
                match read {
                    0 => Ok(Line::End),
                    _ => Ok(Line::Text(line.to_owned())),
                }
            }
        }
    }

    /// Adds the input to the history, with all of its lines as one entry.
    pub fn remember(&mut self, text: &str) {
        if let Self::Terminal { editor, .. } = self {
            let _ = editor.add_history_entry(text.trim_end());
        }
    }

    /// Keeps the history for the next time.
    pub fn close(self) {
        if let Self::Terminal {
            mut editor,
            history: Some(history),
        } = self
        {
            let _ = history.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(&history);
        }
    }
}

fn history_file() -> Option<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(std::env::home_dir()?.join(".local/share")))?;
    Some(data.join("tvix/repl-history"))
}
