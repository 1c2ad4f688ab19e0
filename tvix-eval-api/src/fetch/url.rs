//! URLs in the forms that Nix accepts.

use super::GitRequest;

/// Whether Nix reads `text` as a URL where a path is possible too: in the search path, and as the
/// file to evaluate.
pub fn is_pseudo_url(text: &str) -> bool {
    if text.starts_with("channel:") {
        return true;
    }
    matches!(
        text.split_once("://"),
        Some((
            "http" | "https" | "file" | "channel" | "git" | "s3" | "ssh",
            _
        ))
    )
}

/// Expands `channel:NAME` to the URL of the channel's archive; other URLs are returned unchanged.
pub fn resolve_pseudo_url(url: &str) -> String {
    match url.strip_prefix("channel:") {
        Some(name) => format!("https://channels.nixos.org/{name}/nixexprs.tar.xz"),
        None => url.to_owned(),
    }
}

/// Splits a URL into its scheme and the text after the colon (RFC 3986, section 3.1).
pub fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let mut letters = scheme.bytes();
    let valid = letters.next()?.is_ascii_alphabetic()
        && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    valid.then_some((scheme, rest))
}

/// The path of a `file:` URL on this machine, percent-decoded. `None` for other schemes and other
/// hosts. Restricted evaluation checks the path that this returns, so fetchers must use it too.
pub fn file_path(url: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let (scheme, rest) = split_scheme(url)?;
    if !scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let at = rest.find('/')?;
            // Files of other hosts cannot be read.
            matches!(&rest[..at], "" | "localhost").then_some(&rest[at..])?
        }
        None => rest,
    };
    Some(std::ffi::OsString::from_vec(decode(path)).into())
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3);
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn encode(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The URL of a `url` argument of `fetchGit`: paths and `user@host:path` become URLs, and the
/// prefix `git+` is dropped.
///
/// # Errors
///
/// The reason why `url` is not valid.
pub fn git_url(url: &str) -> Result<String, String> {
    if !url.starts_with('/')
        && !url.contains("://")
        && let Some((user, rest)) = url.split_once('@')
        && !user.contains('/')
        && let Some((host, path)) = rest.rsplit_once(':')
    {
        return Ok(format!("ssh://{user}@{host}/{path}"));
    }
    let is_path =
        !url.starts_with("file:") && !url.starts_with("git+file:") && !url.contains("://");
    if is_path {
        let first = url.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err(format!(
                "SCP-like URL '{url}' is not supported; use SSH URL syntax instead (ssh://...)"
            ));
        }
        let path = encode(url, b"-._~!$&'()*+,;=:@/");
        return Ok(match url.starts_with('/') {
            true => format!("file://{path}"),
            false => format!("file:{path}"),
        });
    }
    match split_scheme(url) {
        Some(_) => Ok(url.strip_prefix("git+").unwrap_or(url).to_owned()),
        None => Err(format!("'{url}' is not a valid URL")),
    }
}

/// The form of a Git request in messages and in the list of allowed URIs.
pub fn show_git(request: &GitRequest) -> String {
    let (base, query) = match request.url.split_once('?') {
        Some((base, query)) => (base, query),
        None => (request.url.as_str(), ""),
    };
    let mut query: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut add = |key: &str, value: String| {
        query.retain(|(known, _)| known != key);
        query.push((key.to_owned(), value));
    };
    for (key, flag) in [
        ("exportIgnore", request.export_ignore),
        ("lfs", request.lfs),
        ("shallow", request.shallow),
        ("submodules", request.submodules),
    ] {
        if flag {
            add(key, "1".to_owned());
        }
    }
    for (key, value) in [("rev", &request.rev), ("ref", &request.reference)] {
        if let Some(value) = value {
            add(key, encode(value, b"-._~!$'()*,;:@/?"));
        }
    }
    query.sort();
    let prefix = if base.starts_with("git:") { "" } else { "git+" };
    let pairs: Vec<_> = query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    match pairs.is_empty() {
        true => format!("{prefix}{base}"),
        false => format!("{prefix}{base}?{}", pairs.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_urls() {
        for (given, wanted) in [
            ("/a b/c", "file:///a%20b/c"),
            ("./x", "file:./x"),
            ("git@example.org:a/b.git", "ssh://git@example.org/a/b.git"),
            ("git+https://example.org/a", "https://example.org/a"),
            ("https://u@example.org:80/a", "https://u@example.org:80/a"),
        ] {
            assert_eq!(git_url(given).as_deref(), Ok(wanted));
        }
        assert!(git_url("example.org:a").unwrap_err().contains("SCP-like"));
    }

    #[test]
    fn shown() {
        let mut request = GitRequest::new("file:///a?dir=x");
        request.rev = Some("0123".to_owned());
        request.reference = Some("a+b".to_owned());
        assert_eq!(
            show_git(&request),
            "git+file:///a?dir=x&exportIgnore=1&ref=a%2Bb&rev=0123"
        );
    }

    #[test]
    fn file_urls() {
        for (url, wanted) in [
            ("file:///a%20b", Some("/a b")),
            ("file://localhost/a", Some("/a")),
            ("file:/a?x=y", Some("/a")),
            ("file://elsewhere/a", None),
            ("http://a/b", None),
        ] {
            assert_eq!(file_path(url), wanted.map(Into::into), "{url}");
        }
    }
}
