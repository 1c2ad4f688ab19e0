//! What the command line says is to be evaluated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tvix_eval::NixEvaluator;
use tvix_eval::fetch::{CachingFetcher, FetchOptions};
use tvix_eval::search_path;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalRequest, EvalSource};
use tvix_store_api::StoreUri;

use crate::args::{SearchArgs, SourceArgs};
use crate::valid_paths::StorePaths;
use crate::{home, stores};

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

/// The evaluator for a store; `writes` says whether derivations and sources are added to it.
pub fn evaluator(search: &SearchArgs, store: Option<&StoreUri>, writes: bool) -> NixEvaluator {
    let mut settings = Settings::default();
    settings.home = home::directory();
    settings.search_path = search_path(search, settings.home.as_deref());
    settings.read_only = !writes;
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
    NixEvaluator::new(settings)
        .fetcher(CachingFetcher::new(options))
        .valid_paths(StorePaths::new(store.cloned()))
}

/// The entries that were given, those of NIX_PATH and the channels, which restricted evaluation
/// does not see.
fn search_path(args: &SearchArgs, home: Option<&Path>) -> Vec<search_path::Entry> {
    let given = args.include.iter().map(|text| search_path::entry(text));
    let variable = std::env::var("NIX_PATH").unwrap_or_default();
    let mut entries: Vec<_> = given.chain(search_path::entries(&variable)).collect();
    if !args.restrict_eval {
        let user = home.map(|home| home.join(".nix-defexpr/channels"));
        let state = std::env::var_os("NIX_STATE_DIR").map(PathBuf::from);
        let state = state.unwrap_or_else(|| "/nix/var/nix".into());
        entries.extend(search_path::channels(user.as_deref(), &state));
    }
    entries
}
