//! Derivations in the store, and their outputs.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use nix_compat::derivation::{Derivation, HashModulo, Output, OutputName};
use nix_compat::nar::{Event, Parser};
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use tvix_worker_protocol::DerivationOutputMap;

use super::Operations;
use crate::failure::Failure;

/// Maximum size of a `.drv` file, in bytes.
pub(super) const LARGEST: u64 = 64 << 20;

impl Operations {
    /// The outputs of a derivation, with their paths as far as they are known.
    pub(super) async fn derivation_outputs(
        &mut self,
        path: &StorePath,
    ) -> Result<DerivationOutputMap, Failure> {
        let dir = self.context.store_dir().clone();
        let derivation = self.derivation(path).await?;
        let mut outputs = DerivationOutputMap::new();
        for (name, output) in derivation.outputs.iter() {
            let known = output.path(&dir, &derivation.name, name);
            outputs.insert(name.clone(), known);
        }
        let is_floating = |(_, output): (&OutputName, &Output)| {
            matches!(output, Output::Floating { .. } | Output::Deferred)
        };
        if derivation.outputs.iter().any(is_floating) {
            let hash = self.masked_hash(path).await?;
            let store = self.store().await?;
            for (name, found) in &mut outputs {
                for key in [
                    DrvOutput::by_path(path.clone(), name.clone()),
                    DrvOutput::by_hash(hash, name.clone()),
                ] {
                    if found.is_none() {
                        let realisation = store.realisation(&key).await;
                        let realisation = realisation.map_err(|error| self.failed(&error))?;
                        *found = realisation.map(|it| it.out_path);
                    }
                }
            }
        }
        Ok(outputs)
    }

    /// Reads a derivation.
    pub(super) async fn derivation(&mut self, path: &StorePath) -> Result<Derivation, Failure> {
        let dir = self.context.store_dir().clone();
        let info = self.valid_info(path).await?;
        let failed = |reason: String| {
            let path = dir.display(path);
            Failure::refused(format!("error parsing derivation '{path}': {reason}"))
        };
        if !path.is_derivation() {
            return Err(failed("it is not a derivation".to_owned()));
        }
        if info.nar_size > LARGEST {
            return Err(failed(format!("it is larger than {LARGEST} bytes")));
        }
        let nar = self.store().await?.nar(path).await;
        let nar = nar.map_err(|error| self.failed(&error))?;
        let nar: Vec<_> = nar
            .try_collect()
            .await
            .map_err(|error| self.failed(&error))?;
        let contents = file(&nar.concat()).ok_or_else(|| failed("it is no file".to_owned()))?;
        let name = path.name().as_str().trim_end_matches(".drv").parse();
        let name =
            name.map_err(|error: nix_compat::store_path::NameError| failed(error.to_string()))?;
        let parsed = Derivation::from_aterm(&dir, name, &contents);
        parsed.map_err(|error| failed(error.to_string()))
    }

    /// Checks the size of a derivation that is to be added.
    pub(super) fn check_size(&self, path: &StorePath, size: u64) -> Result<(), Failure> {
        match size > LARGEST {
            true => Err(Failure::refused(format!(
                "derivation '{}' is larger than {LARGEST} bytes",
                self.context.store_dir().display(path)
            ))),
            false => Ok(()),
        }
    }

    /// The hash that identifies the realisations of a derivation; its inputs are read from the store.
    async fn masked_hash(&mut self, path: &StorePath) -> Result<[u8; 32], Failure> {
        let dir = self.context.store_dir().clone();
        let mut hashes: HashMap<StorePath, HashModulo> = HashMap::new();
        let mut todo = vec![(path.clone(), None::<Derivation>)];
        // Inputs first. Not recursive, as chains may be long.
        while let Some((drv, read)) = todo.pop() {
            if hashes.contains_key(&drv) {
                continue;
            }
            let derivation = match read {
                Some(derivation) => derivation,
                None => self.derivation(&drv).await?,
            };
            let missing: Vec<_> = derivation
                .input_drvs
                .iter()
                .map(|(input, _)| input.clone())
                .filter(|input| !hashes.contains_key(input))
                .collect();
            if !missing.is_empty() {
                todo.push((drv, Some(derivation)));
                todo.extend(missing.into_iter().map(|input| (input, None)));
                continue;
            }
            let input = |input: &StorePath| hashes.get(input).copied();
            let hash = match drv == *path {
                true => derivation.masked_hash_modulo(&dir, input),
                false => derivation.hash_modulo(&dir, input),
            };
            let hash = hash.map_err(|error| Failure::refused(error.to_string()))?;
            hashes.insert(drv, hash);
        }
        Ok(hashes[path].hash)
    }
}

/// The contents of the single file in a NAR.
fn file(nar: &[u8]) -> Option<Vec<u8>> {
    let mut parser = Parser::new();
    let (mut rest, mut contents) = (nar, None);
    while !rest.is_empty() {
        let step = parser.feed(rest).ok()?;
        rest = &rest[step.consumed..];
        match step.event {
            Some(Event::RegularStart { .. }) => contents = Some(Vec::new()),
            Some(Event::Contents(bytes)) => contents.as_mut()?.extend_from_slice(bytes),
            Some(Event::DirectoryStart) => return None,
            Some(_) => {}
            None => break,
        }
    }
    contents
}
