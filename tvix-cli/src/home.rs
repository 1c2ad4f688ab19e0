//! The user's home directory.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::output::say;

/// The home directory as Nix determines it: `HOME`, unless that is a directory of another user, as
/// it may be under `sudo`. A warning says so once.
pub fn directory() -> Option<PathBuf> {
    static HOME: OnceLock<Option<PathBuf>> = OnceLock::new();
    HOME.get_or_init(find).clone()
}

fn find() -> Option<PathBuf> {
    let home = std::env::home_dir();
    let (Some(given), Ok(own)) = (&home, std::fs::metadata("/proc/self")) else {
        return home;
    };
    match std::fs::metadata(given) {
        Ok(found) if found.uid() != own.uid() => {}
        _ => return home,
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some(own) = directory_of(&users, own.uid()) else {
        return home;
    };
    if own != *given {
        say!(
            "warning: $HOME ('{}') is not owned by you, falling back to the one defined in the 'passwd' file ('{}')",
            given.display(),
            own.display()
        );
    }
    Some(own)
}

/// The home directory of a user in a file such as `/etc/passwd`.
fn directory_of(users: &str, id: u32) -> Option<PathBuf> {
    let mut lines = users.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let found = fields.nth(2)?.parse::<u32>().ok()?;
        let home = fields.nth(2).filter(|home| !home.is_empty())?;
        (found == id).then(|| PathBuf::from(home))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_users() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:100::/home/me:\nno:x:7:7:::\n";
        assert_eq!(directory_of(users, 0), Some("/root".into()));
        assert_eq!(directory_of(users, 1000), Some("/home/me".into()));
        assert_eq!(directory_of(users, 7), None);
        assert_eq!(directory_of(users, 8), None);
    }
}
