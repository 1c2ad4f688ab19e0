//! The top of the command line: `tvix COMMAND`.

use clap::{Parser, Subcommand};

use crate::args::{BuildArgs, ConfigArgs, EvalArgs, InstantiateArgs, JobsArgs, ReplArgs};
use crate::settings::{Assignment, Configure, SettingError};
use crate::store::StoreArgs;

/// Evaluate Nix expressions and build derivations.
///
/// `tvix COMMAND --help` describes a command in full, `tvix COMMAND -h` in short.
#[derive(Debug, Parser)]
#[command(name = "tvix", version, about, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(BuildArgs),
    Instantiate(InstantiateArgs),
    Eval(EvalArgs),
    Jobs(JobsArgs),
    Repl(ReplArgs),
    Store(StoreArgs),
    Config(ConfigArgs),
}

impl Configure for Command {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        match self {
            Self::Build(args) => args.configure(assignment),
            Self::Instantiate(InstantiateArgs {
                source, building, ..
            })
            | Self::Eval(EvalArgs {
                source, building, ..
            })
            | Self::Jobs(JobsArgs {
                source, building, ..
            })
            | Self::Repl(ReplArgs {
                source, building, ..
            }) => {
                source.search.configure(assignment)?;
                building.configure(assignment)
            }
            Self::Store(args) => args.configure(assignment),
            // It shows all.
            Self::Config(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The commands without subcommands of their own, with their names.
    fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
        match command.has_subcommands() {
            true => command.get_subcommands().flat_map(leaves).collect(),
            false => vec![command],
        }
    }

    /// A heading applies to the arguments that follow a flattened group, too, unless they have their own.
    #[test]
    fn headings_do_not_leak() {
        let network = [
            "netrc-file",
            "connect-timeout",
            "stalled-download-timeout",
            "download-attempts",
        ];
        let command = Args::command();
        let leaves = leaves(&command);
        assert!(leaves.len() > 15);
        for leaf in leaves {
            for arg in leaf.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let name = arg.get_long().unwrap_or_default();
                let here = format!("{} --{name}", leaf.get_name());
                let below_network = arg.get_help_heading() == Some("Network");
                assert_eq!(below_network, network.contains(&name), "{here}");
                if arg.is_positional() || ["out-link", "listen", "add-root"].contains(&name) {
                    assert_eq!(arg.get_help_heading(), None, "{here}");
                }
                assert!(arg.get_help().is_some() || name == "help", "{here}");
            }
        }
    }
}
