//! `.netrc` files, which Nix's setting `netrc-file` names: who one is for which host.
//!
//! Read as curl reads them (`man netrc`): the first entry that fits counts.

use std::fmt;

/// A name and a password. Its `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Login {
    /// Who one is; may be empty.
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

/// The first login for `host` in the text of such a file, or that for all hosts. Macros are skipped,
/// as is what is not known.
///
/// ```
/// let login = nix_compat::netrc::login("machine cache.example login me password x", "cache.example");
/// assert_eq!(login.unwrap().name, "me");
/// ```
pub fn login(netrc: &str, host: &str) -> Option<Login> {
    let mut words = words(netrc).into_iter();
    let mut login: Option<Login> = None;
    // Whether what comes is about this host.
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

/// The words of such a file: a quoted one may hold spaces, `#` begins a comment, and a macro goes
/// to the next empty line.
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

    const FILE: &str = "# who\nmachine a.example login me password s3cret # not this\n\
        macdef init\ncd machine b.example login evil\n\nmachine\n  b.example\n login \"you \\\"x\\\"\"\n\
        account z password p\ndefault login anyone password all\nmachine c.example login late";

    #[test]
    fn the_first_that_matches() {
        let of = |host| {
            let login = login(FILE, host).unwrap();
            (login.name, login.password)
        };
        assert_eq!(of("A.example"), ("me".into(), "s3cret".into()));
        assert_eq!(of("b.example"), ("you \"x\"".into(), "p".into()));
        assert_eq!(of("c.example"), ("anyone".into(), "all".into()));
        assert_eq!(login("machine x login y", "z"), None);
        assert_eq!(login("machine", "machine"), None);
        assert_eq!(login("machine x login", "x"), None);
        let shown = format!("{:?}", login(FILE, "a.example"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
