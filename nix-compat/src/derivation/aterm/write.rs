//! Writing ATerm.

use bstr::BString;

use crate::derivation::{Derivation, Output, OutputName};
use crate::nixhash::{HashEncoding, sha256_of};
use crate::sorted::SortedSet;
use crate::store_path::{StoreDir, StorePath};

/// Whether to blank out output paths and the environment variables that hold them. Hashes from
/// which these paths are computed need this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masked {
    Yes,
    No,
}

/// Input derivations by their hash modulo fixed outputs, in base 16, sorted.
pub(crate) type InputHashes = std::collections::BTreeMap<String, SortedSet<OutputName>>;

impl Derivation {
    /// The contents of the `.drv` file.
    pub fn to_aterm(&self, dir: &StoreDir) -> Vec<u8> {
        let paths: Vec<_> = self.output_paths(dir).map(|(_, path)| path).collect();
        write_aterm(self, dir, Masked::No, &paths, None)
    }
}

/// Serialises `derivation`, with its input derivations replaced by `inputs` if given.
pub(crate) fn write_aterm(
    derivation: &Derivation,
    dir: &StoreDir,
    masked: Masked,
    paths: &[Option<StorePath>],
    inputs: Option<&InputHashes>,
) -> Vec<u8> {
    let mut out = Writer {
        bytes: Vec::with_capacity(estimate(derivation)),
        dir,
    };
    outputs_section(&mut out, derivation, masked, paths);
    match inputs {
        Some(inputs) => hashes_section(&mut out, inputs),
        None => inputs_section(&mut out, derivation),
    }
    rest_section(&mut out, derivation, masked);
    out.bytes
}

/// A derivation serialised in sections. Its `.drv` file and its hash modulo fixed outputs differ
/// only in the section of the inputs.
pub(crate) struct Sections<'a> {
    derivation: &'a Derivation,
    dir: &'a StoreDir,
    outputs: Vec<u8>,
    rest: Vec<u8>,
}

impl<'a> Sections<'a> {
    /// Serialises the sections; `paths` are the paths of the outputs.
    pub(crate) fn new(
        derivation: &'a Derivation,
        dir: &'a StoreDir,
        paths: &[Option<StorePath>],
    ) -> Self {
        let mut outputs = Writer::new(dir);
        outputs_section(&mut outputs, derivation, Masked::No, paths);
        let mut rest = Writer {
            bytes: Vec::with_capacity(estimate(derivation)),
            dir,
        };
        rest_section(&mut rest, derivation, Masked::No);
        Self {
            derivation,
            dir,
            outputs: outputs.bytes,
            rest: rest.bytes,
        }
    }

    /// The contents of the `.drv` file.
    pub(crate) fn aterm(&self) -> Vec<u8> {
        let mut inputs = Writer::new(self.dir);
        inputs_section(&mut inputs, self.derivation);
        [&self.outputs, &inputs.bytes, &self.rest]
            .map(Vec::as_slice)
            .concat()
    }

    /// The hash of the serialised derivation, with the input derivations replaced by `inputs`.
    pub(crate) fn hash_with(&self, inputs: &InputHashes) -> [u8; 32] {
        let mut hashes = Writer::new(self.dir);
        hashes_section(&mut hashes, inputs);
        sha256_of(&[&self.outputs, &hashes.bytes, &self.rest])
    }
}

fn outputs_section(
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

fn inputs_section(out: &mut Writer<'_>, derivation: &Derivation) {
    out.list(derivation.input_drvs.iter(), |out, (path, outputs)| {
        out.raw(b"(");
        out.path(path);
        out.output_names(outputs);
    });
}

fn hashes_section(out: &mut Writer<'_>, inputs: &InputHashes) {
    out.list(inputs.iter(), |out, (hash, outputs)| {
        out.raw(b"(");
        out.quoted(hash.as_bytes());
        out.output_names(outputs);
    });
}

fn rest_section(out: &mut Writer<'_>, derivation: &Derivation, masked: Masked) {
    out.raw(b"],[");
    out.list(derivation.input_srcs.iter(), |out, path| out.path(path));
    out.raw(b"],");
    out.quoted(&derivation.system);
    out.raw(b",");
    out.string(&derivation.builder);
    out.raw(b",[");
    out.list(derivation.args.iter(), |out, arg| out.string(arg));
    out.raw(b"],[");
    out.list(derivation.env.iter(), |out, (name, value)| {
        out.raw(b"(");
        out.string(name);
        out.raw(b",");
        if masked == Masked::Yes && names_output(derivation, name) {
            out.raw(b"\"\"");
        } else {
            out.string(value);
        }
        out.raw(b")");
    });
    out.raw(b"])");
}

fn names_output(derivation: &Derivation, name: &BString) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| derivation.outputs.contains_key(name))
}

/// The index of the first byte that must be escaped.
fn next_escaped(text: &[u8]) -> Option<usize> {
    /// Tests eight bytes at a time for bytes below `\x10`, quotes and backslashes.
    const LANE: usize = 8;
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let suspicious = |word: u64| {
        // The loop below removes false positives.
        word.wrapping_sub(ONES * 0x10) & !word & HIGHS
            | has_zero(word ^ (ONES * u64::from(b'"')))
            | has_zero(word ^ (ONES * u64::from(b'\\')))
    };
    let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
    let mut at = 0;
    while let Some(chunk) = text.get(at..at + LANE) {
        let word = u64::from_le_bytes(chunk.try_into().expect("a lane has eight bytes"));
        if suspicious(word) != 0
            && let Some(found) = chunk.iter().position(is_escaped)
        {
            return Some(at + found);
        }
        at += LANE;
    }
    let found = text[at..].iter().position(is_escaped)?;
    Some(at + found)
}

fn estimate(derivation: &Derivation) -> usize {
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

struct Writer<'a> {
    bytes: Vec<u8>,
    dir: &'a StoreDir,
}

impl<'a> Writer<'a> {
    fn new(dir: &'a StoreDir) -> Self {
        Self {
            bytes: Vec::new(),
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
        self.raw(b"\"");
        self.raw(text);
        self.raw(b"\"");
    }

    fn string(&mut self, text: &[u8]) {
        self.raw(b"\"");
        let mut rest = text;
        while let Some(position) = next_escaped(rest) {
            let byte = rest[position];
            self.raw(&rest[..position]);
            self.raw(match byte {
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                b'"' => b"\\\"",
                _ => b"\\\\",
            });
            rest = &rest[position + 1..];
        }
        self.raw(rest);
        self.raw(b"\"");
    }

    fn path(&mut self, path: &StorePath) {
        self.raw(b"\"");
        self.raw(self.dir.as_str().as_bytes());
        self.raw(b"/");
        self.raw(&path.hash_part_bytes());
        self.raw(b"-");
        self.raw(path.name().as_str().as_bytes());
        self.raw(b"\"");
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
