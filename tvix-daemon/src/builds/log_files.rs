//! Files with the logs of builds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use bzip2::Compression;
use bzip2::write::BzEncoder;
use nix_compat::store_path::StorePath;
use tokio::sync::mpsc;

use super::history::Line;

/// Lines that wait to be written.
const WAITING: usize = 256;

/// Where logs of builds go: `NIX_LOG_DIR/drvs`.
#[derive(Debug, Clone)]
pub(super) struct LogFiles {
    pub directory: PathBuf,
    /// Whether they are compressed (`compress-build-log`).
    pub compress: bool,
}

/// Writes the log of one build. Errors are ignored: a log is no reason for a build to fail.
#[derive(Debug)]
pub(super) struct LogFile {
    lines: mpsc::Sender<Line>,
    written: tokio::task::JoinHandle<io::Result<()>>,
}

impl LogFiles {
    /// Replaces the log of a derivation. The file is written on a thread that may block.
    pub fn create(&self, drv_path: &StorePath) -> LogFile {
        let name = drv_path.to_string();
        let (folder, file) = name.split_at(2);
        let folder = self.directory.join(folder);
        let end = if self.compress { ".bz2" } else { "" };
        let place = folder.join(format!("{file}{end}"));
        let compress = self.compress;
        let (lines, received) = mpsc::channel(WAITING);
        let write = move || {
            let file = match File::create(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(&folder)?;
                    File::create(&place)?
                }
                file => file?,
            };
            match compress {
                true => {
                    let mut encoder = BzEncoder::new(file, Compression::best());
                    write_lines(&mut encoder, received)?;
                    encoder.finish()?;
                }
                false => {
                    let mut file = BufWriter::new(file);
                    write_lines(&mut file, received)?;
                    file.flush()?;
                }
            }
            Ok(())
        };
        let written = tokio::task::spawn_blocking(write);
        LogFile { lines, written }
    }
}

fn write_lines(file: &mut impl Write, mut lines: mpsc::Receiver<Line>) -> io::Result<()> {
    while let Some(line) = lines.blocking_recv() {
        file.write_all(&line.text)?;
        if !line.partial {
            file.write_all(b"\n")?;
        }
    }
    Ok(())
}

impl LogFile {
    pub async fn line(&self, line: Line) {
        let _ = self.lines.send(line).await;
    }

    /// Waits until everything is written.
    pub async fn finish(self) {
        drop(self.lines);
        let _ = self.written.await;
    }
}
