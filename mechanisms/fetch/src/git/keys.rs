//! Cache keys: each holds every argument that changes the result.

use crate::GitRequest;
use crate::cache::key;

/// The key of the bare repository that a URL is fetched into.
pub(super) fn repository(url: &str, request: &GitRequest) -> String {
    let kind = match request.shallow {
        true => "git-shallow",
        false => "git",
    };
    key(&[kind, url])
}

/// The key of the commit that a reference led to, in the repository with the key `repository`.
pub(super) fn reference(repository: &str, reference: &str) -> String {
    key(&["git-ref", repository, reference])
}

/// The key of the tree of a commit, in a repository with a working tree or without one.
pub(super) fn tree(rev: &str, request: &GitRequest, has_worktree: bool) -> String {
    let mut flags = String::new();
    for (name, set) in request.tree_arguments() {
        if set {
            flags.push_str(&name[..1]);
        }
    }
    // Patterns for directories apply only where there is a working tree.
    if request.export_ignore && has_worktree {
        flags.push('w');
    }
    key(&["git-tree", rev, &flags])
}

/// The key of the time of a commit.
pub(super) fn last_modified(rev: &str) -> String {
    key(&["git-last-modified", rev])
}

/// The key of the length of a commit's history, counted in a repository with the whole of it.
pub(super) fn rev_count(rev: &str) -> String {
    key(&["git-rev-count", rev])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_different_arguments_have_different_keys() {
        let mut keys = std::collections::HashSet::new();
        for bits in 0..8_u8 {
            let mut request = GitRequest::new("file:///x");
            request.submodules = bits & 1 != 0;
            request.export_ignore = bits & 2 != 0;
            request.lfs = bits & 4 != 0;
            for rev in ["0123", "4567"] {
                assert!(keys.insert(tree(rev, &request, false)), "{bits}");
                let new = keys.insert(tree(rev, &request, true));
                assert_eq!(new, request.export_ignore, "{bits}");
            }
        }
        let mut request = GitRequest::new("file:///x");
        let whole = repository("file:///x", &request);
        request.shallow = true;
        assert_ne!(repository("file:///x", &request), whole);
    }
}
