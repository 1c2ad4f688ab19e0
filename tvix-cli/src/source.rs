//! From arguments to the sources and settings of an evaluation.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tvix_eval::NixEvaluator;
use tvix_eval::search_path;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalRequest, EvalSource};
use tvix_fetch::{CachingFetcher, FetchOptions};

use crate::args::{BuildingArgs, SearchArgs, SourceArgs};
use crate::error::CliError;
use crate::valid_paths::StorePaths;
use crate::{default_store, home, stores};

/// The sources of the arguments, in order: files or expressions. Reads standard input for `-`.
pub fn sources(args: &SourceArgs, inputs: &[String]) -> Result<Vec<EvalSource>, CliError> {
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    if args.expr && inputs.is_empty() {
        return Err(CliError::NoExpression);
    }
    let mut read = false;
    let mut source = |text: &String, expr: bool| match (text.as_str(), expr) {
        ("-", _) if std::mem::replace(&mut read, true) => Err(CliError::StdinTwice),
        ("-", _) => Ok(EvalSource::Stdin {
            text: read_stdin()?,
            base: base.clone(),
        }),
        (text, true) => Ok(EvalSource::Expression {
            text: text.to_owned(),
            base: base.clone(),
        }),
        (file, false) => file_source(file),
    };
    let files = args.files.iter().map(|file| (file, false));
    let inputs = inputs.iter().map(|input| (input, args.expr));
    let sources = files.chain(inputs);
    let mut sources = sources
        .map(|(text, expr)| source(text, expr))
        .collect::<Result<Vec<_>, _>>()?;
    if sources.is_empty() {
        sources.push(EvalSource::File("default.nix".into()));
    }
    Ok(sources)
}

/// The source of a file argument.
pub fn file_source(file: &str) -> Result<EvalSource, CliError> {
    // `.#hello`, `nixpkgs#hello`: a flake and an attribute, unless there is such a file.
    let names_flake = file.starts_with("flake:") || file.contains('#') && !file.contains("://");
    if names_flake && !Path::new(file).exists() {
        return Err(CliError::Flake(file.to_owned()));
    }
    let entry = file.strip_prefix('<').and_then(|it| it.strip_suffix('>'));
    Ok(match entry {
        Some(name) if !name.is_empty() => EvalSource::SearchPath(name.to_owned()),
        _ => EvalSource::File(file.into()),
    })
}

fn read_stdin() -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut text);
    read.map_err(CliError::Input)?;
    Ok(text)
}

/// The evaluation requests for sources.
pub fn requests(args: &SourceArgs, sources: Vec<EvalSource>) -> Result<Vec<EvalRequest>, CliError> {
    let arguments = arguments(args)?;
    let requests = sources.into_iter().map(|source| {
        let mut request = EvalRequest::new(source);
        request.attr_paths.clone_from(&args.attrs);
        request.args.clone_from(&arguments);
        request
    });
    Ok(requests.collect())
}

/// The arguments of functions, as expressions.
pub fn arguments(args: &SourceArgs) -> Result<BTreeMap<String, String>, CliError> {
    let mut all = BTreeMap::new();
    for pair in args.args.chunks_exact(2) {
        all.insert(pair[0].clone(), pair[1].clone());
    }
    for pair in args.argstrs.chunks_exact(2) {
        all.insert(pair[0].clone(), string_literal(pair[1].as_bytes()));
    }
    for pair in args.args_from_files.chunks_exact(2) {
        let file = Path::new(&pair[1]);
        let contents = std::fs::read(file).map_err(|source| CliError::File {
            action: "read",
            file: file.to_owned(),
            source,
        })?;
        all.insert(pair[0].clone(), string_literal(&contents));
    }
    if let Some(name) = &args.arg_from_stdin {
        all.insert(name.clone(), string_literal(&read_stdin()?));
    }
    Ok(all)
}

fn string_literal(text: &[u8]) -> String {
    let mut literal = Vec::new();
    tvix_eval::literal::write_string(&mut literal, text);
    String::from_utf8_lossy(&literal).into_owned()
}

/// The evaluator for a store. `writes`: derivations and sources are added to the store.
pub fn evaluator(search: &SearchArgs, building: &BuildingArgs, writes: bool) -> NixEvaluator {
    let mut settings = Settings::default();
    settings.home = home::directory();
    settings.search_path = search_path(search, settings.home.as_deref());
    settings.read_only = !writes;
    // An invalid default store is reported when it is opened.
    let uri = default_store::resolve(building.store.clone());
    settings.store_root = uri.ok().as_ref().and_then(stores::root);
    if let Some(mib) = search.max_eval_memory {
        let limits = &mut settings.limits;
        limits.memory = (mib > 0).then(|| mib.saturating_mul(1 << 20));
        // Whoever allows more memory may need it for one value.
        limits.value = limits.memory.max(limits.value).filter(|_| mib > 0);
    }
    settings.show_trace = search.show_trace;
    settings.abort_on_warn = search.abort_on_warn;
    settings.pure = search.pure_eval && !search.impure;
    settings.allowed_paths = search.restrict_eval.then(Vec::new);
    let uris = search.allowed_uris.iter();
    settings.allowed_uris = uris
        .flat_map(|uris| uris.split_whitespace().map(str::to_owned))
        .collect();
    let more = &search.more;
    settings.import_from_derivation = more.import_from_derivation;
    settings.trace_verbose = more.trace_verbose;
    if let Some(depth) = more.max_call_depth {
        settings.limits.depth = depth;
    }
    let eval_system = more.eval_system.as_ref().filter(|it| !it.is_empty());
    if let Some(system) = eval_system.or(more.system.as_ref()) {
        settings.system.clone_from(system);
    }
    let mut options = FetchOptions::default();
    let ttl = search.tarball_ttl;
    options.ttl = Duration::from_secs(if building.substitute.refresh { 0 } else { ttl });
    options.transfer = building.transfer.settings();
    options.netrc_file = Some(building.netrc_file.clone());
    NixEvaluator::new(settings)
        .with_fetcher(CachingFetcher::new(options))
        .with_valid_paths(StorePaths::new(building.store.clone()))
}

/// The search path: `-I`, NIX_PATH, and the channels unless evaluation is restricted. The setting `nix-path`
/// replaces NIX_PATH and the channels.
fn search_path(args: &SearchArgs, home: Option<&Path>) -> Vec<search_path::Entry> {
    let given = args.include.iter().map(|text| search_path::entry(text));
    if let Some(entries) = &args.more.nix_path {
        let entries = entries.iter().map(|text| search_path::entry(text));
        return given.chain(entries).collect();
    }
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
