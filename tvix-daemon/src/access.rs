//! Allowed and trusted users.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tvix_worker_protocol::Trust;

/// The process at the other end of a socket, as the kernel knows it (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The process; `None` if it is not known.
    pub pid: Option<i32>,
}

impl Peer {
    /// A process of this user and group.
    pub fn new(uid: u32, gid: u32) -> Self {
        let pid = None;
        Self { uid, gid, pid }
    }
}

/// Which users may connect and which are trusted: names, `@` and the name of a group, or `*` for all. As
/// Nix's settings `allowed-users` and `trusted-users`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// Users that may connect [default: `*`].
    pub allowed: Vec<String>,
    /// Users that may change the store for others [default: `root`]. They may connect, too.
    pub trusted: Vec<String>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            allowed: vec!["*".to_owned()],
            trusted: vec!["root".to_owned()],
        }
    }
}

impl Access {
    /// Sets [`allowed`](Self::allowed).
    #[must_use]
    pub fn with_allowed<U: Into<String>>(mut self, users: impl IntoIterator<Item = U>) -> Self {
        self.allowed = users.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`trusted`](Self::trusted).
    #[must_use]
    pub fn with_trusted<U: Into<String>>(mut self, users: impl IntoIterator<Item = U>) -> Self {
        self.trusted = users.into_iter().map(Into::into).collect();
        self
    }

    /// How far a peer is trusted; an error with its name if it may not connect. Blocks: databases of users may be on
    /// other machines.
    ///
    /// # Errors
    ///
    /// [`NotAllowed`].
    pub fn judge(&self, peer: Peer) -> Result<Trust, NotAllowed> {
        let names = Names::of(peer);
        if self.trusted.iter().any(|entry| names.matches(entry)) {
            return Ok(Trust::Trusted);
        }
        match self.allowed.iter().any(|entry| names.matches(entry)) {
            true => Ok(Trust::NotTrusted),
            false => Err(NotAllowed { user: names.user }),
        }
    }
}

/// A user may not connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user '{user}' is not allowed to connect to the Nix daemon")]
#[non_exhaustive]
pub struct NotAllowed {
    /// The name of the user.
    pub user: String,
}

/// The names of a peer. Users and groups without a name have their number.
#[derive(Debug)]
struct Names {
    user: String,
    groups: Vec<Gid>,
}

impl Names {
    fn of(peer: Peer) -> Self {
        let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
        let gid = Gid::from_raw(peer.gid);
        let Some(user) = user else {
            let (user, groups) = (peer.uid.to_string(), vec![gid]);
            return Self { user, groups };
        };
        let name = CString::new(user.name.as_str()).unwrap_or_default();
        let mut groups = getgrouplist(&name, user.gid).unwrap_or_default();
        groups.push(gid);
        let user = user.name;
        Self { user, groups }
    }

    fn matches(&self, entry: &str) -> bool {
        match entry.strip_prefix('@') {
            Some(group) => {
                let group = Group::from_name(group).ok().flatten();
                group.is_some_and(|group| self.groups.contains(&group.gid))
            }
            None => entry == "*" || entry == self.user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups() {
        let root = Peer::new(0, 0);
        let nobody = Peer::new(65534, 65534);
        let access = Access::default();
        assert_eq!(access.judge(root), Ok(Trust::Trusted));
        assert_eq!(access.judge(nobody), Ok(Trust::NotTrusted));
        let group = Group::from_gid(Gid::from_raw(65534)).unwrap().unwrap().name;
        let access = Access::default()
            .with_trusted([format!("@{group}")])
            .with_allowed(["nonsense", "@nonsense"]);
        assert_eq!(access.judge(nobody), Ok(Trust::Trusted));
        let refused = access.judge(root).unwrap_err();
        assert_eq!(refused.user, "root");
        let access = access.with_allowed(["root"]);
        assert_eq!(access.judge(root), Ok(Trust::NotTrusted));
        // A user without a name.
        let unknown = Peer::new(3_999_999, 3_999_999);
        assert!(access.judge(unknown).is_err());
        assert!(access.with_allowed(["3999999"]).judge(unknown).is_ok());
    }
}
