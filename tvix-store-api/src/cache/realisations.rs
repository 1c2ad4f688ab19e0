//! Realisations in a cache: `realisations/<hash>!<output>.doi` of Nix up to 2.34, and
//! `build-trace-v2/<path>.drv/<output>.doi` since 2.35, both JSON.

use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};

use super::{BinaryCache, INFO_LIMIT, backend, key};
use crate::{BoxError, Store as _, StoreError};

const TYPE: &str = "application/json";

/// The forms in which realisations are written to a cache. Both forms are always read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RealisationForms {
    /// Both forms.
    #[default]
    Both,
    /// `realisations/`, for Nix up to 2.34.
    Hash,
    /// `build-trace-v2/`, for Nix since 2.35.
    Path,
}

impl RealisationForms {
    fn include(self, id: &DrvOutput) -> bool {
        match id.drv {
            DrvKey::HashModulo(_) => self != Self::Path,
            DrvKey::Path(_) => self != Self::Hash,
        }
    }
}

impl std::str::FromStr for RealisationForms {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "both" => Ok(Self::Both),
            "hash" => Ok(Self::Hash),
            "path" => Ok(Self::Path),
            _ => Err(format!("'{text}' is none of 'both', 'hash' and 'path'").into()),
        }
    }
}

impl BinaryCache {
    /// A question mark in the name of an output does not start a query.
    fn realisation_key(&self, id: &DrvOutput) -> String {
        let key = key::realisation(id);
        match self.uri().scheme() {
            "http" | "https" => key.replace('?', "%3F"),
            _ => key,
        }
    }

    /// The realisation of an output. It must be signed by a trusted key, because a realisation
    /// cannot be verified otherwise.
    pub(super) async fn read_realisation(
        &self,
        id: &DrvOutput,
    ) -> Result<Option<Realisation>, StoreError> {
        let options = &self.0.options;
        match self.any_realisation(id).await? {
            Some(found)
                if options.require_signatures && !found.is_signed_by(&options.trusted_keys) =>
            {
                Err(StoreError::UntrustedRealisation {
                    store: self.uri().clone(),
                    id: Box::new(id.clone()),
                })
            }
            found => Ok(found),
        }
    }

    /// The realisation of an output, signed or not.
    async fn any_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let failed = |error| backend(self.uri(), format!("query '{id}'"), error);
        let requests = &self.0.requests;
        let text = requests.small(&self.realisation_key(id), INFO_LIMIT).await;
        let Some(text) = text.map_err(failed)? else {
            return Ok(None);
        };
        let bad = |source: BoxError| StoreError::BadRealisation {
            store: self.uri().clone(),
            id: Box::new(id.clone()),
            source,
        };
        let value = serde_json::from_slice(&text).map_err(|error| bad(error.into()))?;
        let read = Realisation::from_cache_json(id, &value);
        Ok(Some(read.map_err(|error| bad(error.into()))?))
    }

    pub(super) async fn write_realisation(
        &self,
        realisation: &Realisation,
    ) -> Result<(), StoreError> {
        if self.trusted(&realisation.out_path).await?.is_none() {
            return Err(self.not_found(&realisation.out_path));
        }
        let options = &self.0.options;
        if !options.realisations.include(&realisation.id) {
            return Ok(());
        }
        let known = match self.read_realisation(&realisation.id).await {
            Ok(known) => known,
            // A valid realisation replaces it.
            Err(StoreError::BadRealisation { .. } | StoreError::UntrustedRealisation { .. }) => {
                None
            }
            Err(error) => return Err(error),
        };
        // An existing realisation stays. Signatures are merged if it has the same output path.
        let mut written = realisation.clone();
        if let Some(known) = &known {
            if known.out_path != realisation.out_path {
                return Ok(());
            }
            written = known.clone();
            for signature in &realisation.signatures {
                if !written.signatures.contains(signature) {
                    written.signatures.push(signature.clone());
                }
            }
        }
        for key in &options.signing_keys {
            written.sign(key);
        }
        if known.as_ref() == Some(&written) {
            return Ok(());
        }
        let text = written.to_cache_json().to_string();
        let key = self.realisation_key(&realisation.id);
        let failed = |error| backend(self.uri(), format!("write '{}'", realisation.id), error);
        let put = self.0.requests.put_small(&key, text.into(), TYPE);
        put.await.map_err(failed)
    }
}
