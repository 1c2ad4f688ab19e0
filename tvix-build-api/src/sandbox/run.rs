//! Running a prepared process: its log and its end.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::timers::Timers;
use super::trouble::{Blame, Trouble};
use crate::log::Tail;
use crate::{FailureKind, LogSender, ResourceUsage, StructuredLog};
use tvix_sandbox::{Ending, Event, Line, LineBuffer, Running};

/// Maximum length of a log line in bytes; longer lines are split.
const LINE_LIMIT: usize = 64 * 1024;

/// Number of lines that are queued for a slow reader before the process is blocked.
const LINES_WAITING: usize = 256;

/// Sends the log of a process, line by line, and waits for its end. Stores its resource usage in
/// `usage`.
///
/// A reader that stops reading blocks the process, but not its time limit or its cancellation:
/// after these, lines that cannot be sent immediately are dropped.
///
/// # Errors
///
/// The failure that corresponds to the end of the process, unless it succeeded.
pub(super) async fn run(
    mut running: Running,
    blame: &Blame,
    timers: &Timers,
    log: &LogSender,
    cancel: &CancellationToken,
    tail: &mut Tail,
    usage: &mut Option<ResourceUsage>,
) -> Result<(), Trouble> {
    let mut lines = LineBuffer::new(LINE_LIMIT);
    let mut waiting: VecDeque<Line> = VecDeque::new();
    let mut killed = None;
    let ending = loop {
        let line = waiting.front().cloned();
        tokio::select! {
            biased;
            () = cancel.cancelled(), if killed.is_none() => {
                killed = Some(FailureKind::Cancelled);
                running.kill();
            }
            too_long = timers.too_long(), if killed.is_none() => {
                killed = Some(too_long);
                running.kill();
            }
            Some(()) = send_first(log, line), if killed.is_none() && !waiting.is_empty() => {
                waiting.pop_front();
            }
            event = running.next(), if killed.is_some() || waiting.len() < LINES_WAITING => {
                match event.map_err(|error| blame.engine(error))? {
                    Event::Log(bytes) => {
                        lines.push(&bytes);
                        while let Some(line) = lines.next_line() {
                            remember(tail, &line.text);
                            waiting.push_back(line);
                        }
                    }
                    Event::Ended(ending) => break ending,
                }
            }
        }
        while killed.is_some()
            && let Some(line) = waiting.pop_front()
        {
            let _ = send(log, line).now_or_never();
        }
    };
    *usage = running.usage().map(|used| ResourceUsage {
        user: used.user,
        system: used.system,
        peak_memory: used.peak_memory,
    });
    if let Some(line) = lines.finish() {
        remember(tail, &line.text);
        waiting.push_back(line);
    }
    // The process is dead and its output is complete.
    while let Some(line) = waiting.pop_front() {
        tokio::select! {
            biased;
            () = send(log, line), if killed.is_none() => {}
            () = cancel.cancelled() => break,
        }
    }
    let failure = match (killed, ending) {
        (_, Ending::Exited(0)) => return Ok(()),
        (Some(killed), _) => killed,
        (None, Ending::Exited(code)) => FailureKind::ExitCode { code },
        (None, Ending::Signalled(signal)) => FailureKind::Signal { signal },
        (None, Ending::TimedOut(limit)) => FailureKind::TimedOut { limit },
        (None, Ending::Silent(limit)) => FailureKind::Silent { limit },
        (None, Ending::TooMuchLog(limit)) => FailureKind::LogLimit { limit },
        (None, Ending::TooMuchDisk(limit)) => FailureKind::DiskLimit { limit },
        (None, Ending::OutOfMemory(limit)) => FailureKind::MemoryLimit { limit },
        (None, _) => FailureKind::Cancelled,
    };
    Err(failure.into())
}

/// The tail is for display, so it omits structured lines.
fn remember(tail: &mut Tail, line: &Bytes) {
    if StructuredLog::parse(line).is_none() {
        tail.push(line);
    }
}

async fn send_first(log: &LogSender, line: Option<Line>) -> Option<()> {
    send(log, line?).await;
    Some(())
}

async fn send(log: &LogSender, line: Line) {
    match line.partial {
        true => log.send_partial(line.text).await,
        false => log.send(line.text).await,
    }
}
