//! Small files are filled by another thread, while the one that unpacks makes the next ones.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bstr::BString;
use rustix::io::Errno;

#[cfg(test)]
use super::canonical_mode;
use super::canonicalise;

/// The largest file that is filled by the thread: its contents are in memory meanwhile.
pub(super) const SMALL: u64 = 32 * 1024;

/// Files that are made before there is a thread: a small tree is done by then.
const ALONE: usize = 64;

/// How many files go to the thread at once.
const BATCH: usize = 16;

/// Batches that may wait for the thread.
const WAITING: usize = 4;

/// A file that has been made and is to be filled.
#[derive(Debug)]
pub(super) struct Filling {
    pub file: File,
    pub contents: Vec<u8>,
    pub executable: bool,
    pub path: BString,
}

/// A file that could not be filled.
#[derive(Debug)]
pub(super) struct Unfilled {
    pub action: &'static str,
    pub path: BString,
    pub error: Errno,
}

impl Filling {
    /// Does it.
    pub(super) fn fill(mut self, canonical: bool) -> Result<(), Unfilled> {
        let (action, error) = match self.file.write_all(&self.contents) {
            Err(error) => ("write", Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            Ok(()) if !canonical => return Ok(()),
            Ok(()) => match canonicalise(&self.file, self.executable) {
                Ok(()) => return Ok(()),
                Err(error) => ("set mode of", error),
            },
        };
        Err(Unfilled {
            action,
            path: self.path,
            error,
        })
    }
}

/// What fills files.
#[derive(Debug)]
pub(super) struct Behind {
    canonical: bool,
    made: usize,
    batch: Vec<Filling>,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    sender: SyncSender<Vec<Filling>>,
    filled: JoinHandle<Result<(), Unfilled>>,
}

impl Behind {
    pub(super) fn new(canonical: bool) -> Self {
        Self {
            canonical,
            made: 0,
            batch: Vec::new(),
            thread: None,
        }
    }

    /// Fills a file, now or later. An error may be that of an earlier one; nothing may follow then.
    pub(super) fn fill(&mut self, filling: Filling) -> Result<(), Unfilled> {
        self.made += 1;
        if self.made <= ALONE {
            return filling.fill(self.canonical);
        }
        self.batch.push(filling);
        match self.batch.len() < BATCH {
            true => Ok(()),
            false => self.send(),
        }
    }

    /// Waits until all files are filled.
    pub(super) fn finish(&mut self) -> Result<(), Unfilled> {
        let sent = self.send();
        sent.and_then(|()| self.join())
    }

    /// Waits until nobody writes any more, whatever became of it.
    pub(super) fn give_up(&mut self) {
        self.batch.clear();
        let _ = self.join();
    }

    fn send(&mut self) -> Result<(), Unfilled> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        if self.thread.is_none() {
            self.thread = Thread::start(self.canonical);
        }
        let Some(thread) = &self.thread else {
            // Without a thread it takes longer.
            return batch
                .into_iter()
                .try_for_each(|filling| filling.fill(self.canonical));
        };
        match thread.sender.send(batch) {
            Ok(()) => Ok(()),
            // It ends only by an error.
            Err(_) => self.join(),
        }
    }

    fn join(&mut self) -> Result<(), Unfilled> {
        let Some(Thread { sender, filled }) = self.thread.take() else {
            return Ok(());
        };
        drop(sender);
        filled.join().unwrap_or_else(|_| {
            Err(Unfilled {
                action: "write",
                path: BString::default(),
                error: Errno::IO,
            })
        })
    }
}

impl Thread {
    fn start(canonical: bool) -> Option<Self> {
        let (sender, batches) = sync_channel::<Vec<Filling>>(WAITING);
        let fill = move || {
            let mut fillings = batches.into_iter().flatten();
            fillings.try_for_each(|filling| filling.fill(canonical))
        };
        let thread = std::thread::Builder::new().name("fill".into());
        let filled = thread.spawn(fill).ok()?;
        Some(Self { sender, filled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(folder: &std::path::Path, number: usize, writable: bool) -> Filling {
        let file = folder.join(number.to_string());
        let created = File::create(&file).unwrap();
        Filling {
            file: match writable {
                true => created,
                false => File::open(&file).unwrap(),
            },
            contents: format!("contents of {number}").into_bytes(),
            executable: number.is_multiple_of(2),
            path: number.to_string().into(),
        }
    }

    #[test]
    fn all_are_filled() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        for count in [1, ALONE, ALONE + BATCH - 1, 1000] {
            let mut behind = Behind::new(true);
            for number in 0..count {
                behind.fill(filling(folder.path(), number, true)).unwrap();
            }
            behind.finish().unwrap();
            for number in 0..count {
                let file = folder.path().join(number.to_string());
                let metadata = file.metadata().unwrap();
                assert_eq!(
                    std::fs::read(&file).unwrap(),
                    format!("contents of {number}").as_bytes()
                );
                assert_eq!(
                    metadata.mode() & 0o7777,
                    canonical_mode(number.is_multiple_of(2))
                );
                assert_eq!(metadata.mtime(), 1);
                std::fs::remove_file(&file).unwrap();
            }
        }
    }

    #[test]
    fn an_error_is_told_in_the_end_and_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        for bad in [0, ALONE - 1, ALONE, ALONE + 3 * BATCH, 499] {
            let mut behind = Behind::new(true);
            let filled = (0..500)
                .try_for_each(|number| behind.fill(filling(folder.path(), number, number != bad)));
            let unfilled = filled.and_then(|()| behind.finish()).unwrap_err();
            assert_eq!(unfilled.path, bad.to_string());
            assert_eq!((unfilled.action, unfilled.error), ("write", Errno::BADF));
            behind.give_up();
        }
    }
}
