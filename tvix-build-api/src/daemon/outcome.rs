//! Failures of builds, from the status and the message of a daemon.
//!
//! The protocol has a status and a text. The texts are those of Nix 2.8 to 2.34; one that is not
//! understood still gives a failure with that text.

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_worker_protocol::BuildStatus;

use super::text::{number, rest_of_line};
use crate::{BuildRequest, FailureKind};

/// Whether the machine of a daemon lacks a system or feature.
pub(super) fn unsupported(text: &str) -> bool {
    text.contains("required system or feature not available")
        || (text.contains("is required to build") && text.contains("but I am"))
}

/// The failure of the derivation; `None` if the daemon is at fault.
pub(super) fn failure_of(
    dir: &StoreDir,
    request: &BuildRequest,
    status: BuildStatus,
    text: &str,
) -> Option<FailureKind> {
    if let Some(kind) = understood(dir, request, text) {
        return Some(kind);
    }
    match status {
        BuildStatus::TimedOut => Some(timed_out(request, text)),
        BuildStatus::LogLimitExceeded => {
            let limit = request.limits.log_bytes.unwrap_or_default();
            Some(FailureKind::LogLimit { limit })
        }
        BuildStatus::InputRejected => Some(FailureKind::InvalidDerivation {
            message: text.to_owned(),
        }),
        BuildStatus::OutputRejected | BuildStatus::NotDeterministic => {
            Some(FailureKind::InvalidOutput {
                output: first_output(request),
                message: text.to_owned(),
            })
        }
        BuildStatus::PermanentFailure | BuildStatus::CachedFailure => {
            Some(FailureKind::CannotRun {
                program: request.derivation.builder.to_string(),
                message: text.to_owned(),
            })
        }
        _ => None,
    }
}

fn first_output(request: &BuildRequest) -> OutputName {
    let mut names = request.derivation.outputs.keys();
    names.next().cloned().unwrap_or_else(OutputName::out)
}

fn timed_out(request: &BuildRequest, text: &str) -> FailureKind {
    let limit = text
        .split_once("timed out after ")
        .and_then(|(_, rest)| number(rest))
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(std::time::Duration::from_secs);
    match text.contains("of silence") {
        true => FailureKind::Silent {
            limit: request.limits.silence.or(limit).unwrap_or_default(),
        },
        false => FailureKind::TimedOut {
            limit: request.limits.wall_time.or(limit).unwrap_or_default(),
        },
    }
}

/// The failure that a text tells of.
pub(super) fn understood(
    dir: &StoreDir,
    request: &BuildRequest,
    text: &str,
) -> Option<FailureKind> {
    let exit = text.split_once("failed with exit code ");
    if let Some(code) = exit.and_then(|(_, rest)| number(rest)) {
        return Some(FailureKind::ExitCode { code });
    }
    let signal = text.split_once("failed due to signal ");
    if let Some(signal) = signal.and_then(|(_, rest)| number(rest)) {
        return Some(FailureKind::Signal { signal });
    }
    if text.contains("hash mismatch in fixed-output derivation") {
        let hash = |name| {
            let text = rest_of_line(text, name)?;
            NixHash::parse_any(text, None).ok()
        };
        let (expected, actual) = (hash("specified:")?, hash("got:")?);
        return Some(FailureKind::HashMismatch { expected, actual });
    }
    if let Some((_, rest)) = text.split_once("failed to produce output path for output '") {
        let name = rest.split('\'').next()?;
        let mut outputs = request.derivation.output_paths(dir);
        let path = outputs.find(|(output, _)| output.as_str() == name);
        // In the text it may be below a sandbox.
        let path = path.and_then(|(_, path)| Some(dir.path_text(&path?)));
        return Some(FailureKind::MissingOutput {
            output: name.parse().ok()?,
            path: path.unwrap_or_default(),
        });
    }
    if let Some((before, after)) = text.split_once("is not allowed to refer to") {
        let references: Vec<_> = paths_in(dir, after).collect();
        let output = output_of(dir, request, before);
        if !references.is_empty() {
            return Some(FailureKind::ForbiddenReference { output, references });
        }
    }
    let invalid = [
        "cycle detected in",
        "should be a non-executable regular file",
        "invalid file name",
        "suspicious ownership or permission",
        "output check",
        "has an unsupported type",
        "contains an illegal",
    ];
    if invalid.iter().any(|known| text.contains(known)) {
        return Some(FailureKind::InvalidOutput {
            output: output_of(dir, request, text),
            message: text.to_owned(),
        });
    }
    None
}

/// The store paths in a text.
fn paths_in<'t>(dir: &'t StoreDir, text: &'t str) -> impl Iterator<Item = StorePath> + 't {
    let words = text.split(|c: char| c.is_whitespace() || c == '\'' || c == ',');
    words.filter_map(|word| dir.parse(word).ok())
}

/// The output that a text names, by its path or its name; the first one if there is none.
fn output_of(dir: &StoreDir, request: &BuildRequest, text: &str) -> OutputName {
    let outputs = request.derivation.output_paths(dir);
    let by_path = outputs
        .filter_map(|(name, path)| Some((name, dir.path_text(&path?))))
        .find(|(_, path)| text.contains(path.as_str()));
    if let Some((name, _)) = by_path {
        return name.clone();
    }
    let mut names = request.derivation.outputs.keys();
    let by_name = names.find(|name| text.contains(&format!("'{name}'")));
    by_name.cloned().unwrap_or_else(|| first_output(request))
}
