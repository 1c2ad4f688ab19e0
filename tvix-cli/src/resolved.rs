//! Derivations as they are built: with what their inputs have made in the place of the inputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::{DRV_SUFFIX, StorePath};
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store as _, StoreExt as _};

use crate::error::describe;

/// Reads the derivations of a store, and knows what those with floating outputs have made.
#[derive(Debug)]
pub struct Resolver<'s> {
    store: &'s LocalStore,
    read: HashMap<StorePath, Arc<Derivation>>,
    /// What derivations have made whose own files do not say so.
    made: HashMap<StorePath, Vec<(OutputName, StorePath)>>,
}

impl<'s> Resolver<'s> {
    pub fn new(store: &'s LocalStore) -> Self {
        Self {
            store,
            read: HashMap::new(),
            made: HashMap::new(),
        }
    }

    /// The derivation as a builder is to be given it, and what it needs of the store without what that
    /// refers to. As in a build, a derivation is resolved if its outputs or those of an input have no
    /// paths that are known before they are built.
    ///
    /// # Errors
    ///
    /// A message if something is not in the store, or has not been built.
    pub async fn resolve(
        &mut self,
        path: &StorePath,
    ) -> Result<(Arc<Derivation>, Vec<StorePath>), String> {
        // Chains of inputs may be long: a stack rather than recursion.
        let mut stack = vec![path.clone()];
        let mut below = HashSet::new();
        while let Some(top) = stack.last().cloned() {
            let derivation = self.read(&top).await?;
            let missing = self.unknown_inputs(&derivation).await?;
            if missing.is_empty() {
                stack.pop();
                below.remove(&top);
                if !stack.is_empty() {
                    let made = self.realised(&derivation).await?;
                    self.made.insert(top, made);
                }
                continue;
            }
            if !below.insert(top) {
                return Err("its inputs need each other".into());
            }
            stack.extend(missing);
        }
        let derivation = self.read(path).await?;
        let resolved = self.with_inputs(&derivation).await?;
        let mut inputs: Vec<StorePath> = resolved.input_srcs.iter().cloned().collect();
        for (input, outputs) in resolved.input_drvs.iter() {
            for output in outputs.iter() {
                inputs.extend(self.output(input, output));
            }
        }
        Ok((resolved, inputs))
    }

    /// Inputs of which nobody knows yet what they made.
    async fn unknown_inputs(&mut self, derivation: &Derivation) -> Result<Vec<StorePath>, String> {
        let mut unknown = Vec::new();
        for (path, _) in derivation.input_drvs.iter() {
            let input = self.read(path).await?;
            if self.is_floating(&input) && !self.made.contains_key(path) {
                unknown.push(path.clone());
            }
        }
        Ok(unknown)
    }

    /// Where the outputs of a derivation are whose inputs are all known.
    async fn realised(
        &mut self,
        derivation: &Arc<Derivation>,
    ) -> Result<Vec<(OutputName, StorePath)>, String> {
        let dir = self.store.store_dir();
        let resolved = self.with_inputs(derivation).await?;
        let mut made = Vec::new();
        for (output, known) in resolved.output_paths(dir) {
            let path = match known {
                Some(path) => path,
                None => {
                    let drv_path = resolved.path(dir).map_err(|error| describe(&error))?;
                    let keys = resolved.realisation_keys(dir, &drv_path);
                    let found = self.store.realisation_of(keys, output).await;
                    let found = found.map_err(|error| describe(&error))?;
                    let name = &derivation.name;
                    let missing =
                        || format!("output '{output}' of its input '{name}' has not been built");
                    found.ok_or_else(missing)?.out_path
                }
            };
            made.push((output.clone(), path));
        }
        Ok(made)
    }

    /// With what its inputs have made, all of which is known, if it takes that.
    async fn with_inputs(
        &mut self,
        derivation: &Arc<Derivation>,
    ) -> Result<Arc<Derivation>, String> {
        let mut floating = self.is_floating(derivation);
        for (path, _) in derivation.input_drvs.iter() {
            let input = self.read(path).await?;
            floating |= self.is_floating(&input);
        }
        if !floating || derivation.input_drvs.is_empty() {
            return Ok(derivation.clone());
        }
        let built = |path: &StorePath, output: &OutputName| self.output(path, output);
        let resolved = derivation.resolve(self.store.store_dir(), built);
        Ok(Arc::new(resolved.map_err(|error| describe(&error))?))
    }

    /// Where an output of a derivation is that has been read.
    fn output(&self, path: &StorePath, output: &OutputName) -> Option<StorePath> {
        if let Some(made) = self.made.get(path) {
            let found = made.iter().find(|(name, _)| name == output);
            return found.map(|(_, path)| path.clone());
        }
        let derivation = self.read.get(path)?;
        let mut outputs = derivation.output_paths(self.store.store_dir());
        outputs.find(|(name, _)| *name == output)?.1
    }

    /// Whether its own file leaves open where its outputs are.
    fn is_floating(&self, derivation: &Derivation) -> bool {
        let mut outputs = derivation.output_paths(self.store.store_dir());
        outputs.any(|(_, path)| path.is_none())
    }

    /// A derivation as its file in the store has it.
    pub async fn read(&mut self, path: &StorePath) -> Result<Arc<Derivation>, String> {
        if let Some(derivation) = self.read.get(path) {
            return Ok(derivation.clone());
        }
        let contents = tokio::fs::read(self.store.real_path(path)).await;
        let contents = contents.map_err(|error| format!("'{path}': {error}"))?;
        let name = path.name().as_str();
        let name = name.strip_suffix(DRV_SUFFIX).unwrap_or(name);
        let name = name.parse().map_err(|_| "its name is no name".to_owned())?;
        let derivation = Derivation::from_aterm(self.store.store_dir(), name, &contents);
        let derivation = Arc::new(derivation.map_err(|error| describe(&error))?);
        self.read.insert(path.clone(), derivation.clone());
        Ok(derivation)
    }
}
