//! Realisations in a cache, in Nix's form: `realisations/<id>.doi`, as JSON.

use std::collections::BTreeMap;

use nix_compat::realisation::{DrvOutput, Realisation};
use serde::Deserialize;
use serde_json::Value;

use super::{BinaryCache, INFO_LIMIT, backend, key};
use crate::{Store as _, StoreError};

const TYPE: &str = "application/json";

/// The fields that are signed, in the order in which Nix writes them: by name.
type Signed = BTreeMap<String, Value>;

#[derive(Deserialize)]
struct File {
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

impl BinaryCache {
    /// One that no trusted key has signed is not believed, as nothing else speaks for it.
    pub(super) async fn read_realisation(
        &self,
        id: &DrvOutput,
    ) -> Result<Option<Realisation>, StoreError> {
        let failed = |error| backend(self.uri(), format!("asking for '{id}'"), error);
        let text = self
            .0
            .requests
            .small(&key::realisation(id), INFO_LIMIT)
            .await;
        let Some(text) = text.map_err(failed)? else {
            return Ok(None);
        };
        // What makes no sense is nothing that is known.
        let Ok(realisation) = serde_json::from_slice::<Realisation>(&text) else {
            return Ok(None);
        };
        let Ok(File { fields }) = serde_json::from_slice(&text) else {
            return Ok(None);
        };
        let believed = realisation.id == *id && self.is_signed(&realisation, fields);
        Ok(believed.then_some(realisation))
    }

    fn is_signed(&self, realisation: &Realisation, mut fields: Signed) -> bool {
        if !self.0.options.require_signatures {
            return true;
        }
        fields.remove("signatures");
        let Ok(fingerprint) = serde_json::to_string(&fields) else {
            return false;
        };
        self.0.options.trusted_keys.iter().any(|key| {
            let mut signatures = realisation.signatures.iter();
            signatures.any(|signature| key.verify(&fingerprint, signature))
        })
    }

    pub(super) async fn write_realisation(
        &self,
        realisation: &Realisation,
    ) -> Result<(), StoreError> {
        if self.trusted(&realisation.out_path).await?.is_none() {
            return Err(self.not_found(&realisation.out_path));
        }
        if self.read_realisation(&realisation.id).await?.is_some() {
            return Ok(());
        }
        let bug = |error: serde_json::Error| StoreError::Bug {
            store: self.uri().clone(),
            message: format!("a realisation that is no JSON: {error}"),
        };
        let value = serde_json::to_value(realisation).map_err(bug)?;
        let mut fields: Signed = serde_json::from_value(value).map_err(bug)?;
        let mut signatures = fields
            .remove("signatures")
            .unwrap_or(Value::Array(Vec::new()));
        fields.insert(
            "dependentRealisations".to_owned(),
            Value::Object(Default::default()),
        );
        let fingerprint = serde_json::to_string(&fields).map_err(bug)?;
        if let Value::Array(signatures) = &mut signatures {
            let own = self.0.options.signing_keys.iter();
            let own = own.map(|key| Value::String(key.sign(&fingerprint).to_string()));
            signatures.extend(own);
        }
        fields.insert("signatures".to_owned(), signatures);
        let text = serde_json::to_string(&fields).map_err(bug)?;
        let key = key::realisation(&realisation.id);
        let failed = |error| backend(self.uri(), format!("writing '{}'", realisation.id), error);
        let put = self.0.requests.put_small(&key, text.into(), TYPE);
        put.await.map_err(failed)
    }
}
