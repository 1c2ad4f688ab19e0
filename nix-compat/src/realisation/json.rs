//! The JSON of realisations, in both forms, and their fingerprints.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;

use super::{DrvKey, DrvOutput, DrvOutputError, Realisation, derivation_path};
use crate::derivation::OutputName;
use crate::signature::{Signature, SignatureError};
use crate::store_path::StorePath;

/// Why a JSON value is not a realisation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RealisationJsonError {
    /// The JSON value has another structure.
    #[error("not a realisation")]
    Structure(#[from] serde_json::Error),
    /// The realisation is for another output than the expected one.
    #[error("it is about '{actual}', not '{expected}'")]
    KeyMismatch {
        /// The expected output.
        expected: DrvOutput,
        /// The output in the JSON value.
        actual: DrvOutput,
    },
    /// An `id`, of the realisation or of a dependent one, is not a hash modulo.
    #[error("'{0}' is not a hash with an output")]
    InvalidId(DrvOutput),
    /// An invalid key.
    #[error(transparent)]
    Key(#[from] DrvOutputError),
}

/// The form of Nix up to 2.34. Fields are in the order in which Nix writes them: by name.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flat {
    #[serde(default)]
    dependent_realisations: BTreeMap<DrvOutput, StorePath>,
    id: DrvOutput,
    out_path: StorePath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signatures: Option<Vec<TextOrObject>>,
}

/// The form of Nix since 2.35.
#[derive(Serialize, Deserialize)]
struct Keyed {
    key: Key,
    value: Unkeyed,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    drv_path: StorePath,
    output_name: OutputName,
}

/// The value alone, the form in caches.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Unkeyed {
    out_path: StorePath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signatures: Option<Vec<TextOrObject>>,
}

/// A signature as text, or as an object since 2.35. Nix reads both in either form.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextOrObject {
    Text(Signature),
    #[serde(rename_all = "camelCase")]
    Object {
        key_name: String,
        sig: String,
    },
}

impl TextOrObject {
    fn object(signature: &Signature) -> Self {
        let name = signature.name();
        Self::Object {
            key_name: name.to_owned(),
            sig: signature.as_str()[name.len() + 1..].to_owned(),
        }
    }

    fn read(self) -> Result<Signature, SignatureError> {
        match self {
            Self::Text(signature) => Ok(signature),
            Self::Object { key_name, sig } => format!("{key_name}:{sig}").parse(),
        }
    }
}

fn read_all(signatures: Option<Vec<TextOrObject>>) -> Result<Vec<Signature>, serde_json::Error> {
    let signatures = signatures.unwrap_or_default().into_iter();
    let read = signatures.map(|it| it.read().map_err(serde_json::Error::custom));
    read.collect()
}

impl Realisation {
    /// The text that is signed: compact JSON without signatures.
    pub fn fingerprint(&self) -> String {
        let text = match self.keyed(None) {
            Some(keyed) => serde_json::to_string(&keyed),
            None => serde_json::to_string(&self.flat(None)),
        };
        // Strings under string keys cannot fail to serialise.
        text.unwrap_or_default()
    }

    /// The JSON of the form that the key belongs to: `{"id": …}`, or `{"key": …, "value": …}`.
    pub fn to_nix_json(&self) -> Value {
        let json = match self.keyed(self.objects()) {
            Some(keyed) => serde_json::to_value(keyed),
            None => {
                let texts = self.signatures.iter().cloned().map(TextOrObject::Text);
                serde_json::to_value(self.flat(Some(texts.collect())))
            }
        };
        json.unwrap_or_default()
    }

    /// The JSON in a cache, where the file name identifies the output: the complete realisation for
    /// Nix up to 2.34, the value alone since 2.35.
    pub fn to_cache_json(&self) -> Value {
        match self.keyed(self.objects()) {
            Some(keyed) => serde_json::to_value(keyed.value).unwrap_or_default(),
            None => self.to_nix_json(),
        }
    }

    /// Parses either form. Signatures are parsed, not verified.
    ///
    /// # Errors
    ///
    /// The variants of [`RealisationJsonError`] except
    /// [`KeyMismatch`](RealisationJsonError::KeyMismatch).
    pub fn from_nix_json(value: &Value) -> Result<Self, RealisationJsonError> {
        if value.get("key").is_none() {
            return Flat::deserialize(value)?.read();
        }
        let Keyed { key, value } = Keyed::deserialize(value)?;
        let path = derivation_path(key.drv_path)?;
        value.read(DrvOutput::by_path(path, key.output_name))
    }

    /// Parses the JSON of the output `id` in a cache, with or without its key.
    ///
    /// # Errors
    ///
    /// All variants of [`RealisationJsonError`].
    pub fn from_cache_json(id: &DrvOutput, value: &Value) -> Result<Self, RealisationJsonError> {
        let keyless = value.get("key").is_none() && value.get("id").is_none();
        if keyless && matches!(id.drv, DrvKey::Path(_)) {
            return Unkeyed::deserialize(value)?.read(id.clone());
        }
        let realisation = Self::from_nix_json(value)?;
        match realisation.id == *id {
            true => Ok(realisation),
            false => Err(RealisationJsonError::KeyMismatch {
                expected: id.clone(),
                actual: realisation.id,
            }),
        }
    }

    fn objects(&self) -> Option<Vec<TextOrObject>> {
        Some(self.signatures.iter().map(TextOrObject::object).collect())
    }

    fn keyed(&self, signatures: Option<Vec<TextOrObject>>) -> Option<Keyed> {
        let DrvKey::Path(drv_path) = &self.id.drv else {
            return None;
        };
        Some(Keyed {
            key: Key {
                drv_path: drv_path.clone(),
                output_name: self.id.output.clone(),
            },
            value: Unkeyed {
                out_path: self.out_path.clone(),
                signatures,
            },
        })
    }

    fn flat(&self, signatures: Option<Vec<TextOrObject>>) -> Flat {
        Flat {
            dependent_realisations: self.dependent_realisations.clone(),
            id: self.id.clone(),
            out_path: self.out_path.clone(),
            signatures,
        }
    }
}

impl Flat {
    fn read(self) -> Result<Realisation, RealisationJsonError> {
        for id in self.dependent_realisations.keys().chain([&self.id]) {
            if !matches!(id.drv, DrvKey::HashModulo(_)) {
                return Err(RealisationJsonError::InvalidId(id.clone()));
            }
        }
        Ok(Realisation {
            id: self.id,
            out_path: self.out_path,
            signatures: read_all(self.signatures)?,
            dependent_realisations: self.dependent_realisations,
        })
    }
}

impl Unkeyed {
    fn read(self, id: DrvOutput) -> Result<Realisation, RealisationJsonError> {
        Ok(Realisation {
            signatures: read_all(self.signatures)?,
            ..Realisation::new(id, self.out_path)
        })
    }
}

impl Serialize for Realisation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_nix_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Realisation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_nix_json(&value).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signature::SigningKey;

    const DRV: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv";
    const OUT: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";

    fn by_path() -> Realisation {
        let id = DrvOutput::by_path(DRV.parse().unwrap(), "foo".parse().unwrap());
        Realisation::new(id, OUT.parse().unwrap())
    }

    fn by_hash() -> Realisation {
        let id = DrvOutput::by_hash([0xba; 32], "foo".parse().unwrap());
        Realisation::new(id, OUT.parse().unwrap())
    }

    #[test]
    fn signed_text() {
        assert_eq!(
            by_path().fingerprint(),
            format!(
                r#"{{"key":{{"drvPath":"{DRV}","outputName":"foo"}},"value":{{"outPath":"{OUT}"}}}}"#
            )
        );
        let hash = "ba".repeat(32);
        assert_eq!(
            by_hash().fingerprint(),
            format!(
                r#"{{"dependentRealisations":{{}},"id":"sha256:{hash}!foo","outPath":"{OUT}"}}"#
            )
        );
        let key = SigningKey::from_seed("k", &[1; 32]).unwrap();
        for mut realisation in [by_path(), by_hash()] {
            assert!(!realisation.is_signed_by(&[key.verifying_key()]));
            realisation.sign(&key);
            realisation.sign(&key);
            assert_eq!(realisation.signatures.len(), 1);
            assert!(realisation.is_signed_by(&[key.verifying_key()]));
            // A signature is valid for one form only.
            let mut other = by_hash();
            if realisation.id == other.id {
                other = by_path();
            }
            other.signatures = realisation.signatures.clone();
            assert!(!other.is_signed_by(&[key.verifying_key()]));
        }
    }

    #[test]
    fn both_forms_round_trip() {
        let key = SigningKey::from_seed("k", &[1; 32]).unwrap();
        let mut dependent = by_hash();
        let id = DrvOutput::by_hash([1; 32], OutputName::out());
        dependent
            .dependent_realisations
            .insert(id, OUT.parse().unwrap());
        for mut realisation in [by_path(), by_hash(), dependent] {
            realisation.sign(&key);
            let json = serde_json::to_string(&realisation).unwrap();
            let read: Realisation = serde_json::from_str(&json).unwrap();
            assert_eq!(read, realisation);
            let json = realisation.to_cache_json();
            let read = Realisation::from_cache_json(&realisation.id, &json).unwrap();
            assert_eq!(read, realisation);
            // The form with the key is accepted too.
            let json = realisation.to_nix_json();
            let read = Realisation::from_cache_json(&realisation.id, &json).unwrap();
            assert_eq!(read, realisation);
        }
        let json = by_path().to_cache_json();
        assert_eq!(json, json!({ "outPath": OUT, "signatures": [] }));
    }

    #[test]
    fn signatures_of_either_shape() {
        let object = json!({
            "outPath": OUT, "signatures": [{ "keyName": "asdf", "sig": "AAAA" }, "b:CCCC"]
        });
        let read = Realisation::from_cache_json(&by_path().id, &object).unwrap();
        let texts: Vec<_> = read.signatures.iter().map(Signature::as_str).collect();
        assert_eq!(texts, ["asdf:AAAA", "b:CCCC"]);
        let json = read.to_cache_json();
        let expected = json!({ "keyName": "asdf", "sig": "AAAA" });
        assert_eq!(json["signatures"][0], expected);
    }

    #[test]
    fn invalid_realisations_are_rejected() {
        let (path, hash) = (by_path(), by_hash());
        let key = |drv: &str| json!({ "drvPath": drv, "outputName": "foo" });
        let value = json!({ "outPath": OUT });
        for (asked, json) in [
            (&path, json!([])),
            (&path, json!("text")),
            (&path, json!({})),
            (&path, json!({ "outPath": "../x" })),
            (&path, json!({ "outPath": OUT, "signatures": [1] })),
            (
                &path,
                json!({ "outPath": OUT, "signatures": [{ "keyName": "a b", "sig": "A" }] }),
            ),
            (&path, json!({ "key": key(OUT), "value": value })),
            (
                &path,
                json!({ "key": key(&format!("0{}", &DRV[1..])), "value": value }),
            ),
            (
                &path,
                json!({ "key": { "drvPath": DRV, "outputName": "out" }, "value": value }),
            ),
            (&path, hash.to_nix_json()),
            (&path, json!({ "id": format!("{DRV}^foo"), "outPath": OUT })),
            (&hash, json!({ "outPath": OUT })),
            (&hash, path.to_nix_json()),
            (&hash, json!({ "id": "sha256:00!foo", "outPath": OUT })),
            (
                &hash,
                json!({ "id": hash.id.to_string(), "outPath": OUT,
                "dependentRealisations": [] }),
            ),
            (
                &hash,
                json!({ "id": hash.id.to_string(), "outPath": OUT,
                "dependentRealisations": { "x": OUT } }),
            ),
            (
                &hash,
                json!({ "id": hash.id.to_string(), "outPath": OUT,
                "dependentRealisations": { (format!("{DRV}^foo")): OUT } }),
            ),
        ] {
            let read = Realisation::from_cache_json(&asked.id, &json);
            assert!(read.is_err(), "{json}: {read:?}");
        }
    }
}
