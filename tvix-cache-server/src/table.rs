//! The table of open connections: their number per address, and the idle ones.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Minimum idle time before a connection is closed to make room.
const IDLE: Duration = Duration::from_secs(1);

pub(crate) struct Table {
    per_address: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    addresses: HashMap<IpAddr, usize>,
    open: HashMap<u64, (Arc<Activity>, CancellationToken)>,
}

/// A connection in the table; dropping it removes the connection.
pub(crate) struct Entry {
    table: Arc<Table>,
    number: u64,
    address: IpAddr,
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when the idle connection is closed to make room.
    pub(crate) closed: CancellationToken,
}

/// The requests of a connection.
pub(crate) struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    /// Starts a request; it is in progress until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.change(|requests| requests + 1);
        Busy(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    /// The time since when there has been no request; `None` during a request.
    fn idle_since(&self) -> Option<Instant> {
        let (requests, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (requests == 0).then_some(since)
    }
}

/// A request in progress.
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|requests| requests.saturating_sub(1));
    }
}

impl Table {
    pub(crate) fn new(per_address: usize) -> Self {
        Self {
            per_address: per_address.max(1),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; `None` if its address has reached its limit.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Entry> {
        let address = network(address);
        let mut state = self.state();
        let count = state.addresses.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        let number = state.next;
        state.next += 1;
        let activity = Arc::new(Activity(Mutex::new((0, Instant::now()))));
        let closed = CancellationToken::new();
        state
            .open
            .insert(number, (activity.clone(), closed.clone()));
        drop(state);
        Some(Entry {
            table: self.clone(),
            number,
            address,
            activity,
            closed,
        })
    }

    /// Closes the connection that has been idle longest, if that is longer than [`IDLE`].
    pub(crate) fn close_idle(&self) {
        let state = self.state();
        let now = Instant::now();
        let open = state.open.values();
        let idle = open.filter(|(_, closed)| !closed.is_cancelled());
        let idle = idle.filter_map(|(activity, closed)| Some((activity.idle_since()?, closed)));
        let idle = idle.filter(|(since, _)| now.duration_since(*since) >= IDLE);
        if let Some((_, closed)) = idle.min_by_key(|(since, _)| *since) {
            closed.cancel();
        }
    }

    /// Waits for a free place, and closes idle connections to get one.
    pub(crate) async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            let place = places.clone().acquire_owned();
            match tokio::time::timeout(IDLE / 4, place).await {
                // The semaphore is never closed.
                Ok(place) => return place.ok(),
                Err(_) => self.close_idle(),
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.table.state();
        state.open.remove(&self.number);
        if let Some(count) = state.addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                state.addresses.remove(&self.address);
            }
        }
    }
}

/// The address, or the /64 network with IPv6, which usually belongs to a single host.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_closed() {
        let table = Arc::new(Table::new(2));
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let busy = table.enter(address).unwrap();
        let _request = busy.activity.begin();
        let idle = table.enter(address).unwrap();
        assert!(table.enter(address).is_none(), "it has two");
        let other = table.enter("127.0.0.2".parse().unwrap()).unwrap();
        table.close_idle();
        assert!(!idle.closed.is_cancelled(), "it has just begun");
        tokio::time::advance(IDLE).await;
        drop(other.activity.begin());
        table.close_idle();
        assert!(idle.closed.is_cancelled());
        assert!(!busy.closed.is_cancelled() && !other.closed.is_cancelled());
        drop(idle);
        assert!(table.enter(address).is_some(), "one of two is gone");
    }

    #[test]
    fn networks() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:127.0.0.1"), "127.0.0.1");
    }
}
