//! Store URIs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The URI of a store: `memory://name`, `local?root=/some/where`, `https://cache.example.org`.
///
/// Two handles on the same store have equal URIs. A builder decides by the URI alone whether it can
/// push to the store. Cheap to clone.
///
/// The forms are those of the Nix manual ("Store URL format"): a path with a slash stands for the
/// local store with that root, and `local` for the local store at `/`. A relative path, such as
/// `./store`, is made absolute when the text is parsed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreUri(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    scheme: String,
    /// The part after `://`; empty for `local` and `daemon`.
    location: String,
    parameters: BTreeMap<String, String>,
}

/// The reason that a text is not a store URI.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreUriError {
    /// Neither a scheme nor a path.
    #[error("'{0}' is not a store URI, expected a path with '/', 'local' or 'scheme://…'")]
    UnknownForm(String),
    /// A parameter without `=`.
    #[error("the parameter '{parameter}' of store '{uri}' has no value")]
    ParameterWithoutValue {
        /// The text.
        uri: String,
        /// The parameter.
        parameter: String,
    },
    /// A parameter that stores of this scheme do not have.
    #[error("unknown parameter '{parameter}' for a store of the kind '{scheme}'")]
    UnknownParameter {
        /// The scheme, such as `https`.
        scheme: String,
        /// The parameter.
        parameter: String,
    },
    /// An invalid percent escape.
    #[error("store '{uri}' holds an invalid percent escape")]
    InvalidEscape {
        /// The text.
        uri: String,
    },
}

impl StoreUri {
    /// The store with its files below `root`: `<root>/nix/store`, `<root>/nix/var/nix/db`.
    pub fn local(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref().to_string_lossy().into_owned();
        let parameters = match root.as_str() {
            "/" => BTreeMap::new(),
            _ => BTreeMap::from([("root".to_owned(), root)]),
        };
        Self(Arc::new(Parts {
            scheme: "local".to_owned(),
            location: String::new(),
            parameters,
        }))
    }

    /// A store in memory. The name distinguishes the stores of a process.
    pub fn memory(name: impl Into<String>) -> Self {
        let parts = Parts {
            scheme: "memory".to_owned(),
            location: name.into(),
            parameters: BTreeMap::new(),
        };
        Self(Arc::new(parts))
    }

    /// Sets a parameter.
    #[must_use]
    pub fn with_parameter(self, name: &str, value: impl Into<String>) -> Self {
        let mut parameters = self.0.parameters.clone();
        parameters.insert(name.to_owned(), value.into());
        Self(Arc::new(Parts {
            scheme: self.0.scheme.clone(),
            location: self.0.location.clone(),
            parameters,
        }))
    }

    /// The scheme: `local`, `memory`, `https`, …
    pub fn scheme(&self) -> &str {
        &self.0.scheme
    }

    /// The part after `://`, without parameters.
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.0.parameters.get(name).map(String::as_str)
    }

    /// The names and values of the parameters, sorted by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = self.0.parameters.iter();
        parameters.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The error for a parameter that stores of this scheme do not have.
    pub fn unknown_parameter(&self, parameter: &str) -> StoreUriError {
        StoreUriError::UnknownParameter {
            scheme: self.0.scheme.clone(),
            parameter: parameter.to_owned(),
        }
    }

    /// Rejects parameters that are not in `known`.
    ///
    /// # Errors
    ///
    /// [`StoreUriError::UnknownParameter`] for the first of them.
    pub fn expect_parameters(&self, known: &[&str]) -> Result<(), StoreUriError> {
        match self.parameters().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(self.unknown_parameter(name)),
            None => Ok(()),
        }
    }

    /// The URI without parameters and without a password, for messages.
    pub fn place(&self) -> String {
        let location = self.location();
        let (host, path) = match location.find('/') {
            Some(end) => location.split_at(end),
            None => (location, ""),
        };
        let host = host.rsplit('@').next().unwrap_or_default();
        match self.scheme() {
            "http" | "https" => format!("{}://{host}{path}", self.scheme()),
            "local" | "daemon" | "auto" => self.to_string(),
            scheme => format!("{scheme}://{location}"),
        }
    }

    /// The root of a local store.
    pub fn local_root(&self) -> Option<PathBuf> {
        (self.scheme() == "local").then(|| self.parameter("root").unwrap_or("/").into())
    }
}

impl FromStr for StoreUri {
    type Err = StoreUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // As C++ Nix reads it: `/some/where?parameter=value` has a parameter.
        if text.starts_with('/') && !text.contains('?') {
            return Ok(Self::local(text));
        }
        // A relative path, as C++ Nix distinguishes it from a URI.
        if text.contains('/') && !text.contains([':', '?']) {
            // Without a current directory nothing is known of it.
            let root = std::path::absolute(text)
                .map_err(|_| StoreUriError::UnknownForm(text.to_owned()))?;
            return Ok(Self::local(root));
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, location) = match base.split_once("://") {
            Some((scheme, location)) if !scheme.is_empty() => (scheme, location),
            None if matches!(base, "local" | "daemon" | "auto") => (base, ""),
            None if base.starts_with('/') => ("local", base),
            _ => return Err(StoreUriError::UnknownForm(text.to_owned())),
        };
        let mut parameters = BTreeMap::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) =
                parameter
                    .split_once('=')
                    .ok_or_else(|| StoreUriError::ParameterWithoutValue {
                        uri: text.to_owned(),
                        parameter: parameter.to_owned(),
                    })?;
            let value = unescape(value).ok_or_else(|| StoreUriError::InvalidEscape {
                uri: text.to_owned(),
            })?;
            parameters.insert(name.to_owned(), value);
        }
        if scheme == "local" && location.starts_with('/') {
            parameters
                .entry("root".to_owned())
                .or_insert_with(|| location.to_owned());
        }
        if scheme == "local" {
            if parameters.get("root").is_some_and(|root| root == "/") {
                parameters.remove("root");
            }
            let parts = Parts {
                scheme: scheme.to_owned(),
                location: String::new(),
                parameters,
            };
            return Ok(Self(Arc::new(parts)));
        }
        let (scheme, location) = (scheme.to_owned(), location.to_owned());
        Ok(Self(Arc::new(Parts {
            scheme,
            location,
            parameters,
        })))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.scheme)?;
        if self.0.scheme != "local" && self.0.scheme != "daemon" && self.0.scheme != "auto" {
            write!(f, "://{}", self.0.location)?;
        }
        for (index, (name, value)) in self.0.parameters.iter().enumerate() {
            write!(f, "{}{name}=", if index == 0 { '?' } else { '&' })?;
            for byte in value.bytes() {
                match byte {
                    b'%' | b'&' | b'?' | b'#' | b' ' | b'+' => write!(f, "%{byte:02X}")?,
                    byte if !byte.is_ascii() => write!(f, "%{byte:02X}")?,
                    byte => write!(f, "{}", byte as char)?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for StoreUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_the_local_store() {
        for text in [
            "/some/where",
            "local?root=/some/where",
            "local:///some/where",
            "/some/where?",
        ] {
            let uri: StoreUri = text.parse().unwrap();
            assert_eq!(uri, StoreUri::local("/some/where"), "{text}");
            assert_eq!(uri.local_root().unwrap(), Path::new("/some/where"));
            assert_eq!(uri.to_string(), "local?root=/some/where");
        }
        let here = std::env::current_dir().unwrap();
        for text in ["./some/where", "some/where"] {
            let uri: StoreUri = text.parse().unwrap();
            assert_eq!(uri, StoreUri::local(here.join("some/where")), "{text}");
        }
        for text in ["/", "local", "local?root=/"] {
            assert_eq!(
                text.parse::<StoreUri>().unwrap(),
                StoreUri::local("/"),
                "{text}"
            );
        }
    }

    #[test]
    fn parameters_and_places() {
        let uri: StoreUri = "https://me:secret@c.example.org/x?b=2&a=1".parse().unwrap();
        assert_eq!(
            uri.parameters().collect::<Vec<_>>(),
            [("a", "1"), ("b", "2")]
        );
        uri.expect_parameters(&["a", "b", "c"]).unwrap();
        let error = uri.expect_parameters(&["a"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown parameter 'b' for a store of the kind 'https'"
        );
        assert_eq!(uri.place(), "https://c.example.org/x");
        assert_eq!(StoreUri::local("/x").place(), "local?root=/x");
        let s3: StoreUri = "s3://bucket?region=x".parse().unwrap();
        assert_eq!(s3.place(), "s3://bucket");
    }

    #[test]
    fn others_and_errors() {
        let uri: StoreUri = "https://cache.example.org/x?priority=10&want=a%26b"
            .parse()
            .unwrap();
        assert_eq!(uri.location(), "cache.example.org/x");
        assert_eq!(uri.parameter("want"), Some("a&b"));
        assert_eq!(uri.to_string().parse::<StoreUri>().unwrap(), uri);
        assert_eq!(uri.local_root(), None);
        let odd = StoreUri::local("/a b/grün?&%");
        assert_eq!(odd.to_string().parse::<StoreUri>().unwrap(), odd);
        for bad in [
            "",
            "nonsense",
            ".",
            "a:b/c",
            "x/y?root=/z",
            "://x",
            "https://x?y",
            "https://x?y=%zz",
        ] {
            assert!(bad.parse::<StoreUri>().is_err(), "{bad}");
        }
    }
}
