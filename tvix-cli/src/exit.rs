//! Exit codes, as Nix has them: 1 for errors, and 100 and more for builds that fail.

use std::process::ExitCode;

use tvix_build_api::FailureKind;
use tvix_coordinator::{CheckProblem, FailureCause, Report, Status};

/// The exit code of an error.
pub const ERROR: u8 = 1;

/// What kinds of build failures there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// A builder failed, or no builder takes the derivation.
    permanent: bool,
    timed_out: bool,
    hash_mismatch: bool,
    not_deterministic: bool,
}

impl Failures {
    /// The failures of a session. A fixed-output derivation may fail because of the network, which is
    /// not a permanent failure.
    pub fn of(report: &Report) -> Self {
        let mut failures = Self::default();
        for failure in report.failures.iter().filter(|failure| failure.needed) {
            match &failure.cause {
                FailureCause::Build { failure: build } => {
                    failures.add(&build.kind, failure.fixed_output);
                }
                FailureCause::Unsuitable { .. } => failures.permanent = true,
                _ => {}
            }
        }
        for problem in report.checks.iter().filter_map(|it| it.problem.as_ref()) {
            match problem {
                CheckProblem::Differs { .. } => failures.not_deterministic = true,
                CheckProblem::Failed {
                    failure,
                    fixed_output,
                } => failures.add(&failure.kind, *fixed_output),
                CheckProblem::Impossible { reason } => {
                    failures.permanent |= matches!(**reason, FailureCause::Unsuitable { .. });
                }
                _ => {}
            }
        }
        failures
    }

    fn add(&mut self, kind: &FailureKind, fixed: bool) {
        match kind {
            FailureKind::ExitCode { .. }
            | FailureKind::Signal { .. }
            | FailureKind::CannotRun { .. } => self.permanent |= !fixed,
            FailureKind::MemoryLimit { .. } | FailureKind::DiskLimit { .. } => {
                self.permanent = true;
            }
            FailureKind::TimedOut { .. } | FailureKind::Silent { .. } => self.timed_out = true,
            FailureKind::HashMismatch { .. } => self.hash_mismatch = true,
            // Outputs that are missing or refused, and logs that are too long, are plain errors.
            _ => {}
        }
    }

    /// The exit code of a failure: 1 if no bit has been set below.
    ///
    /// | bit | |
    /// |---|---|
    /// | 96 | a kind of failure that has a code |
    /// | 4 | a build failed |
    /// | 1 | a build timed out |
    /// | 2 | an output has another hash |
    /// | 8 | a build is not deterministic |
    pub fn code(self) -> u8 {
        let build = self.permanent || self.timed_out || self.hash_mismatch;
        if !build && !self.not_deterministic {
            return ERROR;
        }
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        0b110_0000
            | bit(build, 0b0100)
            | bit(self.timed_out, 0b0001)
            | bit(self.hash_mismatch, 0b0010)
            | bit(self.not_deterministic, 0b1000)
    }
}

/// The exit code of a session.
pub fn code(report: &Report) -> ExitCode {
    match report.status {
        Status::Success => ExitCode::SUCCESS,
        // Without other errors, no builder could build it.
        Status::Error if !report.errors.is_empty() => ExitCode::from(ERROR),
        Status::BuildFailed | Status::CheckFailed | Status::Error => {
            ExitCode::from(Failures::of(report).code())
        }
        Status::Cancelled => ExitCode::from(ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From C++ Nix 2.34.8.
    #[test]
    fn bits_are_combined() {
        let none = Failures::default();
        let permanent = Failures {
            permanent: true,
            ..none
        };
        let timed_out = Failures {
            timed_out: true,
            ..none
        };
        let hash_mismatch = Failures {
            hash_mismatch: true,
            ..none
        };
        for (failures, code) in [
            (none, 1),
            (permanent, 100),
            (timed_out, 101),
            (
                Failures {
                    timed_out: true,
                    ..permanent
                },
                101,
            ),
            (hash_mismatch, 102),
            (
                Failures {
                    timed_out: true,
                    ..hash_mismatch
                },
                103,
            ),
            (
                Failures {
                    not_deterministic: true,
                    ..none
                },
                104,
            ),
            (
                Failures {
                    not_deterministic: true,
                    ..permanent
                },
                108,
            ),
        ] {
            assert_eq!(failures.code(), code);
        }
    }
}
