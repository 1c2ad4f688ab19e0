//! Answers requests to realise derivations: the variables of a derivation say what its build does.

use std::collections::HashMap;
use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_eval_api::{Realise, RealiseError, RealisedOutput, WantedOutputs};

pub struct Builder {
    folder: tempfile::TempDir,
    derivations: HashMap<StorePath, Arc<Derivation>>,
    open: Vec<Realise>,
    /// Number of requests that were answered while others were open.
    pub side_by_side: usize,
}

impl Builder {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            derivations: HashMap::new(),
            open: Vec::new(),
            side_by_side: 0,
        }
    }

    pub fn knows(&mut self, path: StorePath, derivation: Arc<Derivation>) {
        self.derivations.insert(path, derivation);
    }

    pub fn add(&mut self, request: Realise) {
        self.open.push(request);
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Answers the request that came last.
    pub fn answer(&mut self) {
        let Some(request) = self.open.pop() else {
            return;
        };
        self.side_by_side += usize::from(!self.open.is_empty());
        let wanted = request.wanted.iter();
        let outputs: Result<Vec<_>, _> = wanted.map(|wanted| self.output(wanted)).collect();
        let reply = request.reply;
        match (outputs, request.ahead) {
            (Err(error), Some(ahead)) => {
                tokio::spawn(async move {
                    if ahead.await {
                        reply.answer(Err(error));
                    }
                });
            }
            (outputs, _) => reply.answer(outputs),
        }
    }

    fn output(&self, wanted: &WantedOutputs) -> Result<RealisedOutput, RealiseError> {
        let derivation = &self.derivations[&wanted.drv_path];
        let variable = |name: &str| {
            let mut variables = derivation.env.iter();
            let found = variables.find(|(key, _)| *key == name);
            found
                .map(|(_, value)| value.to_string())
                .unwrap_or_default()
        };
        if !variable("fail").is_empty() {
            return Err(RealiseError::Failed {
                drv_path: wanted.drv_path.clone(),
                message: "it fails on purpose".to_owned(),
                log_tail: vec!["a line".to_owned()],
            });
        }
        let name = &wanted.outputs[0];
        let path = derivation
            .output_path(&StoreDir::default(), name)
            .expect("the output has a path");
        let file = self.folder.path().join(path.to_string());
        // Evaluation may be reading what another request was answered with.
        if !file.exists() {
            std::fs::write(&file, variable("text")).unwrap();
        }
        Ok(RealisedOutput::new(
            wanted.drv_path.clone(),
            name.clone(),
            path,
            file,
        ))
    }
}
