//! Import from derivation: the context of a path is built before the path is read.

use std::os::unix::ffi::OsStrExt;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::{StorePath, StorePathName};
use tvix_eval_api::{RealiseError, WantedOutputs};

use crate::error::{Error, ErrorKind, Result};
use crate::host::Answer;
use crate::interp::Instantiated;
use crate::interp::Interp;
use crate::interp::cancelled;
use crate::paths;
use crate::value::{ContextElement, ContextId};

use super::io_error;

impl<'h> Interp<'h> {
    /// A canonical path, after its context was built.
    pub(crate) fn realised_path(&self, path: &[u8], mentions: ContextId) -> Result<Vec<u8>> {
        if mentions.is_empty() {
            return Ok(paths::canonical(path));
        }
        let rewritten = self.realise(mentions, path)?;
        Ok(paths::canonical(&rewritten))
    }

    /// Builds a context. Placeholders in `text` are replaced by the paths that were built.
    pub(crate) fn realise(&self, mentions: ContextId, text: &[u8]) -> Result<Vec<u8>> {
        let mut wanted: Vec<WantedOutputs> = Vec::new();
        for element in self.contexts.elements(mentions) {
            let ContextElement::Output { drv_path, output } = &*element else {
                continue;
            };
            if self.realised_output(drv_path, output).is_some() {
                continue;
            }
            // Outputs of a derivation follow each other.
            match wanted.last_mut() {
                Some(one) if one.drv_path == *drv_path => one.outputs.push(output.clone()),
                _ => wanted.push(WantedOutputs::new(drv_path.clone(), vec![output.clone()])),
            }
        }
        if !wanted.is_empty() {
            self.build(wanted)?;
        }
        let mut text = text.to_vec();
        for element in self.contexts.elements(mentions) {
            if let ContextElement::Output { drv_path, output } = &*element
                && let Ok(placeholder) =
                    nix_compat::derivation::upstream_placeholder(drv_path, output)
                && memchr::memmem::find(&text, placeholder.as_bytes()).is_some()
                && let Some(path) = self.realised_output(drv_path, output)
            {
                text = bstr::ByteSlice::replace(text.as_slice(), placeholder, path);
            }
        }
        Ok(text)
    }

    /// Builds outputs, and returns their store paths in the same order.
    pub(crate) fn realised_outputs(
        &self,
        drv_path: &StorePath,
        outputs: Vec<OutputName>,
    ) -> Result<Vec<(OutputName, String)>> {
        let missing = |output: &&OutputName| self.realised_output(drv_path, output).is_none();
        let missing: Vec<_> = outputs.iter().filter(missing).cloned().collect();
        if !missing.is_empty() {
            self.build(vec![WantedOutputs::new(drv_path.clone(), missing)])?;
        }
        let path = |output: OutputName| match self.realised_output(drv_path, &output) {
            Some(path) => Ok((output, path)),
            None => {
                let message = format!("output '{output}' of a derivation was not built");
                Err(Error::new(ErrorKind::Build, message))
            }
        };
        outputs.into_iter().map(path).collect()
    }

    fn realised_output(&self, drv_path: &StorePath, output: &OutputName) -> Option<String> {
        let key = (drv_path.clone(), output.clone());
        self.world.outputs.borrow().get(&key).cloned()
    }

    fn build(&self, wanted: Vec<WantedOutputs>) -> Result<()> {
        for one in &wanted {
            self.known_derivation(&one.drv_path)?;
        }
        if !self.world.settings.import_from_derivation {
            let drv = self
                .world
                .settings
                .store_dir
                .display(&wanted[0].drv_path)
                .to_string();
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "cannot build '{drv}' during evaluation because the option 'allow-import-from-derivation' is disabled"
                ),
            ));
        }
        let host = &self.world.host;
        match self.ahead() {
            None => host.realise(self.fiber.get(), wanted),
            Some(_) => host.realise_ahead(self.fiber.get(), wanted),
        }
        let Some(Answer::Realised(answer)) = self.fibers.wait_for_answer(self) else {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "nobody builds what the evaluation needs",
            ));
        };
        let built = answer.map_err(|error| build_error(&error))?;
        let dir = &self.world.settings.store_dir;
        for output in built {
            let mut references = self.world.references.borrow_mut();
            references.insert(output.store_path.clone(), output.references);
            drop(references);
            self.allow_built(&output.store_path, &output.drv_path)?;
            let path = dir.display(&output.store_path).to_string();
            if output.local_path.as_os_str() != path.as_str() {
                self.world
                    .realised
                    .borrow_mut()
                    .insert(path.clone(), output.local_path);
            }
            self.world
                .outputs
                .borrow_mut()
                .insert((output.drv_path, output.output), path);
        }
        Ok(())
    }

    /// The location at which to read a path. Store paths may be elsewhere on this file system.
    pub(crate) fn local(&self, path: &[u8]) -> Vec<u8> {
        let Some(object) = self.object_of(path) else {
            return path.to_vec();
        };
        let rest = &path[object.len()..];
        if let Ok(object) = std::str::from_utf8(object)
            && let Some(local) = self.world.realised.borrow().get(object)
        {
            return [local.as_os_str().as_bytes(), rest].concat();
        }
        if let Some(local) = self.world.copied_from.borrow().get(object) {
            return [local, rest].concat();
        }
        let settings = &self.world.settings;
        let Some(root) = &settings.store_root else {
            return path.to_vec();
        };
        let local = [root.as_os_str().as_bytes(), path].concat();
        // Outside pure mode, a path that is missing below the store's root may exist in this
        // machine's own store directory.
        let is_elsewhere = |at: &[u8]| matches!(self.world.files.kind(paths::to_os(at)), Ok(None));
        let end = local.len() - rest.len();
        match settings.pure || !is_elsewhere(&local[..end]) {
            true => local,
            false => path.to_vec(),
        }
    }

    /// The contents of a text or derivation that evaluation itself has made. It may not be in a
    /// store yet.
    pub(crate) fn made_contents(&self, path: &[u8]) -> Option<Vec<u8>> {
        let dir = &self.world.settings.store_dir;
        if !path.starts_with(dir.as_str().as_bytes()) {
            return None;
        }
        let path = dir.parse(path).ok()?;
        if let Some(text) = self.world.texts.borrow().get(&path) {
            return Some(text.to_vec());
        }
        let known = self.derivations.get(&path)?;
        Some(known.derivation.to_aterm(dir))
    }

    /// A derivation that was instantiated, or that is in the store.
    pub(crate) fn known_derivation(&self, path: &StorePath) -> Result<Instantiated> {
        if let Some(known) = self.derivations.get(path) {
            return Ok(known);
        }
        let dir = self.world.settings.store_dir.clone();
        let text = dir.display(path).to_string();
        let local = self.local(text.as_bytes());
        let contents = self
            .world
            .files
            .read(paths::to_os(&local))
            .map_err(|error| io_error("reading derivation", text.as_bytes(), &error))?;
        let invalid = |error: String| {
            Error::new(
                ErrorKind::Other,
                format!("error parsing derivation '{text}': {error}"),
            )
        };
        let name = path.name().as_str();
        let name = name.strip_suffix(".drv").unwrap_or(name).as_bytes();
        let name = StorePathName::from_bytes(name).map_err(|error| invalid(error.to_string()))?;
        let derivation = Derivation::from_aterm(&dir, name, &contents)
            .map_err(|error| invalid(error.to_string()))?;
        for (input, _) in derivation.input_drvs.iter() {
            self.nested(crate::source::Pos::NONE, || self.known_derivation(input))?;
        }
        // It would be built, and the paths it claims would become valid.
        derivation
            .check_output_paths(&dir, |input| self.derivations.modulo(input))
            .map_err(|error| invalid(error.to_string()))?;
        let modulo = derivation
            .hash_modulo(&dir, |input| self.derivations.modulo(input))
            .map_err(|error| invalid(error.to_string()))?;
        let known = Instantiated {
            derivation: std::sync::Arc::new(derivation),
            modulo,
        };
        self.derivations.insert(path.clone(), known.clone());
        // The builder must know each derivation to build, even one that evaluation has read from
        // the store.
        let inputs = |input: &StorePath| self.derivations.modulo(input);
        let modulo = known.derivation.realisation_hash(&dir, inputs);
        if !self.world.host.derivation(path, &known.derivation, modulo) {
            return Err(cancelled());
        }
        Ok(known)
    }
}

#[cold]
fn build_error(error: &RealiseError) -> Box<Error> {
    let mut message = error.to_string();
    if let RealiseError::Failed { log_tail, .. } = error
        && !log_tail.is_empty()
    {
        message.push_str(&format!("\nlast {} log lines:", log_tail.len()));
        for line in log_tail {
            message.push_str("\n> ");
            message.push_str(line);
        }
    }
    let mut made = Error::new(ErrorKind::Build, message);
    made.import = Some(Box::new(error.clone()));
    made
}
