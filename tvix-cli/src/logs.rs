//! Log files of builds, where Nix keeps them, so that `nix-store --read-log` finds them:
//! `<state>/log/nix/drvs/<first two characters>/<the rest of the name of the .drv file>`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use nix_compat::store_path::StorePath;
use tvix_coordinator::BuildEvent;

/// The log files of a session. Write errors are ignored: a log is no reason for a build to fail.
pub struct BuildLogs {
    folder: PathBuf,
    open: HashMap<u64, Log>,
    /// Builds with lines that were not flushed.
    dirty: Vec<u64>,
}

struct Log {
    path: PathBuf,
    drv_path: StorePath,
    /// Created by the first line.
    file: Option<BufWriter<File>>,
    dirty: bool,
}

impl BuildLogs {
    /// Logs below `folder`: `/nix/var/log/nix/drvs` or its like.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            open: HashMap::new(),
            dirty: Vec::new(),
        }
    }

    pub fn path(&self, drv_path: &StorePath) -> PathBuf {
        let name = drv_path.to_string();
        let (folder, file) = name.split_at(2);
        self.folder.join(folder).join(file)
    }

    /// Returns the file of a log that is complete, and its derivation.
    pub fn event(&mut self, event: &BuildEvent) -> Option<(StorePath, PathBuf)> {
        match event {
            BuildEvent::BuildStarted {
                build, drv_path, ..
            } => {
                let log = Log {
                    path: self.path(drv_path),
                    drv_path: drv_path.clone(),
                    file: None,
                    dirty: false,
                };
                self.open.insert(*build, log);
            }
            BuildEvent::LogLine {
                build,
                text,
                partial,
            } => {
                if let Some(log) = self.open.get_mut(build) {
                    log.line(text.as_bytes(), *partial);
                    if !std::mem::replace(&mut log.dirty, true) {
                        self.dirty.push(*build);
                    }
                }
            }
            BuildEvent::BuildSucceeded { build, .. }
            | BuildEvent::BuildFailed { build, .. }
            | BuildEvent::BuildRetried { build, .. }
            | BuildEvent::BuildCancelled { build, .. } => {
                if let Some(Log {
                    file: Some(mut file),
                    path,
                    drv_path,
                    ..
                }) = self.open.remove(build)
                {
                    let _ = file.flush();
                    return Some((drv_path, path));
                }
            }
            _ => {}
        }
        None
    }

    /// Writes the lines so far to their files.
    pub fn flush(&mut self) {
        for build in self.dirty.drain(..) {
            if let Some(log) = self.open.get_mut(&build) {
                log.dirty = false;
                if let Some(file) = &mut log.file {
                    let _ = file.flush();
                }
            }
        }
    }
}

impl Log {
    fn line(&mut self, text: &[u8], partial: bool) {
        if self.file.is_none() {
            self.file = create(&self.path).ok().map(BufWriter::new);
        }
        if let Some(file) = &mut self.file {
            let end: &[u8] = if partial { b"" } else { b"\n" };
            let _ = file.write_all(text).and_then(|()| file.write_all(end));
        }
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(path)
}
