//! Regular expressions, hashes, and conversions from and to other formats.

use std::rc::Rc;

use nix_compat::nixhash::{HashAlgo, HashEncoding, HashError, NixHash};

use super::{Def, def};
use crate::access::lossy;
use crate::error::{Error, ErrorKind, Result};
use crate::heap::HeapVec;
use crate::interp::Interp;
use crate::source::Pos;
use crate::text::regex::{Regex, RegexError};
use crate::text::toml::{self, TomlErrorKind, TomlValue};
use crate::value::{ContextId, NixString, Ref, Slot, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("convertHash", 1, convert_hash),
    def("fromTOML", 1, from_toml).strict(0b1),
    def("getEnv", 1, get_env),
    def("hashString", 2, hash_string).strict(0b11),
    def("match", 2, match_regex).strict(0b11),
    def("placeholder", 1, placeholder),
    def("split", 2, split).strict(0b11),
];

impl<'h> Interp<'h> {
    /// A regular expression, compiled once.
    fn regex(&self, pattern: &'h [u8]) -> Result<Rc<Regex>> {
        if let Some(known) = self.world.regexes.borrow().get(pattern) {
            return Ok(known.clone());
        }
        let regex = Regex::new(pattern).map_err(|error| regex_error(&error, pattern))?;
        let regex = Rc::new(regex);
        self.world
            .regexes
            .borrow_mut()
            .insert(pattern.into(), regex.clone());
        Ok(regex)
    }
}

/// The error of a match.
#[cold]
fn match_error(
    interp: &Interp<'_>,
    regex: &Regex,
    error: &RegexError,
    pattern: &[u8],
) -> Box<Error> {
    match error {
        RegexError::Complexity if regex.is_cramped() => interp.exhausted(),
        error => regex_error(error, pattern),
    }
}

#[cold]
fn regex_error(error: &RegexError, pattern: &[u8]) -> Box<Error> {
    let pattern = lossy(pattern);
    let message = match error {
        RegexError::Invalid { .. } => format!("invalid regular expression '{pattern}'"),
        _ => format!("memory limit exceeded by regular expression '{pattern}'"),
    };
    Error::new(ErrorKind::Other, message)
}

fn groups<'h>(
    interp: &Interp<'h>,
    text: &'h [u8],
    groups: &[Option<std::ops::Range<usize>>],
) -> Value<'h> {
    interp.list_of(groups.iter().map(|group| match group {
        Some(range) => interp.string_in_heap(&text[range.clone()], ContextId::EMPTY),
        None => Value::Null,
    }))
}

fn match_regex<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let pattern = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.match",
    )?;
    let regex = interp.regex(pattern.bytes)?;
    let text = interp.expect_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.match",
    )?;
    regex.set_room(interp.room_left());
    match regex.match_whole(text.bytes) {
        Ok(Some(found)) => Ok(groups(interp, text.bytes, &found)),
        Ok(None) => Ok(Value::Null),
        Err(error) => Err(match_error(interp, &regex, &error, pattern.bytes)),
    }
}

fn split<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let pattern = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.split",
    )?;
    let regex = interp.regex(pattern.bytes)?;
    let text = interp.expect_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.split",
    )?;
    let part =
        |range: std::ops::Range<usize>| interp.string_in_heap(&text.bytes[range], ContextId::EMPTY);
    let mut parts = HeapVec::with_capacity(interp.heap, 8);
    let mut end = 0;
    regex.set_room(interp.room_left());
    for found in regex.find_iter(text.bytes) {
        let found = found.map_err(|error| match_error(interp, &regex, &error, pattern.bytes))?;
        interp.make_room_for::<(Ref<'h>, Slot<'h>, NixString<'h>)>(parts.len())?;
        parts.push(interp.cell(part(end..found.range.start)));
        parts.push(interp.cell(groups(interp, text.bytes, &found.groups)));
        end = found.range.end;
    }
    if parts.is_empty() {
        // The text itself, with its context.
        return Ok(interp.list(&[args[1]]));
    }
    parts.push(interp.cell(part(end..text.bytes.len())));
    Ok(interp.list_in_heap(parts.into_slice()))
}

fn hash_string<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let algo = interp.hash_algo(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.hashString",
    )?;
    let text = interp.expect_string(
        args[1],
        pos,
        "while evaluating the second argument passed to builtins.hashString",
    )?;
    Ok(interp.text(NixHash::digest(algo, text.bytes).encode(HashEncoding::Base16)))
}

/// Parses a hash in any form. `algo` is the algorithm if the text names none.
pub(super) fn parse_hash(text: &str, algo: Option<HashAlgo>) -> Result<NixHash> {
    NixHash::parse_any(text, algo).map_err(|error| {
        let message = match &error {
            HashError::MissingAlgo(_) => format!(
                "hash '{text}' does not include a type, nor is the type otherwise known from context"
            ),
            HashError::AlgoMismatch { expected, .. } => {
                format!("hash '{text}' should have type '{expected}'")
            }
            HashError::WrongLength { text, algo } => {
                format!("hash '{text}' has wrong length for hash algorithm '{algo}'")
            }
            HashError::UnknownAlgo(algo) => format!(
                "unknown hash algorithm '{algo}', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'"
            ),
            other => other.to_string(),
        };
        Error::new(ErrorKind::Other, message)
    })
}

fn convert_hash<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let attrs = interp.expect_attrs(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.convertHash",
    )?;
    let field = |name: &str, context| {
        attrs.get(interp.intern(name)).ok_or_else(|| {
            interp
                .missing_attr(interp.intern(name), Pos::NONE)
                .within(pos, context)
        })
    };
    let hash = field("hash", "while locating the attribute 'hash'")?;
    let hash =
        interp.expect_plain_string(hash.value, pos, "while evaluating the attribute 'hash'")?;
    let algo = match attrs.get(interp.intern("hashAlgo")) {
        Some(algo) => {
            Some(interp.hash_algo(algo.value, pos, "while evaluating the attribute 'hashAlgo'")?)
        }
        None => None,
    };
    let format = field(
        "toHashFormat",
        "while locating the attribute 'toHashFormat'",
    )?;
    let format = interp.expect_plain_string(
        format.value,
        pos,
        "while evaluating the attribute 'toHashFormat'",
    )?;
    let encoding = match format.bytes {
        b"base16" => Some(HashEncoding::Base16),
        b"nix32" => Some(HashEncoding::Base32),
        b"base32" => {
            interp.warn("\"base32\" is a deprecated alias for hash format \"nix32\".");
            Some(HashEncoding::Base32)
        }
        b"base64" => Some(HashEncoding::Base64),
        b"sri" => None,
        other => {
            return Err(Error::new(
                ErrorKind::Other,
                format!(
                    "unknown hash format '{}', expect 'base16', 'base32', 'base64', or 'sri'",
                    lossy(other)
                ),
            ));
        }
    };
    let hash = parse_hash(&lossy(hash.bytes), algo)?;
    let text = match encoding {
        Some(encoding) => hash.encode(encoding),
        None => hash.to_string(),
    };
    Ok(interp.text(text))
}

fn placeholder<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let name = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.placeholder",
    )?;
    let text = format!("nix-output:{}", lossy(name.bytes));
    let hash = NixHash::digest(HashAlgo::Sha256, text);
    Ok(interp.text(format!("/{}", hash.encode(HashEncoding::Base32))))
}

fn get_env<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    use std::os::unix::ffi::OsStrExt;
    let name = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.getEnv",
    )?;
    let settings = &interp.world.settings;
    if settings.pure || settings.allowed_paths.is_some() {
        return Ok(interp.text(b""));
    }
    let value = std::env::var_os(std::ffi::OsStr::from_bytes(name.bytes)).unwrap_or_default();
    Ok(interp.text(value.as_bytes()))
}

fn from_toml<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the argument passed to builtins.fromTOML",
    )?;
    let depth = interp.levels_left(toml::STACK_PER_LEVEL);
    let (table, bytes) =
        toml::read_within(text.bytes, depth, interp.room_left()).map_err(|error| {
            match error.problem {
                TomlErrorKind::Memory => interp.exhausted(),
                _ => Error::new(ErrorKind::Other, format!("while parsing TOML: {error}")),
            }
        })?;
    let _tree = interp.count_beside(bytes);
    toml_value(interp, &TomlValue::Table(table), pos)
}

fn toml_value<'h>(interp: &Interp<'h>, value: &TomlValue, pos: Pos) -> Result<Value<'h>> {
    Ok(match value {
        TomlValue::String(text) => interp.text(text),
        TomlValue::Int(number) => Value::Int(*number),
        TomlValue::Float(number) => Value::Float(*number),
        TomlValue::Bool(value) => Value::Bool(*value),
        TomlValue::Array(items) => {
            let items = items.iter().map(|item| toml_value(interp, item, pos));
            interp.list_of(items.collect::<Result<Vec<_>>>()?)
        }
        TomlValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| Ok(interp.attr(key, toml_value(interp, value, pos)?)));
            interp.attrs(entries.collect::<Result<Vec<_>>>()?)
        }
        TomlValue::DateTime(_) => {
            return Err(Error::new(
                ErrorKind::Other,
                "while parsing TOML: Dates and times are not supported",
            )
            .at(pos));
        }
    })
}
