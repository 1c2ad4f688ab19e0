//! How settings of Nix change the arguments.

use std::path::PathBuf;

use super::{
    BuildArgs, BuildingArgs, DaemonArgs, NetworkArgs, SearchArgs, SubstituteArgs, TransferOptions,
};
use crate::settings::value::parse_jobs;
use crate::settings::{Assignment, Configure, SettingError};

impl Configure for BuildArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        if assignment.setting.name == "keep-going" {
            self.keep_going = assignment.boolean()?;
        }
        self.source.search.configure(assignment)?;
        self.building.configure(assignment)
    }
}

impl Configure for DaemonArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        let more = &mut self.more;
        match assignment.setting.name {
            "allowed-users" => assignment.list(&mut more.allowed_users)?,
            "keep-derivations" => more.keep_derivations = assignment.boolean()?,
            "compress-build-log" => more.compress_build_log = assignment.boolean()?,
            "keep-build-log" => more.keep_build_log = assignment.boolean()?,
            "post-build-hook" => {
                let hook = Some(PathBuf::from(&assignment.value));
                more.post_build_hook = hook.filter(|hook| !hook.as_os_str().is_empty());
            }
            "keep-outputs" => more.keep_outputs = assignment.boolean()?,
            "trusted-substituters" => assignment.list(&mut more.trusted_substituters)?,
            "trusted-users" => assignment.list(&mut more.trusted_users)?,
            _ => {}
        }
        self.building.configure(assignment)
    }
}

impl Configure for SearchArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        match assignment.setting.name {
            "abort-on-warn" => self.abort_on_warn = assignment.boolean()?,
            "allow-import-from-derivation" => {
                self.more.import_from_derivation = assignment.boolean()?;
            }
            "allowed-uris" => assignment.list(&mut self.allowed_uris)?,
            "eval-system" => self.more.eval_system = Some(assignment.value.clone()),
            "max-call-depth" => self.more.max_call_depth = Some(assignment.number()?),
            "nix-path" => assignment.list(self.more.nix_path.get_or_insert_default())?,
            "pure-eval" => {
                self.pure_eval = assignment.boolean()?;
                self.impure = !self.pure_eval;
            }
            "restrict-eval" => self.restrict_eval = assignment.boolean()?,
            "show-trace" => self.show_trace = assignment.boolean()?,
            "system" => self.more.system = Some(assignment.value.clone()),
            "tarball-ttl" => self.tarball_ttl = assignment.number()?,
            "trace-verbose" => self.more.trace_verbose = assignment.boolean()?,
            _ => {}
        }
        Ok(())
    }
}

impl Configure for SubstituteArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        match assignment.setting.name {
            "max-substitution-jobs" => {
                self.more.max_substitution_jobs = Some(assignment.number()?);
            }
            "narinfo-cache-meta-ttl" => self.more.info_ttl = Some(assignment.number()?),
            "narinfo-cache-negative-ttl" => self.more.negative_ttl = Some(assignment.number()?),
            "narinfo-cache-positive-ttl" => self.more.positive_ttl = Some(assignment.number()?),
            "require-sigs" => self.more.unsigned = !assignment.boolean()?,
            "substitute" => self.no_substitute = !assignment.boolean()?,
            "substituters" => assignment.list(&mut self.substituters)?,
            "trusted-public-keys" => assignment.list(&mut self.trusted_public_keys)?,
            _ => {}
        }
        Ok(())
    }
}

impl Configure for BuildingArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        match assignment.setting.name {
            "builders" => self.builders = Some(assignment.value.clone()),
            "builders-use-substitutes" => self.builders_use_substitutes = assignment.boolean()?,
            "cores" => self.cores = assignment.number()?,
            "extra-platforms" => assignment.list(&mut self.extra_platforms)?,
            "keep-failed" => self.keep_failed = assignment.boolean()?,
            "max-build-log-size" => self.max_log_size = assignment.limit()?,
            "max-jobs" => {
                let jobs = parse_jobs(&assignment.value);
                self.max_jobs = Some(jobs.map_err(|_| assignment.should_be("a number or 'auto'"))?);
            }
            "max-silent-time" => self.max_silent_time = assignment.limit()?,
            "netrc-file" => self.netrc_file = PathBuf::from(&assignment.value),
            "sandbox" => {
                (self.no_sandbox, self.relaxed_sandbox) = match assignment.value.as_str() {
                    "relaxed" => (false, true),
                    _ => {
                        let on = assignment.boolean();
                        let expected = "'true', 'false' or 'relaxed'";
                        (!on.map_err(|_| assignment.should_be(expected))?, false)
                    }
                };
            }
            "sandbox-paths" => assignment.list(&mut self.sandbox_paths)?,
            "store" => assignment.store(&mut self.store)?,
            "system" => self.system = Some(assignment.value.clone()),
            "system-features" => {
                assignment.list(&mut self.system_features)?;
                self.only_system_features |= !assignment.append;
            }
            "timeout" => self.timeout = assignment.limit()?,
            _ => {}
        }
        self.transfer.configure(assignment)?;
        self.substitute.configure(assignment)
    }
}

impl Configure for TransferOptions {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        if assignment.setting.name == "http-connections" {
            self.connections = Some(assignment.number()?);
            return Ok(());
        }
        let option = match assignment.setting.name {
            "connect-timeout" => &mut self.connect_timeout,
            "download-attempts" => &mut self.download_attempts,
            "stalled-download-timeout" => &mut self.stalled_download_timeout,
            _ => return Ok(()),
        };
        *option = Some(assignment.number()?);
        Ok(())
    }
}

impl Configure for NetworkArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        if assignment.setting.name == "netrc-file" {
            self.netrc_file = PathBuf::from(&assignment.value);
        }
        self.transfer.configure(assignment)
    }
}
