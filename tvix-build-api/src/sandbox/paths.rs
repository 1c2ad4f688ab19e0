//! Paths of the host that are visible in every build.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use tvix_sandbox::{Access, Mount};

/// A file or directory of the host that is visible to builds, read-only. In text form,
/// `<inside>=<host>` as in Nix's `sandbox-paths`, or a single path that is the same on both sides.
/// A `?` at the end means that the path may be missing on the host.
///
/// ```
/// use tvix_build_api::sandbox::SandboxPath;
///
/// let shell: SandboxPath = "/bin/sh=/bin/busybox?".parse()?;
/// assert_eq!(shell, SandboxPath::new("/bin/busybox", "/bin/sh").optional());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPath {
    host: PathBuf,
    inside: PathBuf,
    optional: bool,
}

/// The reason that a text is not a [`SandboxPath`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a sandbox path: '{part}' is not absolute, or holds '..'")]
pub struct SandboxPathError {
    text: String,
    part: String,
}

impl SandboxPath {
    /// Shows the host's `host` at `inside`. Both must be absolute.
    pub fn new(host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        Self {
            host: host.into(),
            inside: inside.into(),
            optional: false,
        }
    }

    /// Allows the path to be missing on the host.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The paths needed to run the host's shell and C compiler: the existing directories among
    /// those that contain programs and libraries. Builds that see them depend on this host.
    pub fn host_toolchain() -> Vec<Self> {
        let all = [
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib32",
            "/lib64",
            "/libx32",
            "/etc/alternatives",
            "/etc/ld.so.cache",
        ];
        let existing = all.into_iter().filter(|path| Path::new(path).exists());
        existing.map(|path| Self::new(path, path)).collect()
    }

    pub(super) fn mount(&self) -> Mount {
        Mount::Bind {
            source: self.host.clone(),
            target: self.inside.clone(),
            access: Access::ReadOnly,
            optional: self.optional,
        }
    }
}

impl FromStr for SandboxPath {
    type Err = SandboxPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (paths, optional) = match text.strip_suffix('?') {
            Some(paths) => (paths, true),
            None => (text, false),
        };
        let (inside, host) = paths.split_once('=').unwrap_or((paths, paths));
        for part in [inside, host] {
            let path = Path::new(part);
            let plain = path
                .components()
                .all(|component| component != std::path::Component::ParentDir);
            if !path.is_absolute() || !plain {
                return Err(SandboxPathError {
                    text: text.to_owned(),
                    part: part.to_owned(),
                });
            }
        }
        Ok(Self {
            host: host.into(),
            inside: inside.into(),
            optional,
        })
    }
}

impl fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inside.display())?;
        if self.inside != self.host {
            write!(f, "={}", self.host.display())?;
        }
        f.write_str(if self.optional { "?" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_errors() {
        for text in ["/a", "/a?", "/a=/b", "/a=/b?"] {
            assert_eq!(text.parse::<SandboxPath>().unwrap().to_string(), text);
        }
        for text in ["", "a", "/a=b", "=/b", "/a/../b", "/a=/../b"] {
            assert!(text.parse::<SandboxPath>().is_err(), "{text}");
        }
    }
}
