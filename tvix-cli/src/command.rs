//! The top of the command line: `tvix COMMAND`.

use clap::{Parser, Subcommand};

use crate::args::{
    BuildArgs, ConfigArgs, DaemonArgs, EvalArgs, InstantiateArgs, JobsArgs, ReplArgs,
};
use crate::settings::{Assignment, Configure, SettingError, WithSettings};
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

// Only the arguments of the command that runs are built. Descriptions for the list of commands are therefore here;
// those of the arguments, which are longer, replace them.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Build derivations and print the store paths of their outputs.
    Build(WithSettings<BuildArgs>),
    /// Add the derivations of an expression to the store and print their paths.
    Instantiate(WithSettings<InstantiateArgs>),
    /// Evaluate expressions and print their values.
    Eval(WithSettings<EvalArgs>),
    /// Evaluate a set of jobs and print a line of JSON for each.
    Jobs(WithSettings<JobsArgs>),
    /// Evaluate expressions interactively.
    Repl(WithSettings<ReplArgs>),
    /// Inspect, copy, verify and clean up stores.
    Store(StoreArgs),
    /// Serve clients of Nix as a Nix daemon.
    Daemon(WithSettings<DaemonArgs>),
    /// Show the settings, their values, and where each was set.
    Config(WithSettings<ConfigArgs>),
}

impl Configure for Command {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        match self {
            Self::Build(WithSettings(args)) => args.configure(assignment),
            Self::Instantiate(WithSettings(InstantiateArgs {
                source, building, ..
            }))
            | Self::Eval(WithSettings(EvalArgs {
                source, building, ..
            }))
            | Self::Jobs(WithSettings(JobsArgs {
                source, building, ..
            }))
            | Self::Repl(WithSettings(ReplArgs {
                source, building, ..
            })) => {
                source.search.configure(assignment)?;
                building.configure(assignment)
            }
            Self::Store(args) => args.configure(assignment),
            Self::Daemon(WithSettings(args)) => args.configure(assignment),
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

    #[test]
    fn descriptions_are_those_of_the_arguments() {
        fn descriptions(command: &clap::Command) -> Vec<(String, String)> {
            let about = |sub: &clap::Command| sub.get_about().map(ToString::to_string);
            command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
                .map(|sub| (sub.get_name().to_owned(), about(sub).unwrap_or_default()))
                .collect()
        }
        let mut built = Args::command();
        built.build();
        assert_eq!(descriptions(&Args::command()), descriptions(&built));
        // Those of stores are not built with their parent.
        let store = |command: clap::Command| {
            let of_store = command
                .get_subcommands()
                .find(|sub| sub.get_name() == "store");
            of_store.expect("there is such a command").clone()
        };
        let mut only_store = store(Args::command());
        // The first step builds it, but not its commands.
        let _ = only_store.render_usage();
        assert_eq!(descriptions(&only_store).len(), 13);
        assert_eq!(descriptions(&only_store), descriptions(&store(built)));
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
        let mut command = Args::command();
        command.build();
        let leaves = leaves(&command);
        assert!(leaves.len() > 15);
        for leaf in leaves {
            for arg in leaf.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let name = arg.get_long().unwrap_or_default();
                let here = format!("{} --{name}", leaf.get_name());
                let below_network = arg.get_help_heading() == Some("Network");
                assert_eq!(below_network, network.contains(&name), "{here}");
                if arg.is_positional()
                    || ["out-link", "listen", "add-root", "socket"].contains(&name)
                {
                    assert_eq!(arg.get_help_heading(), None, "{here}");
                }
                assert!(arg.get_help().is_some() || name == "help", "{here}");
            }
        }
    }
}
