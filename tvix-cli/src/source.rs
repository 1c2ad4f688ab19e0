//! What the command line says is to be evaluated.

use std::path::PathBuf;
use std::time::Duration;

use tvix_eval::NixEvaluator;
use tvix_eval::fetch::{CachingFetcher, FetchOptions, is_pseudo_url};
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalRequest, EvalSource};
use tvix_store_api::StoreUri;

use crate::args::{SearchArgs, SourceArgs};
use crate::stores;

/// The request that the arguments make.
pub fn request(args: &SourceArgs) -> EvalRequest {
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let source = match (&args.expr, args.file.as_deref()) {
        (Some(text), _) => EvalSource::Expression {
            text: text.clone(),
            base,
        },
        (None, None) => EvalSource::File("default.nix".into()),
        (None, Some(file)) => match file.strip_prefix('<').and_then(|it| it.strip_suffix('>')) {
            Some(name) => EvalSource::SearchPath(name.to_owned()),
            None => EvalSource::File(file.into()),
        },
    };
    let mut request = EvalRequest::new(source);
    request.attr_paths.clone_from(&args.attrs);
    for pair in args.args.chunks_exact(2) {
        request.args.insert(pair[0].clone(), pair[1].clone());
    }
    for pair in args.argstrs.chunks_exact(2) {
        let mut literal = Vec::new();
        tvix_eval::text::print::write_string(&mut literal, pair[1].as_bytes());
        let literal = String::from_utf8_lossy(&literal).into_owned();
        request.args.insert(pair[0].clone(), literal);
    }
    request
}

/// The evaluator for a store.
pub fn evaluator(search: &SearchArgs, store: Option<&StoreUri>) -> NixEvaluator {
    let mut settings = Settings::default();
    settings.search_path = search_path(search);
    let uri = store.cloned().unwrap_or_else(stores::usual);
    settings.store_root = uri.local_root().filter(|root| root.as_os_str() != "/");
    let mib = search.max_eval_memory;
    settings.limits.memory = (mib > 0).then(|| mib.saturating_mul(1 << 20));
    settings.show_trace = search.show_trace;
    settings.abort_on_warn = search.abort_on_warn;
    settings.pure = search.pure_eval && !search.impure;
    settings.allowed_paths = search.restrict_eval.then(Vec::new);
    let uris = search.allowed_uris.iter();
    settings.allowed_uris = uris
        .flat_map(|uris| uris.split_whitespace().map(str::to_owned))
        .collect();
    let mut options = FetchOptions::default();
    options.ttl = Duration::from_secs(search.tarball_ttl);
    NixEvaluator::new(settings).fetcher(CachingFetcher::new(options))
}

fn search_path(args: &SearchArgs) -> Vec<(String, String)> {
    let variable = std::env::var("NIX_PATH").unwrap_or_default();
    let given = args.include.iter().map(String::as_str);
    given.chain(split(&variable)).map(entry).collect()
}

/// The entries of NIX_PATH: separated by colons. A URL goes to the second colon, as in C++ Nix, so
/// none can have a port.
fn split(text: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let colon = rest.find(':').unwrap_or(rest.len());
        let value = rest[..colon].rfind('=').map_or(0, |at| at + 1);
        let is_url = is_pseudo_url(&rest[value..]) || rest[value..].starts_with("flake:");
        let end = match is_url {
            true => rest[colon + 1..]
                .find(':')
                .map_or(rest.len(), |at| colon + 1 + at),
            false => colon,
        };
        entries.push(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    entries.retain(|entry| !entry.is_empty());
    entries
}

fn entry(text: &str) -> (String, String) {
    match text.split_once('=') {
        Some((prefix, path)) => (prefix.to_owned(), path.to_owned()),
        None => (String::new(), text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_path() {
        assert_eq!(split(""), [""; 0]);
        assert_eq!(
            split("nixpkgs=/a:/b:c=https://x.org/y:8080/z.tar.gz:n=channel:nixos-24.05:rel"),
            [
                "nixpkgs=/a",
                "/b",
                "c=https://x.org/y",
                "8080/z.tar.gz",
                "n=channel:nixos-24.05",
                "rel"
            ]
        );
        assert_eq!(entry("a=b=c"), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(entry("/x"), (String::new(), "/x".to_owned()));
    }
}
