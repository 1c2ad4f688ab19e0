//! Hashing the archive of a tree while it is written.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use nix_compat::nar::{BUFFER_SIZE, NarError};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};

use super::{TreeError, dump_path};

/// Maximum number of chunks that wait to be hashed. Two suffice; more bridge runs of small files.
const AHEAD: usize = 6;
/// Archives up to this size, in bytes, are hashed without a thread.
const ALONE: usize = 4 * BUFFER_SIZE;

/// The hash and the size in bytes of the archive of the tree at `path`.
///
/// Except for small trees, a second thread computes the hash while this one reads files, so the time
/// is that of the slower of the two.
///
/// # Errors
///
/// Those of [`dump_path`].
pub fn hash_path(path: &Path, algo: HashAlgo) -> Result<(NixHash, u64), TreeError> {
    hash_path_while(path, algo, || Ok(()))
}

/// Like [`hash_path`], but ends with an error as soon as `check`, which is called before each chunk,
/// returns one.
///
/// # Errors
///
/// Those of [`hash_path`], and [`NarError::Io`] with the error of `check`. It must not be
/// [`io::ErrorKind::Interrupted`], after which `check` is called again.
pub(crate) fn hash_path_while(
    path: &Path,
    algo: HashAlgo,
    check: impl FnMut() -> io::Result<()>,
) -> Result<(NixHash, u64), TreeError> {
    std::thread::scope(|scope| {
        let mut sink = Sink {
            check,
            scope,
            state: State::Alone(NixHasher::new(algo)),
            len: 0,
        };
        dump_path(path, &mut sink)?;
        Ok(sink.finish().map_err(NarError::Io)?)
    })
}

struct Sink<'scope, 'env, C> {
    check: C,
    scope: &'scope Scope<'scope, 'env>,
    state: State<'scope>,
    len: u64,
}

enum State<'scope> {
    Alone(NixHasher),
    Beside {
        full: SyncSender<Vec<u8>>,
        empty: Receiver<Vec<u8>>,
        filling: Vec<u8>,
        thread: ScopedJoinHandle<'scope, NixHasher>,
    },
    Lost,
}

fn lost() -> io::Error {
    io::Error::other("the thread that hashes ended before its time")
}

impl<C> Sink<'_, '_, C> {
    fn spread_out(&mut self) {
        let State::Alone(mut hasher) = std::mem::replace(&mut self.state, State::Lost) else {
            return;
        };
        let (full, chunks) = sync_channel::<Vec<u8>>(AHEAD);
        let (used, empty) = sync_channel::<Vec<u8>>(AHEAD + 2);
        for _ in 0..AHEAD + 1 {
            // There is room for as many as there are.
            let _ = used.try_send(Vec::with_capacity(BUFFER_SIZE));
        }
        let thread = self.scope.spawn(move || {
            for mut chunk in chunks {
                hasher.update(&chunk);
                chunk.clear();
                let _ = used.try_send(chunk);
            }
            hasher
        });
        let filling = Vec::with_capacity(BUFFER_SIZE);
        self.state = State::Beside {
            full,
            empty,
            filling,
            thread,
        };
    }

    fn finish(self) -> io::Result<(NixHash, u64)> {
        let hasher = match self.state {
            State::Alone(hasher) => hasher,
            State::Beside {
                full,
                filling,
                thread,
                ..
            } => {
                full.send(filling).map_err(|_| lost())?;
                drop(full);
                thread.join().map_err(|_| lost())?
            }
            State::Lost => return Err(lost()),
        };
        Ok((hasher.finish(), self.len))
    }
}

impl<C: FnMut() -> io::Result<()>> Write for Sink<'_, '_, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.check)()?;
        if self.len as usize >= ALONE && matches!(self.state, State::Alone(_)) {
            self.spread_out();
        }
        let taken = match &mut self.state {
            State::Alone(hasher) => {
                hasher.update(bytes);
                bytes.len()
            }
            State::Beside {
                full,
                empty,
                filling,
                ..
            } => {
                if filling.len() == BUFFER_SIZE {
                    let next = empty.recv().map_err(|_| lost())?;
                    full.send(std::mem::replace(filling, next))
                        .map_err(|_| lost())?;
                }
                let taken = bytes.len().min(BUFFER_SIZE - filling.len());
                filling.extend_from_slice(&bytes[..taken]);
                taken
            }
            State::Lost => return Err(lost()),
        };
        self.len += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_hashing_the_archive() {
        let folder = std::env::temp_dir().join(format!("hash-path-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("empty")).unwrap();
        for (name, len) in [
            ("small", 10),
            ("edge", ALONE),
            ("large", 3 * ALONE + 5),
            ("larger", 20 * BUFFER_SIZE),
        ] {
            let bytes: Vec<u8> = (0..len).map(|byte| (byte % 251) as u8).collect();
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        for path in [folder.clone(), folder.join("small"), folder.join("edge")] {
            let mut nar = Vec::new();
            dump_path(&path, &mut nar).unwrap();
            let expected = NixHash::digest(HashAlgo::Sha256, &nar);
            let hashed = hash_path(&path, HashAlgo::Sha256).unwrap();
            assert_eq!(hashed, (expected, nar.len() as u64), "{path:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(hash_path(&folder, HashAlgo::Sha256).is_err());
    }
}
