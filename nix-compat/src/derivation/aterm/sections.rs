//! The sections of a serialised derivation, which several hashes share.
//!
//! The `.drv` file, the hash modulo fixed outputs, and that hash with blank output paths differ in
//! the sections of the outputs and inputs, and in the values of the environment variables that hold
//! output paths. All other text is serialised and escaped once.

use std::borrow::Cow;

use super::write::{
    InputHash, Masked, Writer, estimate, hashes_section, inputs_section, outputs_section,
    rest_section,
};
use crate::derivation::{Derivation, OutputName};
use crate::nixhash::sha256_of;
use crate::sorted::SortedSet;
use crate::store_path::{StoreDir, StorePath};

/// The section behind the inputs.
pub(crate) struct Rest {
    /// The text without the values of variables that have the name of an output.
    bytes: Vec<u8>,
    gaps: Vec<Gap>,
    /// Number of environment variables.
    variables: usize,
}

/// The place of the value of an environment variable that has the name of an output.
struct Gap {
    at: usize,
    /// Index of the variable.
    variable: usize,
}

/// The section of the inputs with their hashes modulo fixed outputs.
pub(crate) struct HashedInputs(Vec<u8>);

impl HashedInputs {
    /// The section for these inputs: hashes with the used outputs. Inputs with equal hashes are one.
    pub(crate) fn new<'a>(
        dir: &StoreDir,
        inputs: impl Iterator<Item = ([u8; 32], &'a SortedSet<OutputName>)>,
    ) -> Self {
        let inputs = inputs.map(|(hash, outputs)| (hash, Cow::Borrowed(outputs)));
        let mut inputs: Vec<InputHash<'_>> = inputs.collect();
        inputs.sort_by_key(|(hash, _)| *hash);
        inputs.dedup_by(|(hash, outputs), (kept, all)| {
            let equal = hash == kept;
            if equal {
                all.to_mut().extend(outputs.iter().cloned());
            }
            equal
        });
        let mut out = Writer::with_room(dir, inputs.len() * 80);
        hashes_section(&mut out, inputs.iter());
        Self(out.bytes)
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Rest {
    pub(crate) fn new(derivation: &Derivation, dir: &StoreDir) -> Self {
        let mut out = Writer::with_room(dir, estimate(derivation));
        let mut gaps = Vec::new();
        rest_section(&mut out, derivation, |out, variable| {
            if variable.is_output {
                let (at, variable) = (out.bytes.len(), variable.index);
                gaps.push(Gap { at, variable });
            } else {
                out.string(variable.value);
            }
        });
        Self {
            bytes: out.bytes,
            gaps,
            variables: derivation.env.len(),
        }
    }

    /// Whether `derivation` still has the variables that it had.
    pub(crate) fn is_of(&self, derivation: &Derivation) -> bool {
        self.variables == derivation.env.len()
    }

    /// The hash of the `.drv` file, whose outputs have these paths.
    pub(crate) fn file_hash(
        &self,
        derivation: &Derivation,
        dir: &StoreDir,
        paths: &[Option<StorePath>],
    ) -> [u8; 32] {
        let room = derivation.input_drvs.len() * 110;
        let mut inputs = Writer::with_room(dir, room);
        inputs_section(&mut inputs, derivation);
        self.hash(derivation, dir, Masked::No, paths, &inputs.bytes)
    }

    /// The hash modulo fixed outputs.
    pub(crate) fn modulo_hash(
        &self,
        derivation: &Derivation,
        dir: &StoreDir,
        masked: Masked,
        paths: &[Option<StorePath>],
        inputs: &HashedInputs,
    ) -> [u8; 32] {
        self.hash(derivation, dir, masked, paths, inputs.as_bytes())
    }

    fn hash(
        &self,
        derivation: &Derivation,
        dir: &StoreDir,
        masked: Masked,
        paths: &[Option<StorePath>],
        inputs: &[u8],
    ) -> [u8; 32] {
        let mut outputs = Writer::with_room(dir, derivation.outputs.len() * 110 + 16);
        outputs_section(&mut outputs, derivation, masked, paths);
        // All values one after the other, and the end of each.
        let mut values = Writer::with_room(dir, self.gaps.len() * 90);
        let ends: Vec<usize> = self
            .gaps
            .iter()
            .map(|gap| {
                let value = derivation.env.iter().nth(gap.variable);
                match value.filter(|_| masked == Masked::No) {
                    Some((_, value)) => values.string(value),
                    None => values.string(b""),
                }
                values.bytes.len()
            })
            .collect();
        let mut pieces = Vec::with_capacity(3 + 2 * self.gaps.len());
        pieces.extend([&outputs.bytes[..], inputs]);
        let (mut from, mut value) = (0, 0);
        for (gap, end) in self.gaps.iter().zip(ends) {
            pieces.extend([&self.bytes[from..gap.at], &values.bytes[value..end]]);
            (from, value) = (gap.at, end);
        }
        pieces.push(&self.bytes[from..]);
        sha256_of(&pieces)
    }
}
