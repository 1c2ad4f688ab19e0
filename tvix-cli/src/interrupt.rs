//! SIGINT, SIGTERM and SIGHUP: all of them end a command in order, as in Nix.
//!
//! A command that has to end something by itself (a session, a server) takes [`Orderly`] and watches
//! [`token`]. Any other command is dropped at its next wait, which removes its temporary files.
//!
//! A prompt takes SIGINT for itself ([`take_interrupts`]): there it ends a line, not the command.

use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// How long blocking work may go on after a signal before the process ends.
pub const GRACE: Duration = Duration::from_secs(10);

static TOKEN: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);
/// How many end by themselves.
static ORDERLY: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Whether a prompt has SIGINT, and how many came since.
static TAKEN: AtomicBool = AtomicBool::new(false);
static INTERRUPTS: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Cancelled by the first signal.
pub fn token() -> CancellationToken {
    TOKEN.clone()
}

/// Takes SIGINT for a prompt until the process ends. The receiver sees a change for each one.
pub fn take_interrupts() -> watch::Receiver<usize> {
    TAKEN.store(true, Ordering::Relaxed);
    INTERRUPTS.subscribe()
}

/// Waits for the next signal that ends the command, or the line of a prompt.
pub async fn interrupted() {
    let mut interrupts = INTERRUPTS.subscribe();
    tokio::select! {
        () = TOKEN.cancelled() => {}
        // The sender is never dropped.
        _ = interrupts.changed() => {}
    }
}

/// While this is held, a signal drops nothing: the holder ends by itself soon after [`token`] is
/// cancelled.
pub struct Orderly(());

impl Orderly {
    pub fn begin() -> Self {
        ORDERLY.send_modify(|count| *count += 1);
        Self(())
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        ORDERLY.send_modify(|count| *count -= 1);
    }
}

/// Runs a command, and drops it when a signal comes.
pub async fn watch(
    command: impl Future<Output = Result<ExitCode, CliError>>,
) -> Result<ExitCode, CliError> {
    listen();
    let dropped = async {
        TOKEN.cancelled().await;
        // The sender is never dropped.
        let _ = ORDERLY.subscribe().wait_for(|count| *count == 0).await;
    };
    tokio::select! {
        biased;
        outcome = command => outcome,
        () = dropped => Err(error()),
    }
}

/// The signals that end a command. SIGHUP is left alone below `nohup`, which ignores it on purpose.
fn kinds() -> impl Iterator<Item = SignalKind> {
    let hangup = Some(SignalKind::hangup()).filter(|kind| !is_ignored(*kind));
    [SignalKind::interrupt(), SignalKind::terminate()]
        .into_iter()
        .chain(hangup)
}

fn listen() {
    for kind in kinds() {
        // Where it cannot be caught it ends the process all the same.
        if let Ok(signal) = signal(kind) {
            tokio::spawn(on_signal(signal, kind.as_raw_value()));
        }
    }
}

/// The first signal ends everything in order, the next one at once.
async fn on_signal(mut signal: Signal, number: i32) {
    while signal.recv().await.is_some() {
        if number == SignalKind::interrupt().as_raw_value() && TAKEN.load(Ordering::Relaxed) {
            INTERRUPTS.send_modify(|count| *count += 1);
            continue;
        }
        if TOKEN.is_cancelled() {
            restore_terminal();
            std::process::exit(128 + number);
        }
        SIGNAL.store(number, Ordering::Relaxed);
        TOKEN.cancel();
    }
}

/// Ends the process at the next signal, while the runtime that heard the first one shuts down and runs
/// no task any more.
pub fn exit_on_next_signal() {
    let wait = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let Ok(runtime) = builder.enable_io().build() else {
            return;
        };
        let next = async {
            let signals = kinds().filter_map(|kind| Some((kind, signal(kind).ok()?)));
            let received = signals.map(|(kind, mut signal)| {
                Box::pin(async move { signal.recv().await.map(|()| kind.as_raw_value()) })
            });
            futures::future::select_all(received).await.0
        };
        if let Some(number) = runtime.block_on(next) {
            restore_terminal();
            std::process::exit(128 + number);
        }
    };
    // Without the thread the process still ends after the grace period.
    let _ = std::thread::Builder::new().spawn(wait);
}

/// The error of a command that a signal ended.
pub fn error() -> CliError {
    let number = SIGNAL.load(Ordering::Relaxed);
    CliError::Interrupted(match number {
        _ if number == SignalKind::terminate().as_raw_value() => "SIGTERM",
        _ if number == SignalKind::hangup().as_raw_value() => "SIGHUP",
        _ => "the user",
    })
}

/// Whether a signal has come.
pub fn has_come() -> bool {
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// Whether the process was started with this signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}

/// How the terminal was when the program began.
static MODE: LazyLock<Option<rustix::termios::Termios>> =
    LazyLock::new(|| rustix::termios::tcgetattr(rustix::stdio::stdin()).ok());

/// Remembers how the terminal is.
pub fn save_terminal() {
    LazyLock::force(&MODE);
}

/// Restores the terminal's mode if reading a line was interrupted.
pub fn restore_terminal() {
    use rustix::termios::{OptionalActions, tcsetattr};
    if let Some(mode) = &*MODE {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, mode);
    }
}
