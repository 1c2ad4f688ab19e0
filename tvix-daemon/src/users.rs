//! Connections of untrusted users.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The number of connections of each untrusted user, by its number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Users(Arc<Mutex<HashMap<u32, usize>>>);

/// A connection of a user, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    users: Users,
    uid: u32,
}

impl Users {
    /// Counts a connection; `None` if the user has `limit` of them.
    pub fn enter(&self, uid: u32, limit: usize) -> Option<Seat> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        let users = self.clone();
        Some(Seat { users, uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_places_of_their_own() {
        let users = Users::default();
        let first = users.enter(1, 2).unwrap();
        let _second = users.enter(1, 2).unwrap();
        assert!(users.enter(1, 2).is_none());
        let other = users.enter(2, 2);
        assert!(other.is_some());
        drop((first, other));
        let _third = users.enter(1, 2).unwrap();
        assert!(users.enter(1, 2).is_none());
        assert_eq!(users.0.lock().unwrap().len(), 1);
    }
}
