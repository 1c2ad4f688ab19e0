//! `tvix daemon`.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use listenfd::ListenFd;
use nix_compat::store_path::StoreDir;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tvix_coordinator::Options;
use tvix_daemon::local::{LocalSettings, LocalStores, MakeBuilds};
use tvix_daemon::tvix_worker_protocol::Trust;
use tvix_daemon::{Access, Builds, Daemon, DaemonOptions, PostBuildHook, bind};
use tvix_eval_api::drv::DrvEvaluator;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store, StoreError, StoreUri};

use crate::args::{BuildingArgs, DaemonArgs, DaemonSettings};
use crate::caches::{self, Substituters};
use crate::error::CliError;
use crate::interrupt::{self, Orderly};
use crate::output::say;
use crate::session;
use crate::stores::MainStore;

/// Time after a signal at which the process ends in any case. Remains of blocking work are removed when the
/// store is opened again.
const LATEST_END: Duration = Duration::from_secs(8);

/// File descriptors that are wanted: four for each connection that holds paths, and those of builds.
const FILES: u64 = 4 * 4096 + 1024;

pub async fn run(mut args: DaemonArgs) -> Result<ExitCode, CliError> {
    // First, while nothing else runs.
    let passed = ListenFd::from_env().take_unix_listener(0);
    let passed = passed.map_err(|source| CliError::Descriptor {
        what: "socket of the service manager",
        source,
    })?;
    raise_file_limit();
    let options = store_options(&mut args)?;
    let (dir, uri) = (options.store_dir.clone(), args.building.store.clone());
    let settings = LocalSettings::default()
        .with_keep_outputs(args.more.keep_outputs)
        .with_keep_derivations(args.more.keep_derivations);
    let mut substituters = caches::requested_substituters(&args.building, &dir).await;
    substituters.sort_by_key(|(priority, _)| *priority);
    let daemon_options = daemon_options(&args);
    let DaemonArgs {
        mut building,
        more,
        socket,
        stdio,
        ..
    } = args;
    // Clients decide about it for each build.
    building.keep_failed = true;
    let stores = LocalStores::open(options, settings).await;
    let stores = stores.map_err(|error| {
        let uri = uri.unwrap_or_else(|| StoreUri::local("/"));
        CliError::open_store(uri, error)
    })?;
    let stores = stores
        .with_substituters(substituters.iter().map(|(_, store)| store.clone()))
        .with_builds(make_builds(building, more, substituters));
    let daemon = Daemon::new(Arc::new(stores), daemon_options);
    let _orderly = Orderly::begin();
    end_at_last();
    if stdio {
        return serve_stdio(&daemon).await;
    }
    let listener = match passed {
        Some(listener) => listening(listener).map_err(|source| CliError::Descriptor {
            what: "socket of the service manager",
            source,
        })?,
        None => bind(&socket.unwrap_or_else(default_socket))?,
    };
    daemon.listen(listener, interrupt::token()).await;
    Ok(ExitCode::SUCCESS)
}

/// Raises the soft limit of file descriptors, which is often 1,024, as far as it may be raised.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            say!("warning: cannot raise the limit of file descriptors to {wanted}: {error}");
        }
    }
}

fn listening(listener: std::os::unix::net::UnixListener) -> std::io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A directory from the environment.
fn directory(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

fn default_socket() -> PathBuf {
    let state = || directory("NIX_STATE_DIR").unwrap_or_else(|| "/nix/var/nix".into());
    let given = directory("NIX_DAEMON_SOCKET_PATH");
    given.unwrap_or_else(|| state().join("daemon-socket/socket"))
}

/// The store that is served. As in Nix, a root has its own state and logs, and the environment says where those of the
/// system's store are.
fn store_options(args: &mut DaemonArgs) -> Result<LocalStoreOptions, CliError> {
    let uri = args.building.store.clone();
    let uri = uri.unwrap_or_else(|| StoreUri::local("/"));
    let Some(root) = uri.local_root() else {
        return Err(CliError::UnsupportedStore(uri));
    };
    let parameter = |name| uri.parameter(name).map(PathBuf::from);
    let mut options = LocalStoreOptions::new(&root);
    let dir = parameter("store").or_else(|| directory("NIX_STORE_DIR"));
    if let Some(dir) = &dir {
        options.store_dir = store_dir(dir, &uri)?;
    }
    if root == Path::new("/") {
        options.real_store_dir = dir;
        options.state_dir = directory("NIX_STATE_DIR");
        options.log_dir = directory("NIX_LOG_DIR");
    }
    options.real_store_dir = parameter("real").or(options.real_store_dir);
    options.state_dir = parameter("state").or(options.state_dir);
    options.log_dir = parameter("log").or(options.log_dir);
    if let Some(features) = uri.parameter("system-features") {
        let features = features.split_whitespace().map(str::to_owned);
        args.building.system_features = features.collect();
        args.building.only_system_features = true;
    }
    Ok(options)
}

fn store_dir(directory: &Path, uri: &StoreUri) -> Result<StoreDir, CliError> {
    let parsed = StoreDir::new(&directory.to_string_lossy());
    parsed.map_err(|error| CliError::CacheOption {
        uri: uri.clone(),
        source: error.into(),
    })
}

fn daemon_options(args: &DaemonArgs) -> DaemonOptions {
    let substitute = &args.building.substitute;
    let own = substitute.substituters.iter().map(ToString::to_string);
    let trusted = args.more.trusted_substituters.iter().cloned();
    let access = Access::default()
        .with_allowed(args.more.allowed_users.iter().cloned())
        .with_trusted(args.more.trusted_users.iter().cloned());
    DaemonOptions::default()
        .with_access(access)
        .with_force_untrusted(args.force_untrusted)
        .with_require_signatures(!substitute.more.unsigned)
        .with_trusted_keys(substitute.trusted_public_keys.clone())
        .with_allowed_substituters(own.chain(trusted).collect())
}

fn make_builds(
    mut args: BuildingArgs,
    settings: DaemonSettings,
    substituters: Substituters,
) -> MakeBuilds {
    // Clients say for each build whether its files are kept.
    args.keep_failed = true;
    let args = Arc::new(args);
    Arc::new(move |store: LocalStore| {
        let chosen_by_clients = open_substituters(args.clone(), store.store_dir().clone());
        let dir = store.store_dir().clone();
        let store = MainStore::Local(Arc::new(store));
        let evaluator = Arc::new(DrvEvaluator::new(dir, Vec::new()));
        let options = Options::default();
        let made = session::coordinator(&args, &store, evaluator, options);
        let mut coordinator = made.map_err(|error| StoreError::Backend {
            store: store.uri().clone(),
            action: "prepare builds".to_owned(),
            retryable: false,
            source: error.into(),
        })?;
        for (priority, substituter) in &substituters {
            coordinator = coordinator.with_substituter(substituter.clone(), *priority);
        }
        let mut builds = Builds::new(coordinator).with_open_substituters(chosen_by_clients);
        if settings.keep_build_log {
            builds = builds.with_log_directory(store.logs(), settings.compress_build_log);
        }
        if let Some(program) = &settings.post_build_hook {
            builds = builds.with_post_build_hook(PostBuildHook::new(program));
        }
        Ok(builds)
    })
}

/// Opens substituters that clients choose, with the keys and settings of the daemon.
fn open_substituters(
    args: Arc<BuildingArgs>,
    dir: StoreDir,
) -> impl Fn(Vec<String>) -> BoxFuture<'static, Substituters> + Send + Sync + 'static {
    move |uris| {
        let (mut chosen, dir) = (BuildingArgs::clone(&args), dir.clone());
        chosen.substitute.substituters = uris.iter().filter_map(|uri| uri.parse().ok()).collect();
        chosen.substitute.no_substitute = false;
        Box::pin(async move { caches::requested_substituters(&chosen, &dir).await })
    }
}

/// Ends the process some time after a signal.
fn end_at_last() {
    let token = interrupt::token();
    tokio::spawn(async move {
        token.cancelled().await;
        // The runtime may be gone by then.
        let ending = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(LATEST_END);
            std::process::exit(0);
        });
        if let Err(error) = ending {
            say!("warning: cannot start a thread: {error}");
        }
    });
}

async fn serve_stdio(daemon: &Daemon) -> Result<ExitCode, CliError> {
    let failed = |what| move |source| CliError::Descriptor { what, source };
    let input = input().map_err(failed("standard input"))?;
    let (output, copy) = output().map_err(failed("standard output"))?;
    let serving = daemon.connection(
        input,
        output,
        Trust::Trusted,
        Some(tvix_daemon::closed_probe(copy)),
    );
    tokio::select! {
        served = serving => match served {
            // The client went away, as far as anyone is left to tell.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                say!("error: {}", crate::error::describe(&error));
                Ok(ExitCode::FAILURE)
            }
            _ => Ok(ExitCode::SUCCESS),
        },
        () = interrupt::token().cancelled_owned() => Ok(ExitCode::SUCCESS),
    }
}

type Input = Box<dyn AsyncRead + Unpin + Send>;
type Output = Box<dyn AsyncWrite + Unpin + Send>;

/// Standard input. Pipes and sockets are waited for without a thread, which nothing could end.
fn input() -> std::io::Result<Input> {
    let file = rustix::stdio::stdin().try_clone_to_owned()?;
    let kind = std::fs::metadata("/proc/self/fd/0")?.file_type();
    Ok(match kind {
        // Opened anew, so that other processes with this pipe may still block on it.
        kind if kind.is_fifo() => {
            Box::new(pipe::OpenOptions::new().open_receiver("/proc/self/fd/0")?)
        }
        kind if kind.is_socket() => Box::new(socket(file)?),
        _ => Box::new(tokio::fs::File::from_std(file.into())),
    })
}

/// Standard output, and another handle on it.
fn output() -> std::io::Result<(Output, OwnedFd)> {
    let file = rustix::stdio::stdout().try_clone_to_owned()?;
    let copy = file.try_clone()?;
    let kind = std::fs::metadata("/proc/self/fd/1")?.file_type();
    let output: Output = match kind {
        kind if kind.is_fifo() => {
            Box::new(pipe::OpenOptions::new().open_sender("/proc/self/fd/1")?)
        }
        kind if kind.is_socket() => Box::new(socket(file)?),
        _ => Box::new(tokio::fs::File::from_std(file.into())),
    };
    Ok((output, copy))
}

fn socket(file: OwnedFd) -> std::io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(file);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
