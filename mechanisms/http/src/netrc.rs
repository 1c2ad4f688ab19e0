//! Credentials per host in `.netrc` files, as the setting `netrc-file` of Nix names them.
//!
//! The format is that of curl: the first entry that matches the host applies.

use std::fmt;
use std::io;
use std::path::Path;

/// A user name and a password. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Login {
    /// The user name; may be empty.
    pub name: String,
    /// The password; may be empty.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The entries of a `.netrc` file. `Debug` shows none of them.
///
/// ```
/// let netrc = tvix_http::Netrc::parse("machine cache.example login me password x");
/// assert_eq!(netrc.login("cache.example").unwrap().name, "me");
/// assert_eq!(netrc.login("other.example"), None);
/// ```
#[derive(Clone, Default)]
pub struct Netrc {
    text: String,
}

impl fmt::Debug for Netrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netrc").finish_non_exhaustive()
    }
}

impl Netrc {
    /// The entries in the text of a `.netrc` file. Unknown tokens are ignored.
    pub fn parse(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// Reads a file; `None` if it does not exist. Blocks.
    ///
    /// # Errors
    ///
    /// The file exists and cannot be read.
    pub fn read(file: &Path) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(Self::parse(text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first login for `host`, or the default one.
    pub fn login(&self, host: &str) -> Option<Login> {
        let mut words = words(&self.text).into_iter();
        let mut login: Option<Login> = None;
        // Whether the current entry is for this host.
        let mut matches = false;
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" | "default" if login.is_some() => break,
                "machine" => {
                    matches = words.next()?.eq_ignore_ascii_case(host);
                    login = matches.then(Login::default);
                }
                "default" => {
                    matches = true;
                    login = Some(Login::default());
                }
                field @ ("login" | "password" | "account") => {
                    let value = words.next()?;
                    match (&mut login, field) {
                        (Some(login), "login") if matches => login.name = value,
                        (Some(login), "password") if matches => login.password = value,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        login
    }
}

/// The tokens of a netrc file. A quoted token may contain spaces, `#` begins a comment, and a macro
/// ends at the next empty line.
fn words(netrc: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut lines = netrc.lines();
    while let Some(line) = lines.next() {
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = word(rest);
            if word == "macdef" {
                lines.by_ref().find(|line| line.trim().is_empty());
                break;
            }
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

fn word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        return (word.to_owned(), rest);
    };
    let mut word = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (word, &quoted[at + 1..]),
            '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
            other => word.push(other),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# logins\nmachine a.example login me password s3cret # not this\n\
        macdef init\ncd machine b.example login evil\n\nmachine\n  b.example\n login \"you \\\"x\\\"\"\n\
        account z password p\ndefault login anyone password all\nmachine c.example login late";

    #[test]
    fn the_first_that_matches() {
        let netrc = Netrc::parse(FILE);
        let of = |host| {
            let login = netrc.login(host).unwrap();
            (login.name, login.password)
        };
        assert_eq!(of("A.example"), ("me".into(), "s3cret".into()));
        assert_eq!(of("b.example"), ("you \"x\"".into(), "p".into()));
        assert_eq!(of("c.example"), ("anyone".into(), "all".into()));
        assert_eq!(Netrc::parse("machine x login y").login("z"), None);
        assert_eq!(Netrc::parse("machine").login("machine"), None);
        assert_eq!(Netrc::parse("machine x login").login("x"), None);
        let shown = format!("{:?}", netrc.login("a.example"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
