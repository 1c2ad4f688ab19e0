//! Temporary roots: paths that this process relies on, which no collection removes during its
//! lifetime.
//!
//! The format is Nix's: `<state>/temproots/<pid>` is locked by its process for its lifetime, and
//! lists paths, each terminated by a NUL. A collector that is already running is told through its
//! socket.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix_compat::store_path::{StoreDir, StorePath};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::gc::lock::GcLock;
use super::gc::socket;
use super::waits::Wait;

/// Number of paths that are sent to a collector before its replies are read.
const PIPELINED: usize = 64;

/// Pause before another attempt to connect to a collector that has just started or ended.
const PAUSE: Duration = Duration::from_millis(2);

/// The temporary roots of this process in one store, shared by all handles.
#[derive(Debug)]
pub(super) struct TempRoots {
    state: PathBuf,
    /// The suffix of the file's name that is tried first, after the process id; 0 for none.
    number: u32,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    paths: HashSet<StorePath>,
    file: Option<RootsFile>,
    gc_lock: Option<GcLock>,
    collector: Option<UnixStream>,
}

/// A locked file of temporary roots. Removed on drop.
#[derive(Debug)]
struct RootsFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// All temporary roots of this process, by device and inode of their state directory.
static ALL: Mutex<Vec<(Identity, Weak<TempRoots>)>> = Mutex::new(Vec::new());

type Identity = (u64, u64);

impl TempRoots {
    /// The temporary roots of the store with this state directory. No file is created before the
    /// first root.
    pub fn of(state: &Path) -> io::Result<Arc<Self>> {
        let metadata = fs::metadata(state)?;
        let identity = (metadata.dev(), metadata.ino());
        let mut all = lock(&ALL);
        all.retain(|(_, roots)| roots.strong_count() > 0);
        let known = all.iter().find(|(other, _)| *other == identity);
        if let Some(roots) = known.and_then(|(_, roots)| roots.upgrade()) {
            return Ok(roots);
        }
        let roots = Arc::new(Self {
            state: state.to_owned(),
            number: 0,
            held: Mutex::default(),
        });
        all.push((identity, Arc::downgrade(&roots)));
        Ok(roots)
    }

    /// Other temporary roots of this process in the same store.
    pub fn separate(&self) -> Arc<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Arc::new(Self {
            state: self.state.clone(),
            // No two of a process, so that no name is tried in vain.
            number: LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1),
            held: Mutex::default(),
        })
    }

    /// Ends all of these temporary roots. A collector that runs has been told of them and keeps their paths.
    pub fn release(&self) {
        *lock(&self.held) = Held::default();
    }

    /// Makes `paths` temporary roots: from now on no collection removes them or their references,
    /// so a path that is found valid afterwards stays valid. Blocks while one of them is being
    /// removed.
    pub fn hold(&self, dir: &StoreDir, paths: &[StorePath]) -> io::Result<()> {
        let mut held = lock(&self.held);
        let new = |held: &Held| -> Vec<StorePath> {
            let new = paths.iter().filter(|path| !held.paths.contains(path));
            new.cloned().collect()
        };
        if let Some(file) = &held.file
            && !file.is_there()?
        {
            // A process with the same id in another PID namespace took the file for that of a dead
            // process.
            let all: Vec<StorePath> = held.paths.drain().collect();
            held.file = None;
            self.add(&mut held, dir, all)?;
        }
        let new = new(&held);
        match new.is_empty() {
            true => Ok(()),
            false => self.add(&mut held, dir, new),
        }
    }

    fn add(&self, held: &mut Held, dir: &StoreDir, new: Vec<StorePath>) -> io::Result<()> {
        let file = match &mut held.file {
            Some(file) => file,
            empty => empty.insert(RootsFile::create(
                &self.state.join("temproots"),
                self.number,
            )?),
        };
        // Written first: a collector that starts after the check below reads the file.
        let mut text = Vec::new();
        for path in &new {
            text.extend_from_slice(dir.path_text(path).as_bytes());
            text.push(0);
        }
        file.append(&text)?;
        self.tell_collector(held, dir, &new)?;
        held.paths.extend(new);
        Ok(())
    }

    /// Announces held paths to a running collector, if there is one.
    pub fn tell(&self, dir: &StoreDir, paths: &[StorePath]) -> io::Result<()> {
        self.tell_collector(&mut lock(&self.held), dir, paths)
    }

    fn tell_collector(
        &self,
        held: &mut Held,
        dir: &StoreDir,
        paths: &[StorePath],
    ) -> io::Result<()> {
        let gc_lock = match &mut held.gc_lock {
            Some(gc_lock) => gc_lock,
            empty => empty.insert(GcLock::open(&self.state)?),
        };
        let mut wait = None;
        while !gc_lock.nobody_collects()? {
            wait.get_or_insert_with(|| Wait::begin(self.state.join("gc.lock")));
            if held.collector.is_none() {
                held.collector = connect(&self.state)?;
            }
            let told = match &mut held.collector {
                Some(collector) => tell(collector, dir, paths)?,
                None => false,
            };
            if told {
                break;
            }
            held.collector = None;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// `None` if no collector is running (any more).
fn connect(state: &Path) -> io::Result<Option<UnixStream>> {
    match socket::connect(state) {
        Err(error) if is_gone(&error) => Ok(None),
        connected => connected.map(Some),
    }
}

/// Whether the collector knows all of `paths` now; false if it has ended.
fn tell(collector: &mut UnixStream, dir: &StoreDir, paths: &[StorePath]) -> io::Result<bool> {
    for paths in paths.chunks(PIPELINED) {
        let mut text = String::new();
        for path in paths {
            text.push_str(&dir.path_text(path));
            text.push('\n');
        }
        let mut answers = vec![0; paths.len()];
        let told = collector
            .write_all(text.as_bytes())
            .and_then(|()| collector.read_exact(&mut answers));
        match told {
            Err(error) if is_gone(&error) => return Ok(false),
            told => told?,
        }
        if answers.iter().any(|answer| *answer != socket::ACKNOWLEDGED) {
            return Err(io::Error::other("the garbage collector refused a root"));
        }
    }
    Ok(true)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::NotFound
            | Kind::BrokenPipe
            | Kind::ConnectionReset
            | Kind::UnexpectedEof
    )
}

impl RootsFile {
    /// The file is named after the process id, as in Nix. A suffix is added for further roots of this process, and if a
    /// process of another PID namespace has the name.
    fn create(directory: &Path, mut number: u32) -> io::Result<Self> {
        let pid = std::process::id();
        loop {
            let path = directory.join(match number {
                0 => pid.to_string(),
                number => format!("{pid}-{number}"),
            });
            match Self::try_create(path)? {
                Attempt::Ours(file) => return Ok(file),
                Attempt::Gone => {}
                Attempt::Taken => number += 1,
            }
        }
    }

    fn try_create(path: PathBuf) -> io::Result<Attempt> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc_nofollow())
            .open(&path)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Attempt::Taken),
                locked => break locked?,
            }
        }
        let roots = Self { path, file, len: 0 };
        if !roots.is_there()? {
            // A collector removed the file before it was locked.
            return Ok(Attempt::Gone);
        }
        // Contents left from a dead process.
        roots.file.set_len(0)?;
        Ok(Attempt::Ours(roots))
    }

    fn is_there(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    /// Writes all of `text` or nothing: an incomplete path would corrupt the next one.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        match self.file.write_all_at(text, self.len) {
            Ok(()) => {
                self.len += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                let _ = self.file.set_len(self.len);
                Err(error)
            }
        }
    }
}

enum Attempt {
    Ours(RootsFile),
    /// Another process has it.
    Taken,
    Gone,
}

impl Drop for RootsFile {
    fn drop(&mut self) {
        // Only this file, not one that has taken its name.
        if self.is_there().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn libc_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// The paths that living processes hold, as written, each with its process id. `tidy` removes the
/// files of dead processes; the caller must hold the collector lock for that.
pub(super) fn read_all(state: &Path, tidy: bool) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(state.join("temproots")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let digits: String = name
            .to_string_lossy()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        // Package managers put hidden files into empty directories.
        let Ok(pid) = digits.parse() else { continue };
        if entry.file_type()?.is_symlink() {
            continue;
        }
        let opened = File::options()
            .read(true)
            .write(tidy)
            .custom_flags(libc_nofollow())
            .open(entry.path());
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // A file of another user, in a store that is only listed.
            Err(error) if !tidy && error.kind() == io::ErrorKind::PermissionDenied => continue,
            opened => opened?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            locked => {
                locked?;
                if !tidy {
                    continue;
                }
                // The contents tell a process that has just opened the file that it is stale.
                fs::remove_file(entry.path())?;
                file.write_all(b"d")?;
                continue;
            }
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let paths = text.split_inclusive(|byte| *byte == 0);
        // A text without a terminator is still being written, by a process that will wait for the
        // collector lock.
        let whole = paths.filter_map(|path| path.strip_suffix(&[0]));
        found.extend(whole.map(|path| (pid, path.to_vec())));
    }
    Ok(found)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("temproots")).unwrap();
        state
    }

    fn path(name: &str) -> StorePath {
        let text = format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
        text.parse().unwrap()
    }

    fn written(state: &Path, file: &str) -> Vec<String> {
        let text = fs::read_to_string(state.join("temproots").join(file)).unwrap();
        let names = text
            .split_terminator('\0')
            .map(|path| path.rsplit_once('-').unwrap().1);
        names.map(str::to_owned).collect()
    }

    #[test]
    fn somebody_else_with_our_number_keeps_his_file() {
        let state = state();
        let pid = std::process::id().to_string();
        let taken = File::create(state.path().join("temproots").join(&pid)).unwrap();
        taken.lock().unwrap();
        let roots = TempRoots::of(state.path()).unwrap();
        roots.hold(&StoreDir::default(), &[path("a")]).unwrap();
        assert_eq!(written(state.path(), &format!("{pid}-1")), ["a"]);
        let found = read_all(state.path(), true).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, std::process::id());
    }

    #[test]
    fn a_file_that_was_taken_for_a_dead_one_is_made_anew() {
        let state = state();
        let pid = std::process::id().to_string();
        // Left from a process that was killed.
        fs::write(state.path().join("temproots").join(&pid), "/nix/store/old").unwrap();
        let roots = TempRoots::of(state.path()).unwrap();
        let dir = StoreDir::default();
        roots.hold(&dir, &[path("a")]).unwrap();
        assert_eq!(written(state.path(), &pid), ["a"]);
        fs::remove_file(state.path().join("temproots").join(&pid)).unwrap();
        roots.hold(&dir, &[path("b")]).unwrap();
        assert_eq!(written(state.path(), &pid), ["a", "b"]);
        // All handles of a process share them.
        let other = TempRoots::of(state.path()).unwrap();
        other.hold(&dir, &[path("b"), path("c")]).unwrap();
        assert_eq!(written(state.path(), &pid), ["a", "b", "c"]);
        drop((roots, other));
        assert!(!state.path().join("temproots").join(&pid).exists());
    }
}
