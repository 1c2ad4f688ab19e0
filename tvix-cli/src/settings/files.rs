//! Settings from files and from the environment, in Nix's order (Nix manual, "nix.conf"): the file of the
//! system, those of the user, NIX_CONFIG. Later assignments replace earlier ones; the command line comes last.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix_compat::nix_conf::{self, Statement};
use thiserror::Error;

use super::known::find;
use super::{Assignment, Assignments};

/// Depth at which files include each other without end.
const DEEPEST: usize = 32;

/// Where a setting got its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File { path: PathBuf, line: usize },
    /// The variable NIX_CONFIG.
    Environment,
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment => f.write_str("NIX_CONFIG"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why the settings of the files cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilesError {
    #[error("invalid settings in {place}: {source}")]
    Syntax {
        place: String,
        source: nix_conf::SyntaxError,
    },
    #[error("cannot read settings from '{}'", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read '{}', which {by} includes", path.display())]
    Include {
        path: PathBuf,
        by: Origin,
        source: io::Error,
    },
    #[error(
        "{by} includes a file that includes it, or more than {DEEPEST} files include each other"
    )]
    Cycle { by: Origin },
}

/// The settings of all files and of the environment. `home` is the user's home directory.
pub fn read(home: Option<PathBuf>) -> Result<Assignments, FilesError> {
    let mut reader = Reader::default();
    for file in files(&|name| env::var_os(name), home) {
        reader.file(&file)?;
    }
    if let Some(text) = env::var_os("NIX_CONFIG") {
        reader.text(&text.to_string_lossy(), None, 0)?;
    }
    Ok(reader.found)
}

/// The files that are read, in this order, whether or not they exist.
fn files(
    variable: &dyn Fn(&'static str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Vec<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let system = set("NIX_CONF_DIR").map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
    let mut files = vec![system.join("nix.conf")];
    // The first one has the last word.
    let mut user = Vec::new();
    match set("NIX_USER_CONF_FILES") {
        Some(listed) => user.extend(env::split_paths(&listed)),
        None => {
            let own = set("XDG_CONFIG_HOME").map(PathBuf::from);
            user.extend(own.or_else(|| home.map(|home| home.join(".config"))));
            match set("XDG_CONFIG_DIRS") {
                Some(listed) => user.extend(env::split_paths(&listed)),
                None => user.push("/etc/xdg".into()),
            }
            for directory in &mut user {
                directory.push("nix/nix.conf");
            }
        }
    }
    files.extend(user.into_iter().rev());
    files
}

#[derive(Default)]
struct Reader {
    found: Assignments,
}

impl Reader {
    fn file(&mut self, path: &Path) -> Result<(), FilesError> {
        match std::fs::read(path) {
            Ok(text) => self.text(&String::from_utf8_lossy(&text), Some(path), 0),
            Err(error) if is_missing(&error) => Ok(()),
            Err(source) => Err(FilesError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn text(&mut self, text: &str, path: Option<&Path>, depth: usize) -> Result<(), FilesError> {
        for entry in nix_conf::parse(text) {
            let entry = entry.map_err(|source| FilesError::Syntax {
                place: path.map_or_else(
                    || "NIX_CONFIG".to_owned(),
                    |path| format!("'{}'", path.display()),
                ),
                source,
            })?;
            let origin = match path {
                Some(path) => Origin::File {
                    path: path.to_owned(),
                    line: entry.line,
                },
                None => Origin::Environment,
            };
            match entry.statement {
                Statement::Set { name, value } => self.set(name, value, origin),
                Statement::Include {
                    path: file,
                    optional,
                } => {
                    let directory = path.and_then(Path::parent).unwrap_or(Path::new("/"));
                    self.include(&directory.join(file), optional, origin, depth)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        path: &Path,
        optional: bool,
        by: Origin,
        depth: usize,
    ) -> Result<(), FilesError> {
        if depth == DEEPEST {
            return Err(FilesError::Cycle { by });
        }
        match std::fs::read(path) {
            Ok(text) => self.text(&String::from_utf8_lossy(&text), Some(path), depth + 1),
            Err(error) if optional && is_missing(&error) => Ok(()),
            Err(source) => Err(FilesError::Include {
                path: path.to_owned(),
                by,
                source,
            }),
        }
    }

    fn set(&mut self, name: &str, value: String, origin: Origin) {
        match find(name) {
            Some((setting, append)) => self.found.known.push(Assignment {
                setting,
                value,
                append,
                origin,
            }),
            None => self.found.unknown.push((name.to_owned(), origin)),
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &'static str| {
            let mut all = variables.iter();
            all.find(|(other, _)| *other == name)
                .map(|(_, value)| OsString::from(value))
        };
        let files = files(&variable, Some("/home/me".into()));
        files.iter().map(|it| it.display().to_string()).collect()
    }

    #[test]
    fn order_of_the_files() {
        assert_eq!(
            ordered(&[]),
            [
                "/etc/nix/nix.conf",
                "/etc/xdg/nix/nix.conf",
                "/home/me/.config/nix/nix.conf"
            ]
        );
        assert_eq!(
            ordered(&[
                ("NIX_CONF_DIR", "/c"),
                ("XDG_CONFIG_HOME", "/h"),
                ("XDG_CONFIG_DIRS", "/a:/b")
            ]),
            [
                "/c/nix.conf",
                "/b/nix/nix.conf",
                "/a/nix/nix.conf",
                "/h/nix/nix.conf"
            ]
        );
        assert_eq!(
            ordered(&[("NIX_USER_CONF_FILES", "/x:/y"), ("XDG_CONFIG_HOME", "/h")]),
            ["/etc/nix/nix.conf", "/y", "/x"]
        );
    }

    fn read_below(directory: &Path, text: &str) -> Result<Assignments, FilesError> {
        let file = directory.join("nix.conf");
        std::fs::write(&file, text).unwrap();
        let mut reader = Reader::default();
        reader.file(&file)?;
        Ok(reader.found)
    }

    #[test]
    fn files_include_others() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        std::fs::create_dir(directory.join("sub")).unwrap();
        std::fs::write(directory.join("sub/a.conf"), "include b.conf\n").unwrap();
        std::fs::write(directory.join("sub/b.conf"), "\ncores = 7\nodd = 1\n").unwrap();
        let text =
            "cores = 3\ninclude sub/a.conf\n!include gone.conf\nextra-substituters = file:///x";
        let found = read_below(directory, text).unwrap();
        let values: Vec<_> = found
            .known
            .iter()
            .map(|it| (it.setting.name, it.value.as_str(), it.append))
            .collect();
        assert_eq!(
            values,
            [
                ("cores", "3", false),
                ("cores", "7", false),
                ("substituters", "file:///x", true)
            ]
        );
        let place = directory.join("sub/b.conf").display().to_string();
        assert_eq!(found.known[1].origin.to_string(), format!("{place}:2"));
        let (name, origin) = &found.unknown[0];
        assert_eq!(
            (name.as_str(), origin.to_string()),
            ("odd", format!("{place}:3"))
        );
    }

    #[test]
    fn errors_name_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let place = directory.join("nix.conf").display().to_string();
        let error = read_below(directory, "\ncores=3").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "invalid settings in '{place}': line 2 is not 'NAME = VALUE' or 'include PATH': 'cores=3'"
            )
        );
        let error = read_below(directory, "include gone.conf").unwrap_err();
        let gone = directory.join("gone.conf");
        assert_eq!(
            error.to_string(),
            format!("cannot read '{}', which {place}:1 includes", gone.display())
        );
        let error = read_below(directory, "include nix.conf").unwrap_err();
        assert!(matches!(error, FilesError::Cycle { .. }), "{error}");
        // What is no file is no file of settings, but it is not passed over either.
        std::fs::create_dir(directory.join("gone.conf")).unwrap();
        let error = read_below(directory, "!include gone.conf").unwrap_err();
        assert!(matches!(error, FilesError::Include { .. }), "{error}");
    }
}
