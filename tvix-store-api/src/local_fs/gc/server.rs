//! The server that receives new roots during a collection.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix_compat::store_path::StoreDir;
use rustix::event::{PollFd, PollFlags, poll};

use super::socket::ACKNOWLEDGED;

/// Longer than any store path. A client that sends a longer line is disconnected.
const MAX_LINE: usize = 4096;

/// Number of clients that are served at a time; further ones wait.
const MAX_CLIENTS: usize = 512;

/// The hash part of a store path. Lock files and other files beside a path have the same one, so a
/// root keeps them as well.
pub(super) type Digest = [u8; 20];

/// The state shared by the collector and the server.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    removed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    roots: HashSet<Digest>,
    /// Roots that the collector has not seen yet.
    new: Vec<Digest>,
    /// The hash parts that are being removed, with a count, because several entries may have the
    /// same hash part.
    pending: HashMap<Digest, u32>,
    /// The collector has ended; nothing is pending any more.
    ended: bool,
}

impl Shared {
    /// Adds a root. Blocks while it is being removed.
    fn add(&self, digest: Digest) {
        let mut state = self.lock();
        if state.roots.insert(digest) {
            state.new.push(digest);
        }
        while state.pending.contains_key(&digest) && !state.ended {
            state = self
                .removed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds roots that were recorded before the socket existed.
    pub fn extend(&self, digests: impl Iterator<Item = Digest>) {
        let mut state = self.lock();
        for digest in digests {
            if state.roots.insert(digest) {
                state.new.push(digest);
            }
        }
    }

    /// Starts the removal of the digests that `choose` returns. `choose` receives the roots added
    /// since the last call. Adding one of the chosen digests as a root blocks until the returned
    /// [`Pending`] is dropped.
    pub fn begin<T>(
        &self,
        choose: impl FnOnce(Vec<Digest>) -> (T, Vec<Digest>),
    ) -> (T, Pending<'_>) {
        let mut state = self.lock();
        let new = std::mem::take(&mut state.new);
        let (chosen, digests) = choose(new);
        (chosen, Pending::new(self, &mut state, digests))
    }

    /// Starts the removal of entries with this hash part, unless it is a root.
    pub fn begin_quietly(&self, digest: Digest) -> Option<Pending<'_>> {
        let mut state = self.lock();
        let free = !state.roots.contains(&digest);
        free.then(|| Pending::new(self, &mut state, vec![digest]))
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.pending.clear();
        self.removed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A removal in progress. Dropping it ends the removal.
#[derive(Debug)]
pub(super) struct Pending<'s> {
    shared: &'s Shared,
    digests: Vec<Digest>,
}

impl<'s> Pending<'s> {
    fn new(shared: &'s Shared, state: &mut State, digests: Vec<Digest>) -> Self {
        for digest in &digests {
            *state.pending.entry(*digest).or_default() += 1;
        }
        Self { shared, digests }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        for digest in &self.digests {
            if let Some(count) = state.pending.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pending.remove(digest);
                }
            }
        }
        drop(state);
        self.shared.removed.notify_all();
    }
}

/// The server thread. It runs until this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: UnixListener, dir: StoreDir, shared: Arc<Shared>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let thread = std::thread::Builder::new().name("gc-roots".into()).spawn({
            let shared = shared.clone();
            move || serve(&listener, &woken, &dir, &shared)
        })?;
        Ok(Self {
            shared,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end();
        let _ = self.wake.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
}

/// One thread serves all clients. If it blocks on a pending removal, it waits only for the single
/// collector.
fn serve(listener: &UnixListener, woken: &UnixStream, dir: &StoreDir, shared: &Shared) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let mut watched = vec![PollFd::from_borrowed_fd(woken.as_fd(), PollFlags::IN)];
        watched.extend(
            clients
                .iter()
                .map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN)),
        );
        if clients.len() < MAX_CLIENTS {
            watched.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let ready: Vec<bool> = watched.iter().map(|it| !it.revents().is_empty()).collect();
        drop(watched);
        if ready[0] {
            return;
        }
        let accept = ready.len() > clients.len() + 1 && ready[clients.len() + 1];
        let mut ready = ready[1..].iter();
        clients.retain_mut(|client| match ready.next() {
            Some(true) => client.hear(dir, shared).unwrap_or(false),
            _ => true,
        });
        if accept
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            clients.push(Client {
                stream,
                line: Vec::new(),
            });
        }
    }
}

impl Client {
    /// Handles the client's input; `false` if the client has disconnected or sends garbage.
    fn hear(&mut self, dir: &StoreDir, shared: &Shared) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let len = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            read => read?,
        };
        if len == 0 {
            return Ok(false);
        }
        self.line.extend_from_slice(&buffer[..len]);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            // A text that is not a store path names nothing that could be removed.
            if let Ok(path) = dir.parse(&line[..end]) {
                shared.add(*path.digest());
            }
            // A client that does not read its replies does not wait for them either.
            self.stream.write_all(&[ACKNOWLEDGED])?;
        }
        Ok(self.line.len() <= MAX_LINE)
    }
}

#[cfg(test)]
mod tests {
    use nix_compat::store_path::StorePath;

    use super::*;

    #[test]
    fn who_names_what_is_being_removed_waits_until_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let socket = temporary.path().join("socket");
        let shared = Arc::new(Shared::default());
        let listener = UnixListener::bind(&socket).unwrap();
        let server = Server::start(listener, StoreDir::default(), shared.clone()).unwrap();
        let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-x".parse().unwrap();
        let ((), pending) = shared.begin(|_| ((), vec![*path.digest()]));
        let mut client = UnixStream::connect(&socket).unwrap();
        writeln!(client, "{}", StoreDir::default().display(&path)).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut answer = [0];
        // Once the server has handled the line, the path is a root.
        while !shared
            .begin(|new| (new.contains(path.digest()), Vec::new()))
            .0
        {
            std::thread::yield_now();
        }
        assert!(client.read_exact(&mut answer).is_err());
        client.set_nonblocking(false).unwrap();
        drop(pending);
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [ACKNOWLEDGED]);
        // A client that waits for the next reply learns that the collector has ended.
        drop(server);
        assert_eq!(client.read(&mut answer).unwrap(), 0);
    }
}
