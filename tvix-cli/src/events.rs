//! `--events`: the events of a session as a file of JSON lines, described in `docs/EVENTS.md`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use nix_compat::store_path::StoreDir;
use tvix_coordinator::EventRecord;

use crate::error::CliError;

/// A file of events, one JSON object per line. Lines are buffered until [`EventFile::flush`].
pub struct EventFile {
    path: PathBuf,
    dir: StoreDir,
    file: BufWriter<File>,
}

impl EventFile {
    pub fn create(path: PathBuf, dir: StoreDir) -> Result<Self, CliError> {
        match File::create(&path) {
            Ok(file) => Ok(Self {
                path,
                dir,
                file: BufWriter::new(file),
            }),
            Err(source) => Err(CliError::Events { path, source }),
        }
    }

    pub fn write(&mut self, event: &EventRecord) -> Result<(), CliError> {
        let line = event.to_json(&self.dir).map_err(Into::into);
        let written = line.and_then(|line| writeln!(self.file, "{line}"));
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
