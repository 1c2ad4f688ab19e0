//! The inputs of a derivation, computed from the context of its attributes.

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashSet;

use crate::error::Result;
use crate::interp::Interp;
use crate::value::{ContextElement, ContextId};

/// Sets the inputs of a derivation from a context.
pub(super) fn fill(
    interp: &Interp<'_>,
    derivation: &mut Derivation,
    context: ContextId,
) -> Result<()> {
    for element in interp.contexts.elements(context) {
        match &*element {
            ContextElement::Opaque(path) => {
                derivation.input_srcs.insert(path.clone());
            }
            ContextElement::Output { drv_path, output } => {
                interp.known_derivation(drv_path)?;
                add_outputs(derivation, drv_path.clone(), [output.clone()]);
            }
            ContextElement::Deep(path) => add_closure(interp, derivation, path.clone())?,
        }
    }
    Ok(())
}

fn add_outputs(
    derivation: &mut Derivation,
    path: StorePath,
    outputs: impl IntoIterator<Item = OutputName>,
) {
    match derivation.input_drvs.get_mut(&path) {
        Some(wanted) => {
            for output in outputs {
                wanted.insert(output);
            }
        }
        None => {
            let outputs: SortedSet<OutputName> = outputs.into_iter().collect();
            derivation.input_drvs.insert(path, outputs);
        }
    }
}

/// Adds the complete closure of a `.drv` file as inputs, including all outputs of its derivations.
fn add_closure(interp: &Interp<'_>, derivation: &mut Derivation, root: StorePath) -> Result<()> {
    let mut seen = FxHashSet::default();
    let mut queue = vec![root];
    while let Some(path) = queue.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        derivation.input_srcs.insert(path.clone());
        if !path.is_derivation() {
            let references = interp.references_of(&path)?.unwrap_or_default();
            queue.extend(references.iter().cloned());
            continue;
        }
        let known = interp.known_derivation(&path)?;
        queue.extend(known.derivation.references().iter().cloned());
        let outputs = known
            .derivation
            .outputs
            .iter()
            .map(|(name, _)| name.clone());
        add_outputs(derivation, path, outputs);
    }
    Ok(())
}
