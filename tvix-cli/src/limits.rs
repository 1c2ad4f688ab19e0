//! Limits of this process (`ulimit`) that it cannot work within.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Resource, getrlimit};

use crate::error::CliError;
use crate::output::say;

/// The number of open files that a build of a single derivation needs, with its store.
const OPEN_FILES: u64 = 64;

/// Addresses that an evaluation needs, with its threads, in bytes.
const ADDRESSES: u64 = 256 << 20;

/// How much address space mimalloc reserves at once: a gibibyte, unless this variable says otherwise.
const RESERVE_VARIABLE: &str = "MIMALLOC_ARENA_RESERVE";

/// The reservation in a process with a limit of address space.
const RESERVE: &str = "32M";

/// The size of the main thread's stack, independent of `ulimit -s`.
const STACK: usize = 8 << 20;

/// Runs `work` on a thread with a stack of the usual size.
///
/// # Errors
///
/// [`CliError::Limit`] if the process may have too few files or threads.
pub fn with_room(work: impl FnOnce() -> ExitCode + Send + 'static) -> Result<ExitCode, CliError> {
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < OPEN_FILES
    {
        return Err(CliError::Limit {
            message: format!(
                "this process may open {limit} files and needs {OPEN_FILES} or more; raise the limit \
                 (ulimit -n)"
            ),
        });
    }
    if let Some(limit) = getrlimit(Resource::As).current {
        if limit < ADDRESSES {
            let (limit, needed) = (limit >> 20, ADDRESSES >> 20);
            return Err(CliError::Limit {
                message: format!(
                    "this process may use {limit} MiB of address space and needs {needed} or more; raise the \
                     limit (ulimit -v)"
                ),
            });
        }
        start_again_with_small_reserve();
    }
    say_what_lacks();
    let thread = std::thread::Builder::new()
        .name("main".into())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|error| CliError::Limit {
            message: lack(error.raw_os_error()).unwrap_or_else(|| error.to_string()),
        })?;
    match thread.join() {
        Ok(code) => Ok(code),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Starts this program once more if its allocator has reserved too much of the address space. It does so
/// before `main`, so only the environment can tell it.
fn start_again_with_small_reserve() {
    if std::env::var_os(RESERVE_VARIABLE).is_some() {
        return;
    }
    let mut args = std::env::args_os();
    let Some(name) = args.next() else {
        return;
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(args).env(RESERVE_VARIABLE, RESERVE);
    // Otherwise the C library reserves 64 MiB for each thread that calls it.
    command.env("MALLOC_ARENA_MAX", "1");
    // If this fails, the process works with what is left.
    let _ = command.exec();
}

/// Turns panics of libraries that cannot get a thread or descriptor into an error.
fn say_what_lacks() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        match text.and_then(|text| lack(os_error(text))) {
            Some(message) => {
                say!("error: {message}");
                std::process::exit(i32::from(crate::exit::ERROR));
            }
            None => default(info),
        }
    }));
}

/// The error number in the words of a panic, as `io::Error` writes it in its two forms.
fn os_error(text: &str) -> Option<i32> {
    let (_, after) = text
        .split_once("(os error ")
        .or_else(|| text.split_once("Os { code: "))?;
    let digits = after.split(|character: char| !character.is_ascii_digit());
    digits.into_iter().next()?.parse().ok()
}

/// The exhausted resource and its remedy, if the error means that one is exhausted.
fn lack(error: Option<i32>) -> Option<String> {
    let error = io::Error::from_raw_os_error(error?);
    let (what, option) = match rustix::io::Errno::from_io_error(&error)? {
        // Their stacks count as address space.
        rustix::io::Errno::AGAIN => ("threads", "-u, or -v"),
        rustix::io::Errno::NOMEM => ("memory", "-v"),
        rustix::io::Errno::MFILE | rustix::io::Errno::NFILE => ("open files", "-n"),
        _ => return None,
    };
    Some(format!(
        "this process cannot get more {what}: {error}; raise the limit (ulimit {option})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_for_want_of_something_are_recognised() {
        for (text, option) in [
            (
                "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
                "ulimit -u",
            ),
            (
                "failed to create UnixStream: Os { code: 24, kind: Uncategorized, message: \"Too many \
                 open files\" }",
                "ulimit -n",
            ),
            (
                "failed to spawn thread: Os { code: 12, kind: x }",
                "ulimit -v",
            ),
        ] {
            let message = lack(os_error(text)).unwrap();
            assert!(message.contains(option), "{message}");
        }
        for text in ["index out of bounds", "x (os error 2)", "Os { code: ", ""] {
            assert_eq!(lack(os_error(text)), None, "{text}");
        }
    }
}
