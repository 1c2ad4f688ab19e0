//! `fetchGit`.

use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};

use super::fetch::sri;
use super::{Def, def};
use crate::access::{checked_name, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::fetch::{FetchRequest, GitRequest, GitTree, git_url, show_git};
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{Ref, Value};

pub(super) const BUILTINS: &[Def] = &[def("fetchGit", 1, fetch_git)];

/// The arguments of `fetchGit`.
struct Arguments {
    request: GitRequest,
    name: Vec<u8>,
    nar_hash: Option<NixHash>,
    last_modified: Option<i64>,
    rev_count: Option<i64>,
    /// Copied to the result for a tree without local changes.
    dirty_rev: Option<String>,
    dirty_short_rev: Option<String>,
}

fn other(message: impl Into<String>) -> Box<Error> {
    Error::new(ErrorKind::Other, message)
}

fn arguments<'h>(interp: &Interp<'h>, arg: Ref<'h>, pos: Pos) -> Result<Arguments> {
    let mut arguments = Arguments {
        request: GitRequest::new(""),
        name: b"source".to_vec(),
        nar_hash: None,
        last_modified: None,
        rev_count: None,
        dirty_rev: None,
        dirty_short_rev: None,
    };
    let Value::Attrs(attrs) = interp.force_at(arg, pos)? else {
        arguments.request.url = git_url(&url(interp, arg, pos)?).map_err(other)?;
        return Ok(arguments);
    };
    let mut export_ignore = None;
    let mut with_url = false;
    let entries = interp.by_name(attrs);
    if entries.iter().any(|(key, _)| *key == b"type") {
        return Err(other("unexpected argument 'type'").at(pos));
    }
    for (key, attr) in entries {
        let name = lossy(key);
        let value = match interp.force_at(attr.value, attr.pos)? {
            Value::Path(path) => ArgumentValue::Text(lossy(path.bytes)),
            Value::String(text) => ArgumentValue::Text(lossy(text.bytes)),
            Value::Bool(flag) => ArgumentValue::Flag(flag),
            Value::Int(number) if number < 0 => {
                let message =
                    format!("negative value given for 'fetchGit' argument '{name}': {number}");
                return Err(other(message).at(pos));
            }
            Value::Int(number) => ArgumentValue::Number(number),
            _ if key == b"publicKeys" => return Err(verified()),
            value => {
                let message = format!(
                    "argument '{name}' to 'fetchGit' is {} while a string, Boolean or integer is expected",
                    value.type_phrase()
                );
                return Err(Error::new(ErrorKind::Type, message));
            }
        };
        let request = &mut arguments.request;
        match key {
            b"url" => {
                request.url = git_url(&value.text(&name)?).map_err(other)?;
                with_url = true;
            }
            b"name" => arguments.name = value.text(&name)?.into_bytes(),
            b"ref" => {
                let reference = value.text(&name)?;
                if !is_legal_reference(&reference) {
                    let message = format!("invalid Git branch/tag name '{reference}'");
                    return Err(other(message));
                }
                request.reference = Some(reference);
            }
            b"rev" => {
                let text = value.text(&name)?;
                let rev = NixHash::parse_prefixed(&text)
                    .or_else(|_| NixHash::parse_any(&text, Some(HashAlgo::Sha1)))
                    .map_err(|error| other(error.to_string()))?;
                if !matches!(rev.algo(), HashAlgo::Sha1 | HashAlgo::Sha256) {
                    let message = format!(
                        "Hash '{text}' is not supported by Git. Supported types are sha1 and sha256."
                    );
                    return Err(other(message));
                }
                request.rev = Some(rev.encode(HashEncoding::Base16));
            }
            b"submodules" => request.submodules = value.flag(&name)?,
            b"shallow" => request.shallow = value.flag(&name)?,
            b"allRefs" => request.all_refs = value.flag(&name)?,
            b"exportIgnore" => export_ignore = Some(value.flag(&name)?),
            b"lfs" => request.lfs = value.flag(&name)?,
            b"narHash" => {
                let text = value.text(&name)?;
                let hash = match text.is_empty() {
                    true => Ok(NixHash::Sha256([0; 32])),
                    false => NixHash::parse_sri(&text),
                };
                arguments.nar_hash = Some(hash.map_err(|error| other(error.to_string()))?);
            }
            b"lastModified" => arguments.last_modified = Some(value.number(&name)?),
            b"revCount" => arguments.rev_count = Some(value.number(&name)?),
            b"dirtyRev" => arguments.dirty_rev = Some(value.text(&name)?),
            b"dirtyShortRev" => arguments.dirty_short_rev = Some(value.text(&name)?),
            b"verifyCommit" | b"keytype" | b"publicKey" | b"publicKeys" => return Err(verified()),
            _ => {
                let message = format!("input attribute '{name}' not supported by scheme 'git'");
                return Err(other(message));
            }
        }
    }
    if !with_url {
        return Err(Error::new(
            ErrorKind::Missing,
            "input attribute 'url' is missing",
        ));
    }
    // As with `git archive`, which does not support submodules.
    arguments.request.export_ignore = export_ignore.unwrap_or(!arguments.request.submodules);
    Ok(arguments)
}

/// The type of an attribute's value.
enum ArgumentValue {
    Text(String),
    Flag(bool),
    Number(i64),
}

impl ArgumentValue {
    fn text(self, name: &str) -> Result<String> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(other(format!("input attribute '{name}' is not a string"))),
        }
    }

    fn flag(self, name: &str) -> Result<bool> {
        match self {
            Self::Flag(flag) => Ok(flag),
            _ => Err(other(format!("input attribute '{name}' is not a Boolean"))),
        }
    }

    fn number(self, name: &str) -> Result<i64> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err(other(format!("input attribute '{name}' is not an integer"))),
        }
    }
}

fn verified() -> Box<Error> {
    let message = "experimental Nix feature 'verified-fetches' is disabled";
    Error::new(ErrorKind::Unsupported, message)
}

fn url<'h>(interp: &Interp<'h>, arg: Ref<'h>, pos: Pos) -> Result<String> {
    if let Value::Path(path) = interp.force_at(arg, pos)? {
        return Ok(lossy(path.bytes));
    }
    let why = "while evaluating the first argument passed to 'fetchGit'";
    let text = interp.coerce_cell(arg, Coercion::STRICT, pos, why)?;
    Ok(lossy(text.bytes))
}

/// Whether `git` accepts a reference name (git-check-ref-format).
fn is_legal_reference(name: &str) -> bool {
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    !name.is_empty()
        && name != "@"
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name
            .bytes()
            .any(|byte| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte))
        && !name.split('/').any(bad_part)
}

fn fetch_git<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let arguments = arguments(interp, args[0], pos)?;
    let shown = show_git(&arguments.request);
    if interp.world.settings.pure && arguments.request.rev.as_deref().is_none_or(is_zero) {
        if arguments.nar_hash.is_none() {
            let message = format!(
                "in pure evaluation mode, 'fetchGit' doesn't fetch unlocked input '{shown}'"
            );
            return Err(Error::new(ErrorKind::Forbidden, message).at(pos));
        }
        interp.warn(format!(
            "Input '{shown}' is unlocked (e.g. lacks a Git revision) but is checked by NAR hash. This is not reproducible and will break after garbage collection or when shared."
        ));
    }
    interp.check_uri(&shown)?;
    let name = checked_name(&arguments.name).map_err(|error| other(error).at(pos))?;
    let submodules = arguments.request.submodules;
    let request = FetchRequest::Git(arguments.request);
    let (path, fetched) = interp
        .fetch(&name, request)
        .map_err(|error| error.within(Pos::NONE, format!("while fetching the input '{shown}'")))?;
    let nar_hash = sri(&fetched.sha256);
    if let Some(wanted) = &arguments.nar_hash
        && *wanted != fetched.sha256
    {
        let message = format!(
            "NAR hash mismatch in input '{shown}', expected '{}' but got '{nar_hash}'",
            sri(wanted)
        );
        return Err(Error::new(ErrorKind::Build, message));
    }
    let Some(git) = &fetched.git else {
        return Err(other("the fetcher says nothing of the commit"));
    };
    for (field, wanted, got) in [
        (
            "lastModified",
            arguments.last_modified,
            Some(git.last_modified),
        ),
        (
            "revCount",
            arguments.rev_count,
            git.rev_count.map(|count| count as i64),
        ),
    ] {
        if let Some(wanted) = wanted
            && got != Some(wanted)
        {
            let got = got.unwrap_or(-1);
            let message = format!(
                "'{field}' attribute mismatch in input '{shown}', expected {wanted}, got {got}"
            );
            return Err(Error::new(ErrorKind::Build, message));
        }
    }
    let out_path = Value::String(interp.store_path_string(&path));
    let dirty = match git.rev.as_deref().filter(|_| git.dirty) {
        Some(head) => Some((format!("{head}-dirty"), format!("{}-dirty", short(head)))),
        None => arguments.dirty_rev.zip(arguments.dirty_short_rev),
    };
    Ok(result(interp, out_path, &nar_hash, submodules, git, dirty))
}

fn is_zero(rev: &str) -> bool {
    rev.bytes().all(|digit| digit == b'0')
}

/// The set that represents a tree.
fn result<'h>(
    interp: &Interp<'h>,
    out_path: Value<'h>,
    nar_hash: &str,
    submodules: bool,
    git: &GitTree,
    dirty: Option<(String, String)>,
) -> Value<'h> {
    let none = "0".repeat(40);
    // A tree with local changes has no commit, and reports zeroes as older versions did.
    let rev = git.rev.as_deref().filter(|_| !git.dirty).unwrap_or(&none);
    let rev_count = git.rev_count.unwrap_or(0);
    let mut attrs = vec![
        interp.attr("outPath", out_path),
        interp.attr("narHash", interp.text(nar_hash)),
        interp.attr("submodules", Value::Bool(submodules)),
        interp.attr("rev", interp.text(rev)),
        interp.attr("shortRev", interp.text(short(rev))),
        interp.attr("revCount", Value::Int(rev_count as i64)),
        interp.attr("lastModified", Value::Int(git.last_modified)),
        interp.attr("lastModifiedDate", interp.text(date(git.last_modified))),
    ];
    if let Some((rev, short_rev)) = dirty {
        attrs.push(interp.attr("dirtyRev", interp.text(rev)));
        attrs.push(interp.attr("dirtyShortRev", interp.text(short_rev)));
    }
    interp.attrs(attrs)
}

fn short(rev: &str) -> &str {
    rev.get(..7).unwrap_or(rev)
}

/// A time in UTC as `YYYYMMDDhhmmss`.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Eras of 400 years from the first of March of year 0 (Howard Hinnant, "chrono-compatible
    // low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "19700101000000");
        assert_eq!(date(951_827_696), "20000229123456");
        assert_eq!(date(-1), "19691231235959");
    }

    #[test]
    fn references() {
        for legal in ["main", "refs/tags/v1.0", "a/b-c", "HEAD"] {
            assert!(is_legal_reference(legal), "{legal}");
        }
        for illegal in [
            "", "-x", "a..b", "a b", "@", "a.lock", "a//b", "a~1", "a^{}", "/a", "a/",
        ] {
            assert!(!is_legal_reference(illegal), "{illegal}");
        }
    }
}
