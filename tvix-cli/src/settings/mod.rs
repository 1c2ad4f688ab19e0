//! Settings with Nix's names: in files of settings, as `--option NAME VALUE`, `--NAME VALUE`, `--NAME` and `--no-NAME`.
//!
//! The table in [`known`] lists the settings of Nix. Groups of arguments implement [`Configure`] for
//! the settings that have a meaning in this program. The last assignment on the command line wins, whether it
//! is a setting or an option of this program.

pub mod files;
mod known;
pub mod value;

use std::collections::HashSet;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use thiserror::Error;

pub use files::{FilesError, Origin};
pub use known::{Effect, Kind, SETTINGS, Setting, did_you_mean, find};

/// A setting and its new value.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value, as typed.
    pub value: String,
    /// Whether the value is added to the present one (`extra-NAME`).
    pub append: bool,
    /// Where it is from.
    pub origin: Origin,
}

/// Why a setting cannot be set.
#[derive(Debug, Error)]
#[error("setting '{name}'{place} has invalid value '{value}', expected {expected}")]
pub struct SettingError {
    name: &'static str,
    /// ` in FILE:LINE`, or empty.
    place: String,
    value: String,
    expected: String,
}

/// Arguments that settings change.
pub trait Configure {
    /// Changes the argument that corresponds to the setting, if it is one of these.
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError>;
}

/// Settings in order: those of the files, or of a command line.
#[derive(Debug, Default)]
pub struct Assignments {
    /// Assignments to known settings.
    pub known: Vec<Assignment>,
    /// Unknown names.
    pub unknown: Vec<(String, Origin)>,
}

const OPTION: &str = "option";

/// The arguments of a command, and those for settings: `--option`, and each setting as an option of its own. Only
/// `--option` is shown in the help.
#[derive(Debug)]
pub struct WithSettings<A>(pub A);

impl<A: Args> Args for WithSettings<A> {
    fn augment_args(command: Command) -> Command {
        with_arguments(A::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        with_arguments(A::augment_args_for_update(command))
    }
}

impl<A: FromArgMatches> FromArgMatches for WithSettings<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

fn with_arguments(command: Command) -> Command {
    let own = command.get_arguments().filter_map(Arg::get_long);
    let own: HashSet<String> = own.map(str::to_owned).collect();
    command.args_override_self(true).args(arguments(&own))
}

fn arguments(own: &HashSet<String>) -> Vec<Arg> {
    let option = Arg::new(OPTION)
        .long(OPTION)
        .num_args(2)
        .allow_hyphen_values(true)
        .value_names(["NAME", "VALUE"])
        .action(ArgAction::Append)
        .help_heading("Settings of Nix")
        .help("Set the setting NAME to VALUE, as in nix.conf; 'extra-NAME' adds to a list");
    let mut all = vec![option];
    let mut add = |name: String, takes_value: bool| {
        if own.contains(&name) {
            return;
        }
        let arg = Arg::new(id(&name)).long(name).hide(true);
        all.push(match takes_value {
            true => arg
                .value_name("VALUE")
                .allow_hyphen_values(true)
                .action(ArgAction::Append),
            false => arg.action(ArgAction::SetTrue),
        });
    };
    for setting in SETTINGS {
        match setting.kind {
            Kind::Bool => {
                add(setting.name.to_owned(), false);
                add(format!("no-{}", setting.name), false);
            }
            Kind::Sandbox => add(setting.name.to_owned(), false),
            _ => add(setting.name.to_owned(), true),
        }
        if setting.kind == Kind::List {
            add(format!("extra-{}", setting.name), true);
        }
    }
    all
}

/// Precedes the name of an option in its id.
const PREFIX: &str = "setting:";

fn id(name: &str) -> String {
    [PREFIX, name].concat()
}

/// The settings among the arguments of a subcommand.
pub fn assignments(matches: &ArgMatches) -> Assignments {
    let mut found = Vec::new();
    if let (Some(pairs), Some(indices)) =
        (given::<String>(matches, OPTION), matches.indices_of(OPTION))
    {
        let values: Vec<_> = pairs.zip(indices).collect();
        for pair in values.chunks_exact(2) {
            found.push((pair[0].1, pair[0].0.clone(), pair[1].0.clone()));
        }
    }
    for id in matches.ids() {
        if let Some(name) = id.as_str().strip_prefix(PREFIX) {
            take_flag(matches, name, &mut found);
        }
    }
    found.sort_by_key(|(index, ..)| *index);
    let mut assignments = Assignments::default();
    for (index, name, value) in found {
        match find(&name) {
            Some((setting, append)) if !overridden(matches, setting, index) => {
                assignments.known.push(Assignment {
                    setting,
                    value,
                    append,
                    origin: Origin::CommandLine,
                });
            }
            Some(_) => {}
            None => assignments.unknown.push((name, Origin::CommandLine)),
        }
    }
    assignments
}

/// The assignments by the option `--NAME`.
fn take_flag(matches: &ArgMatches, name: &str, found: &mut Vec<(usize, String, String)>) {
    let id = id(name);
    if matches.value_source(&id) != Some(ValueSource::CommandLine) {
        return;
    }
    let Some(setting) = of_option(name) else {
        return;
    };
    let indices = matches.indices_of(&id).into_iter().flatten();
    if matches!(setting.kind, Kind::Bool | Kind::Sandbox) {
        let value = if name == setting.name {
            "true"
        } else {
            "false"
        };
        if let Some(index) = indices.last() {
            found.push((index, setting.name.to_owned(), value.to_owned()));
        }
        return;
    }
    let values = matches.get_many::<String>(&id).into_iter().flatten();
    for (value, index) in values.zip(indices) {
        found.push((index, name.to_owned(), value.clone()));
    }
}

/// The setting that the option `--NAME` assigns.
fn of_option(name: &str) -> Option<&'static Setting> {
    let is_of = |setting: &&Setting| {
        let rest = name.strip_suffix(setting.name);
        matches!(rest, Some("" | "no-" | "extra-"))
    };
    let all = SETTINGS.iter().filter(is_of);
    // The longest: `extra-platforms` is a setting, too.
    all.max_by_key(|setting| setting.name.len())
}

fn given<'m, T: Clone + Send + Sync + 'static>(
    matches: &'m ArgMatches,
    id: &str,
) -> Option<impl Iterator<Item = &'m T> + use<'m, T>> {
    matches.try_get_many::<T>(id).ok().flatten()
}

/// Leaves out settings that options of this program on the command line replace. An option replaces a list as a whole.
pub fn without_overridden(mut found: Assignments, matches: &ArgMatches) -> Assignments {
    let given = |assignment: &Assignment| overridden(matches, assignment.setting, 0);
    found.known.retain(|assignment| !given(assignment));
    found
}

/// Whether an option of this program with the same meaning comes later.
fn overridden(matches: &ArgMatches, setting: &Setting, index: usize) -> bool {
    setting.options.iter().any(|id| {
        let is_known = matches!(matches.try_contains_id(id), Ok(true));
        is_known
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && matches.indices_of(id).and_then(Iterator::max) > Some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(line: &str) -> Vec<String> {
        let own = Arg::new("cores").long("cores").action(ArgAction::Set);
        let build = with_arguments(Command::new("build").arg(own));
        let command = Command::new("x").subcommand(build);
        let line = line.split(' ').map(|word| word.replace('_', " "));
        let matches = command.get_matches_from(["x".to_owned()].into_iter().chain(line));
        let (_, matches) = matches.subcommand().unwrap();
        let assignments = assignments(matches);
        let known = assignments.known.iter().map(|assignment| {
            let sign = if assignment.append { "+=" } else { "=" };
            format!("{}{sign}{}", assignment.setting.name, assignment.value)
        });
        let unknown = assignments
            .unknown
            .iter()
            .map(|(name, _)| format!("?{name}"));
        known.chain(unknown).collect()
    }

    #[test]
    fn assignments_keep_their_order() {
        assert_eq!(
            set(
                "build --option cores 3 --substituters a_b --no-fallback --option extra-substituters c"
            ),
            [
                "cores=3",
                "substituters=a b",
                "fallback=false",
                "substituters+=c"
            ]
        );
        assert_eq!(set("build --option build-cores 3"), ["cores=3"]);
        assert_eq!(set("build --option nonsense 3"), ["?nonsense"]);
        assert_eq!(set("build --option extra-cores 3"), ["?extra-cores"]);
    }

    #[test]
    fn what_comes_last_wins() {
        assert_eq!(set("build --option cores 3 --cores 4"), [""; 0]);
        assert_eq!(set("build --cores 4 --option cores 3"), ["cores=3"]);
    }
}
