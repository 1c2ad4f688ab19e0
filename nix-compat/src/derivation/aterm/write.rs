//! Writing ATerm.

use std::borrow::Cow;

use crate::derivation::{Derivation, Output, OutputName};
use crate::nixhash::{HashEncoding, hex};
use crate::sorted::SortedSet;
use crate::store_path::{HASH_PART_LEN, StoreDir, StorePath};

/// Whether to blank out output paths and the environment variables that hold them. Hashes from
/// which these paths are computed need this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masked {
    Yes,
    No,
}

impl Derivation {
    /// The contents of the `.drv` file.
    pub fn to_aterm(&self, dir: &StoreDir) -> Vec<u8> {
        let paths: Vec<_> = self.output_paths(dir).map(|(_, path)| path).collect();
        write_aterm(self, dir, Masked::No, &paths, None)
    }
}

/// Serialises `derivation`, with the section of its input derivations replaced by `inputs` if given.
pub(crate) fn write_aterm(
    derivation: &Derivation,
    dir: &StoreDir,
    masked: Masked,
    paths: &[Option<StorePath>],
    inputs: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Writer::with_room(dir, estimate(derivation));
    outputs_section(&mut out, derivation, masked, paths);
    match inputs {
        Some(inputs) => out.raw(inputs),
        None => inputs_section(&mut out, derivation),
    }
    rest_section(&mut out, derivation, |out, variable| {
        if masked == Masked::Yes && variable.is_output {
            out.raw(b"\"\"");
        } else {
            out.string(variable.value);
        }
    });
    out.bytes
}

pub(super) fn outputs_section(
    out: &mut Writer<'_>,
    derivation: &Derivation,
    masked: Masked,
    paths: &[Option<StorePath>],
) {
    out.raw(b"Derive([");
    let outputs = derivation.outputs.iter().zip(paths);
    out.list(outputs, |out, ((name, output), path)| {
        out.raw(b"(");
        out.quoted(name.as_str().as_bytes());
        out.output(output, path.as_ref().filter(|_| masked == Masked::No));
        out.raw(b")");
    });
    out.raw(b"],[");
}

pub(super) fn inputs_section(out: &mut Writer<'_>, derivation: &Derivation) {
    out.list(derivation.input_drvs.iter(), |out, (path, outputs)| {
        out.raw(b"(");
        out.path(path);
        out.output_names(outputs);
    });
}

/// The section of inputs in which each derivation is replaced by its hash modulo fixed outputs. The
/// hashes are sorted and unique.
pub(super) fn hashes_section<'a>(
    out: &mut Writer<'_>,
    inputs: impl Iterator<Item = &'a InputHash<'a>>,
) {
    out.list(inputs, |out, (hash, outputs)| {
        out.raw(b"(");
        out.quoted(hex(hash).as_flattened());
        out.output_names(outputs);
    });
}

/// The hash modulo fixed outputs of an input derivation, and the outputs that are used of it.
pub(super) type InputHash<'a> = ([u8; 32], Cow<'a, SortedSet<OutputName>>);

/// An environment variable that is being serialised.
pub(super) struct Variable<'a> {
    /// Its index in the environment.
    pub(super) index: usize,
    pub(super) value: &'a [u8],
    /// Whether it has the name of an output.
    pub(super) is_output: bool,
}

/// Everything behind the inputs. `value` writes the values of environment variables.
pub(super) fn rest_section(
    out: &mut Writer<'_>,
    derivation: &Derivation,
    mut value: impl FnMut(&mut Writer<'_>, Variable<'_>),
) {
    out.raw(b"],[");
    out.list(derivation.input_srcs.iter(), |out, path| out.path(path));
    out.raw(b"],");
    out.quoted(&derivation.system);
    out.raw(b",");
    out.string(&derivation.builder);
    out.raw(b",[");
    out.list(derivation.args.iter(), |out, arg| out.string(arg));
    out.raw(b"],[");
    let variables = derivation.env.iter().enumerate();
    out.list(variables, |out, (index, (name, text))| {
        out.raw(b"(");
        out.string(name);
        out.raw(b",");
        let mut outputs = derivation.outputs.iter();
        let variable = Variable {
            index,
            value: text,
            is_output: outputs.any(|(output, _)| output.as_str().as_bytes() == &name[..]),
        };
        value(out, variable);
        out.raw(b")");
    });
    out.raw(b"])");
}

/// The number of bytes that are tested at a time.
const LANE: usize = 8;

/// The index of the first byte that is a quote, a backslash or a control character below `\x10`.
#[inline]
fn first_special(lane: &[u8; LANE]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*lane);
    // The lowest bit that is set is that of the first such byte; higher ones may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let found = word.wrapping_sub(ONES * 0x10) & !word & HIGHS
        | zeros(word ^ (ONES * u64::from(b'"')))
        | zeros(word ^ (ONES * u64::from(b'\\')));
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

pub(super) fn estimate(derivation: &Derivation) -> usize {
    let env: usize = derivation
        .env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 8)
        .sum();
    let args: usize = derivation.args.iter().map(|arg| arg.len() + 4).sum();
    let paths =
        derivation.outputs.len() + derivation.input_drvs.len() + derivation.input_srcs.len();
    env + args + derivation.builder.len() + 100 * paths + 64
}

pub(super) struct Writer<'a> {
    pub(super) bytes: Vec<u8>,
    dir: &'a StoreDir,
}

impl<'a> Writer<'a> {
    /// A writer with room for `bytes` bytes.
    pub(super) fn with_room(dir: &'a StoreDir, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            dir,
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn list<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.raw(b",");
            }
            write(self, item);
        }
    }

    /// A string without characters to escape.
    fn quoted(&mut self, text: &[u8]) {
        self.bytes.reserve(text.len() + 2);
        self.bytes.push(b'"');
        self.raw(text);
        self.bytes.push(b'"');
    }

    pub(super) fn string(&mut self, text: &[u8]) {
        self.bytes.reserve(text.len() + 2);
        self.bytes.push(b'"');
        let mut rest = text;
        while let Some((lane, behind)) = rest.split_first_chunk::<LANE>() {
            self.bytes.extend_from_slice(lane);
            let Some(at) = first_special(lane) else {
                rest = behind;
                continue;
            };
            self.bytes.truncate(self.bytes.len() - (LANE - at));
            self.character(lane[at]);
            rest = &rest[at + 1..];
        }
        for byte in rest {
            self.character(*byte);
        }
        self.bytes.push(b'"');
    }

    /// A byte of a string.
    #[inline]
    fn character(&mut self, byte: u8) {
        let letter = match byte {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            b'"' | b'\\' => byte,
            _ => return self.bytes.push(byte),
        };
        self.bytes.extend_from_slice(&[b'\\', letter]);
    }

    fn path(&mut self, path: &StorePath) {
        let (dir, name) = (self.dir.as_str(), path.name().as_str());
        self.bytes
            .reserve(dir.len() + HASH_PART_LEN + name.len() + 4);
        self.bytes.push(b'"');
        self.raw(dir.as_bytes());
        self.bytes.push(b'/');
        self.raw(&path.hash_part_bytes());
        self.bytes.push(b'-');
        self.raw(name.as_bytes());
        self.bytes.push(b'"');
    }

    fn output_names(&mut self, names: &SortedSet<OutputName>) {
        self.raw(b",[");
        self.list(names.iter(), |out, name| {
            out.quoted(name.as_str().as_bytes())
        });
        self.raw(b"])");
    }

    fn output(&mut self, output: &Output, path: Option<&StorePath>) {
        self.raw(b",");
        match path {
            Some(path) => self.path(path),
            None => self.raw(b"\"\""),
        }
        let (method_algo, hash) = match output {
            Output::InputAddressed(_) | Output::Deferred => return self.raw(b",\"\",\"\""),
            Output::Fixed(address) => (
                format!("{}{}", address.method.prefix(), address.hash.algo()),
                address.hash.encode(HashEncoding::Base16),
            ),
            Output::Floating { method, algo } => {
                (format!("{}{algo}", method.prefix()), String::new())
            }
            Output::Impure { method, algo } => {
                (format!("{}{algo}", method.prefix()), "impure".to_owned())
            }
        };
        self.raw(b",");
        self.quoted(method_algo.as_bytes());
        self.raw(b",");
        self.quoted(hash.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_escaped_at_every_place() {
        let dir = StoreDir::default();
        let escaped = |text: &[u8]| {
            let mut out = b"\"".to_vec();
            for byte in text {
                match byte {
                    b'\n' => out.extend(b"\\n"),
                    b'\r' => out.extend(b"\\r"),
                    b'\t' => out.extend(b"\\t"),
                    b'"' => out.extend(b"\\\""),
                    b'\\' => out.extend(b"\\\\"),
                    other => out.push(*other),
                }
            }
            out.push(b'"');
            out
        };
        for byte in 0..=0xff_u8 {
            for length in 0..20 {
                for other in [b'a', 0, 1, b'"', b'\n', 0x80, byte] {
                    let mut text = vec![other; length + 9];
                    text[length] = byte;
                    let mut out = Writer::with_room(&dir, 0);
                    out.string(&text);
                    assert_eq!(out.bytes, escaped(&text), "{text:?}");
                }
            }
        }
    }
}
