//! What a collector is told while it collects.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix_compat::store_path::StoreDir;
use rustix::event::{PollFd, PollFlags, poll};

use super::socket::ACKNOWLEDGED;

/// Longer than any store path: who sends more without a newline is sent away.
const MAX_LINE: usize = 4096;

/// How many clients are listened to at once; more wait.
const MAX_CLIENTS: usize = 512;

/// The hash part of a store path. Locks and other files beside a path have it too, so a root keeps
/// them as well.
pub(super) type Digest = [u8; 20];

/// What the collector and those who talk to it both know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    removed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    roots: HashSet<Digest>,
    /// Those of them that the collector has not heard of.
    new: Vec<Digest>,
    /// What is being removed at this moment, and how many times: names may have the same hash part.
    pending: HashMap<Digest, u32>,
    /// The collector has ended: nothing is pending any more.
    ended: bool,
}

impl Shared {
    /// Adds a root, and waits while it is being removed.
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

    /// Roots that were known before there was anybody to tell them.
    pub fn extend(&self, digests: impl Iterator<Item = Digest>) {
        let mut state = self.lock();
        for digest in digests {
            if state.roots.insert(digest) {
                state.new.push(digest);
            }
        }
    }

    /// Begins to remove what `choose` chooses, who is given the roots that are new since the last
    /// time. From now on whoever adds one of them as a root waits, until what is returned is dropped.
    pub fn begin<T>(
        &self,
        choose: impl FnOnce(Vec<Digest>) -> (T, Vec<Digest>),
    ) -> (T, Pending<'_>) {
        let mut state = self.lock();
        let new = std::mem::take(&mut state.new);
        let (chosen, digests) = choose(new);
        (chosen, Pending::new(self, &mut state, digests))
    }

    /// Begins to remove what has this hash part, unless it is a root.
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

/// What is being removed. Once this is dropped, it is done.
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

/// A thread that listens, until this is dropped.
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

/// One thread for all: waiting for what is pending, it waits for the one collector that there is.
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
    /// Takes what it says; `false` if it has gone, or talks nonsense.
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
            // What is no store path cannot be removed either.
            if let Ok(path) = dir.parse(&line[..end]) {
                shared.add(*path.digest());
            }
            // If it does not read its answers, it is not one that waits for them.
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
        // It is heard: from then on it is a root.
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
        // Whoever waits for the next one learns that there is no collector any more.
        drop(server);
        assert_eq!(client.read(&mut answer).unwrap(), 0);
    }
}
