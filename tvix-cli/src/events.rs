//! `--events`: the events of a session as a file of JSON lines, described in `docs/EVENTS.md`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use tvix_coordinator::EventRecord;

use crate::error::CliError;

/// A file of events, one JSON object per line. Lines are buffered until [`EventFile::flush`].
pub struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    pub fn create(path: PathBuf) -> Result<Self, CliError> {
        match File::create(&path) {
            Ok(file) => Ok(Self {
                path,
                file: BufWriter::new(file),
            }),
            Err(source) => Err(CliError::Events { path, source }),
        }
    }

    pub fn write(&mut self, event: &EventRecord) -> Result<(), CliError> {
        let written = serde_json::to_writer(&mut self.file, event)
            .map_err(Into::into)
            .and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|source| CliError::Events {
            path: self.path.clone(),
            source,
        })
    }

    pub fn flush(&mut self) -> Result<(), CliError> {
        let flushed = self.file.flush();
        flushed.map_err(|source| CliError::Events {
            path: self.path.clone(),
            source,
        })
    }
}
