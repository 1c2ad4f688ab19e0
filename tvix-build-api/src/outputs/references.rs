//! What outputs may refer to: `allowedReferences` and its kin.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bstr::ByteSlice as _;
use nix_compat::derivation::Derivation;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};

use super::{PlannedOutput, placeholder_rewrites};
use crate::FailureKind;

/// The four attributes that say what every output of a derivation may refer to.
#[derive(Debug, Default)]
pub(crate) struct ReferenceRules {
    allowed: Option<HashSet<StorePath>>,
    disallowed: Option<HashSet<StorePath>>,
    allowed_closure: Option<HashSet<StorePath>>,
    disallowed_closure: Option<HashSet<StorePath>>,
}

impl ReferenceRules {
    /// Reads the attributes. They name store paths and the derivation's own outputs.
    ///
    /// # Errors
    ///
    /// [`FailureKind::InvalidDerivation`] for a word that is neither.
    pub fn of(
        dir: &StoreDir,
        derivation: &Derivation,
        outputs: &[PlannedOutput],
    ) -> Result<Self, FailureKind> {
        let read = |attribute: &str| -> Result<Option<HashSet<StorePath>>, FailureKind> {
            let Some(value) = derivation.env_var(attribute) else {
                return Ok(None);
            };
            let placeholders = placeholder_rewrites(dir, outputs);
            let words = value.fields();
            let paths = words.map(|word| {
                let own = outputs
                    .iter()
                    .zip(&placeholders)
                    .find(|(output, (own, _))| {
                        output.name.as_str().as_bytes() == word || own.as_bytes() == word
                    });
                if let Some((output, _)) = own {
                    return Ok(output.path.clone());
                }
                dir.parse(word).map_err(|_| FailureKind::InvalidDerivation {
                    message: format!(
                        "'{}' in the attribute '{attribute}' is neither a store path nor an output",
                        word.as_bstr()
                    ),
                })
            });
            paths.collect::<Result<_, _>>().map(Some)
        };
        Ok(Self {
            allowed: read("allowedReferences")?,
            disallowed: read("disallowedReferences")?,
            allowed_closure: read("allowedRequisites")?,
            disallowed_closure: read("disallowedRequisites")?,
        })
    }

    /// Checks all outputs, given what each refers to, by the paths at which they were made.
    ///
    /// # Errors
    ///
    /// [`FailureKind::ForbiddenReference`] with the first reference that breaks a rule.
    pub fn check(
        &self,
        outputs: &[(PlannedOutput, SortedSet<StorePath>)],
        inputs: &[Arc<PathInfo>],
    ) -> Result<(), FailureKind> {
        let none = |rule: &Option<_>| rule.is_none();
        let no_closure = none(&self.allowed_closure) && none(&self.disallowed_closure);
        if no_closure && none(&self.allowed) && none(&self.disallowed) {
            return Ok(());
        }
        let mut references: HashMap<&StorePath, &SortedSet<StorePath>> = HashMap::new();
        if !no_closure {
            references.extend(inputs.iter().map(|info| (&info.path, &info.references)));
            references.extend(outputs.iter().map(|(output, refs)| (&output.path, refs)));
        }
        for (output, direct) in outputs {
            let breaks = |path: &StorePath,
                          allowed: &Option<HashSet<StorePath>>,
                          disallowed: &Option<HashSet<StorePath>>| {
                allowed.as_ref().is_some_and(|set| !set.contains(path))
                    || disallowed.as_ref().is_some_and(|set| set.contains(path))
            };
            let mut used = direct.iter();
            let direct_break = used.find(|path| breaks(path, &self.allowed, &self.disallowed));
            let broken = direct_break.cloned().or_else(|| {
                if no_closure {
                    return None;
                }
                // A reference to itself is no business of these two.
                let closure = closure(&output.path, &references);
                let mut others = closure.into_iter().filter(|path| **path != output.path);
                others
                    .find(|path| breaks(path, &self.allowed_closure, &self.disallowed_closure))
                    .cloned()
            });
            if let Some(reference) = broken {
                return Err(FailureKind::ForbiddenReference {
                    output: output.name.clone(),
                    reference,
                });
            }
        }
        Ok(())
    }
}

/// What `root` refers to, directly or not, in an order that is always the same.
fn closure<'a>(
    root: &'a StorePath,
    references: &HashMap<&'a StorePath, &'a SortedSet<StorePath>>,
) -> Vec<&'a StorePath> {
    let mut seen = HashSet::from([root]);
    let mut found = vec![root];
    let mut next = 0;
    while let Some(path) = found.get(next) {
        next += 1;
        if let Some(references) = references.get(path) {
            found.extend(references.iter().filter(|path| seen.insert(path)));
        }
    }
    found
}
