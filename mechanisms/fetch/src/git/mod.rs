//! Git, through the `git` command.
//!
//! Commits are fetched into a bare repository of the cache. Files are read as objects, so that no
//! filter, hook or conversion in anyone's settings changes them.

mod attributes;
mod commit;
mod entries;
mod keys;
mod lfs;
mod run;
mod submodules;
mod worktree;

use std::path::{Path, PathBuf};

use nix_compat::nixhash::NixHash;
use serde::{Deserialize, Serialize};

use super::cache::{self, Cache, Kind, Known};
use super::options::FetchOptions;
use super::tree::Tree;
use super::{Cancel, FetchError, Fetched, GitRequest, GitTree, file_path, git_url};
use run::Git;
use worktree::Collector;

/// Maximum nesting depth of submodules.
const MOST_NESTED: u32 = 32;

/// The context of a fetch.
struct Session<'s> {
    cache: &'s Cache,
    options: &'s FetchOptions,
    cancel: &'s Cancel,
    warnings: Vec<String>,
}

/// A commit that can be read.
struct Found {
    repository: PathBuf,
    /// The commit, or the requested tag.
    rev: String,
    /// The base of relative URLs of submodules.
    url: String,
    has_worktree: bool,
}

/// Facts about a commit.
struct Commit {
    last_modified: i64,
    rev_count: Option<u64>,
}

/// The note about a tree in the cache.
#[derive(Serialize, Deserialize)]
struct TreeNote {
    sha256: NixHash,
}

/// Fetches a tree.
pub(super) fn fetch(
    cache: &Cache,
    options: &FetchOptions,
    request: &GitRequest,
    cancel: &Cancel,
) -> Result<Fetched, FetchError> {
    if request.export_ignore && request.submodules {
        return Err(FetchError::Unsupported(
            "exportIgnore and submodules are not supported together yet".to_owned(),
        ));
    }
    let mut session = Session {
        cache,
        options,
        cancel,
        warnings: Vec::new(),
    };
    if let Some(path) = file_path(&request.url)
        && path.is_relative()
    {
        session.warnings.push(format!(
            "Fetching Git repository '{}', which uses a path relative to the current directory. This is not supported and will stop working in a future release. See https://github.com/NixOS/nix/issues/12281 for details.",
            request.url
        ));
    }
    let local = local_repository(&request.url)?;
    let mut fetched = match local {
        Some(path) if request.reference.is_none() && request.rev.is_none() => {
            session.worktree(&path, request)?
        }
        local => session.commit(local.as_deref(), request)?,
    };
    fetched.warnings = session.warnings;
    Ok(fetched)
}

/// The working tree at a URL, which is read in place. Bare repositories are cloned.
fn local_repository(url: &str) -> Result<Option<PathBuf>, FetchError> {
    let Some(path) = file_path(url) else {
        return Ok(None);
    };
    let path = std::path::absolute(path)
        .map_err(|error| FetchError::local(format!("looking for '{url}'"), error))?;
    if !path.exists() {
        let message = format!("Git repository '{}' does not exist.", path.display());
        return Err(FetchError::git(message));
    }
    let is_bare = !path.join(".git").exists();
    Ok((!is_bare).then_some(path))
}

impl Session<'_> {
    fn tree(&self, scratch: &Path) -> Result<Tree, FetchError> {
        let contents = scratch.join("contents");
        std::fs::create_dir(&contents)
            .map_err(|error| FetchError::local("making a temporary directory", error))?;
        Ok(Tree::new(contents, self.options.unpacked_limit))
    }

    fn worktree(&mut self, path: &Path, request: &GitRequest) -> Result<Fetched, FetchError> {
        let git = Git::worktree(path, self.cancel);
        let state = worktree::state(&git, path)?;
        let scratch = self.cache.scratch()?;
        let mut tree = self.tree(scratch.path())?;
        let dirty = match path.read_link() {
            // The contents of a link are the link, as in C++ Nix; a slash at the end follows it.
            Ok(target) => {
                let target = target.into_os_string().into_encoded_bytes();
                tree.become_symlink(&target)
                    .map_err(|error| commit::unusable(request, &error))?;
                state.dirty
            }
            Err(_) => {
                let mut collector = Collector {
                    request,
                    tree: &mut tree,
                    warnings: &mut self.warnings,
                };
                collector.add(&git, path, &state, b"", MOST_NESTED)?
            }
        };
        let (sha256, place) = self.cache.keep_tree(tree, scratch.path(), &request.url)?;
        let mut fetched = Fetched::new(place, sha256);
        let commit = match &state.head {
            Some(rev) => self.describe(&git, rev, request.shallow || dirty)?,
            None => Commit {
                last_modified: 0,
                rev_count: (!request.shallow).then_some(0),
            },
        };
        let mut git = GitTree::default();
        git.rev = state.head;
        git.dirty = dirty;
        git.rev_count = commit.rev_count.filter(|_| !dirty);
        git.last_modified = commit.last_modified;
        fetched.git = Some(git);
        Ok(fetched)
    }

    fn commit(
        &mut self,
        local: Option<&Path>,
        request: &GitRequest,
    ) -> Result<Fetched, FetchError> {
        let found = self.find(local, request)?;
        let git = Git::bare(&found.repository, self.cancel);
        if !request.shallow && is_shallow(&git)? {
            return Err(FetchError::git(format!(
                "'{}' is a shallow Git repository, but shallow repositories are only allowed when `shallow = true;` is specified",
                shown(local, request)
            )));
        }
        let commit = self.describe(&git, &found.rev, request.shallow)?;
        let tree_key = keys::tree(&found.rev, request, found.has_worktree);
        let known = self.cache.known(&tree_key).and_then(|note: TreeNote| {
            let place = self.cache.find(Kind::Tree, &note.sha256)?;
            Some((note.sha256, place))
        });
        let (sha256, place) = match known {
            Some(known) => known,
            None => {
                let scratch = self.cache.scratch()?;
                let mut tree = self.tree(scratch.path())?;
                self.add(&found, request, b"", &mut tree, scratch.path(), MOST_NESTED)?;
                let (sha256, place) = self.cache.keep_tree(tree, scratch.path(), &request.url)?;
                let note = TreeNote {
                    sha256: sha256.clone(),
                };
                self.cache.note(&tree_key, &note)?;
                (sha256, place)
            }
        };
        let mut fetched = Fetched::new(place, sha256);
        let mut git = GitTree::default();
        git.rev = Some(found.rev);
        git.rev_count = commit.rev_count;
        git.last_modified = commit.last_modified;
        fetched.git = Some(git);
        Ok(fetched)
    }

    /// Adds a commit to a tree, and its submodules.
    fn add(
        &mut self,
        found: &Found,
        request: &GitRequest,
        below: &[u8],
        tree: &mut Tree,
        scratch: &Path,
        nested: u32,
    ) -> Result<(), FetchError> {
        let git = Git::bare(&found.repository, self.cancel);
        let mut adding = commit::Adding {
            request,
            tree,
            scratch,
            has_worktree: found.has_worktree,
            warnings: &mut self.warnings,
        };
        let links = adding.add(&git, &found.rev, below)?;
        if !request.submodules || links.is_empty() {
            return Ok(());
        }
        let Some(nested) = nested.checked_sub(1) else {
            return Err(FetchError::git("submodules are nested too deeply"));
        };
        let mut modules = submodules::of_commit(&git, &found.rev)?;
        for link in links {
            // A submodule that is not listed stays empty.
            let Some(module) = modules.remove(&link.path) else {
                continue;
            };
            let url = submodules::resolve(&module.url, &found.url);
            let url = git_url(&url).map_err(|reason| FetchError::Url { url, reason })?;
            let mut inner = GitRequest::new(url);
            inner.rev = Some(link.id);
            inner.reference = match module.branch.as_deref() {
                Some(".") => request.reference.clone(),
                _ => module.branch,
            };
            inner.all_refs = true;
            inner.submodules = true;
            inner.export_ignore = request.export_ignore;
            inner.lfs = request.lfs;
            let local = local_repository(&inner.url)?;
            let found = self.find(local.as_deref(), &inner)?;
            let below = commit::join(below, &link.path);
            self.add(&found, &inner, &below, tree, scratch, nested)?;
        }
        Ok(())
    }

    /// Looks up the facts about a commit; counts its history unless `shallow`.
    fn describe(&self, git: &Git<'_>, rev: &str, shallow: bool) -> Result<Commit, FetchError> {
        let key = keys::last_modified(rev);
        let last_modified = match self.cache.known(&key) {
            Some(known) => known,
            None => {
                let format = "--format=%ct";
                let time = git.line(["log", "-1", "--no-show-signature", format, rev])?;
                let time: i64 = number(&time)?;
                self.cache.note(&key, &time)?;
                time
            }
        };
        let rev_count = match shallow {
            true => None,
            false => Some(self.rev_count(git, rev)?),
        };
        Ok(Commit {
            last_modified,
            rev_count,
        })
    }

    fn rev_count(&self, git: &Git<'_>, rev: &str) -> Result<u64, FetchError> {
        let count = || number(&git.line(["rev-list", "--count", rev])?);
        // A shallow repository has less of the history than others with the same commit.
        if is_shallow(git)? {
            return count();
        }
        let key = keys::rev_count(rev);
        if let Some(known) = self.cache.known(&key) {
            return Ok(known);
        }
        let count = count()?;
        self.cache.note(&key, &count)?;
        Ok(count)
    }

    /// Finds the requested commit; fetches it if necessary.
    fn find(&mut self, local: Option<&Path>, request: &GitRequest) -> Result<Found, FetchError> {
        match local {
            Some(path) => self.find_local(path, request),
            None => self.find_remote(request),
        }
    }

    fn find_local(&mut self, path: &Path, request: &GitRequest) -> Result<Found, FetchError> {
        let git = Git::worktree(path, self.cancel);
        let repository = git.line(["rev-parse", "--absolute-git-dir"])?;
        let rev = match &request.rev {
            Some(rev) if has(&git, rev) => rev.clone(),
            Some(rev) => return Err(missing(rev, Some(path), request)),
            None => commit_of(&git, request.reference.as_deref().unwrap_or("HEAD"))?,
        };
        if request.reference.is_none() {
            let head = std::fs::read(Path::new(&repository).join("HEAD"));
            if !head.is_ok_and(|head| head.starts_with(b"ref:")) {
                self.warnings.push(format!(
                    "could not read HEAD ref from repo at '{}', using 'master'",
                    path.display()
                ));
            }
        }
        let origin = git.line(["config", "--get", "remote.origin.url"]);
        Ok(Found {
            rev,
            repository: repository.into(),
            url: origin.unwrap_or_else(|_| path.to_string_lossy().into_owned()),
            has_worktree: true,
        })
    }

    fn find_remote(&mut self, request: &GitRequest) -> Result<Found, FetchError> {
        let url = remote_url(&request.url);
        let name = keys::repository(&url, request);
        // Held while fetching only: objects are never removed, and a submodule may be the same
        // repository again.
        let _lock = self.cache.lock(&name, self.cancel)?;
        let repository = self.cache.repository(&name);
        let git = Git::bare(&repository, self.cancel);
        if !repository.join("HEAD").exists() {
            git.output(["init", "--bare", "--quiet"])?;
        }
        let rev = match &request.rev {
            Some(rev) => {
                if !has(&git, rev) {
                    self.fetch_rev(&git, &url, rev, request)?;
                }
                rev.clone()
            }
            None => self.fetch_ref(&git, &url, &name, request)?,
        };
        Ok(Found {
            repository,
            rev,
            url,
            has_worktree: false,
        })
    }

    fn fetch_rev(
        &self,
        git: &Git<'_>,
        url: &str,
        rev: &str,
        request: &GitRequest,
    ) -> Result<(), FetchError> {
        let direct = fetch_spec(git, url, rev, request.shallow);
        if direct.is_ok() && has(git, rev) {
            return Ok(());
        }
        // Some servers serve advertised objects only.
        match &request.reference {
            Some(reference) if !request.all_refs => {
                fetch_spec(git, url, &full_name(reference), request.shallow)?;
            }
            _ => fetch_spec(git, url, "+refs/*:refs/fetched/*", request.shallow)?,
        }
        match has(git, rev) {
            true => Ok(()),
            false => Err(missing(rev, None, request)),
        }
    }

    fn fetch_ref(
        &mut self,
        git: &Git<'_>,
        url: &str,
        name: &str,
        request: &GitRequest,
    ) -> Result<String, FetchError> {
        let reference = match &request.reference {
            Some(reference) => full_name(reference),
            None => "HEAD".to_owned(),
        };
        let note = keys::reference(name, &reference);
        let known: Option<Known> = self.cache.known(&note);
        let known = known.filter(|known| has(git, &known.etag));
        if let Some(known) = &known
            && known.is_fresh(self.options.ttl)
            && !request.all_refs
        {
            return Ok(known.etag.clone());
        }
        let spec = match request.all_refs {
            true => "+refs/*:refs/fetched/*",
            false => &reference,
        };
        if let Err(error) = fetch_spec(git, url, spec, request.shallow) {
            let Some(known) = known else {
                return Err(error);
            };
            self.warnings.push(format!(
                "could not update local clone of Git repository '{url}'; continuing with the most recent version"
            ));
            return Ok(known.etag);
        }
        if request.all_refs {
            fetch_spec(git, url, &reference, request.shallow)?;
        }
        let rev = commit_of(git, "FETCH_HEAD")?;
        let known = Known {
            url: format!("{url} {reference}"),
            etag: rev.clone(),
            sha256: NixHash::Sha256([0; 32]),
            seen: cache::now(),
        };
        self.cache.note(&note, &known)?;
        Ok(rev)
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, FetchError> {
    text.parse()
        .map_err(|_| FetchError::git(format!("git printed '{text}' in place of a number")))
}

fn is_shallow(git: &Git<'_>) -> Result<bool, FetchError> {
    Ok(git.line(["rev-parse", "--is-shallow-repository"])? == "true")
}

/// The name of a reference on the server.
fn full_name(reference: &str) -> String {
    match reference.starts_with("refs/") || reference == "HEAD" {
        true => reference.to_owned(),
        false => format!("refs/heads/{reference}"),
    }
}

/// A URL in the form that `git` accepts: without the parameter `dir`.
fn remote_url(url: &str) -> String {
    if let Some(path) = file_path(url) {
        return format!("file://{}", path.display());
    }
    let Some((base, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let kept: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.starts_with("dir="))
        .collect();
    match kept.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", kept.join("&")),
    }
}

fn fetch_spec(git: &Git<'_>, url: &str, spec: &str, shallow: bool) -> Result<(), FetchError> {
    let mut args = vec![
        "fetch",
        "--quiet",
        "--force",
        "--no-tags",
        "--update-head-ok",
    ];
    if shallow {
        args.extend(["--depth", "1"]);
    }
    args.extend(["--", url, spec]);
    git.output(args)?;
    Ok(())
}

/// Whether a commit is in the repository.
fn has(git: &Git<'_>, rev: &str) -> bool {
    let commit = format!("{rev}^{{commit}}");
    git.output(["cat-file", "-e", &commit]).is_ok()
}

fn commit_of(git: &Git<'_>, name: &str) -> Result<String, FetchError> {
    let commit = format!("{name}^{{commit}}");
    git.line(["rev-parse", "--verify", "--end-of-options", &commit])
}

fn shown(local: Option<&Path>, request: &GitRequest) -> String {
    match local {
        Some(path) => path.display().to_string(),
        None => request.url.clone(),
    }
}

fn missing(rev: &str, local: Option<&Path>, request: &GitRequest) -> FetchError {
    let reference = request.reference.as_deref().unwrap_or("HEAD");
    FetchError::git(format!(
        "Cannot find Git revision '{rev}' in ref '{reference}' of repository '{}'! Please make sure that the rev exists on the ref you've specified or add allRefs = true; to fetchGit.",
        shown(local, request)
    ))
}
