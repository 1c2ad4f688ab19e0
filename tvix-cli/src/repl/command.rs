//! The commands of the prompt.

/// A command.
pub struct Command {
    /// Its names, the short one first.
    pub names: &'static [&'static str],
    /// What follows it.
    argument: &'static str,
    /// The description, line by line.
    help: &'static [&'static str],
}

const fn command(
    names: &'static [&'static str],
    argument: &'static str,
    help: &'static [&'static str],
) -> Command {
    Command {
        names,
        argument,
        help,
    }
}

/// All commands, in the order of the help.
pub const COMMANDS: &[Command] = &[
    command(
        &[":a", ":add"],
        "<expr>",
        &["Define the attributes of a set as variables"],
    ),
    command(&[":b"], "<expr>", &["Build a derivation"]),
    command(
        &[":bl"],
        "<expr>",
        &[
            "Build a derivation, and link to its outputs",
            "in the current directory",
        ],
    ),
    command(
        &[":e", ":edit"],
        "<expr>",
        &["Edit the definition of a function or package"],
    ),
    command(
        &[":i"],
        "<expr>",
        &["Install a package in the profile (nix-env)"],
    ),
    command(
        &[":l", ":load"],
        "<path>",
        &["Evaluate a file and define its attributes"],
    ),
    command(
        &[":lf", ":load-flake"],
        "<ref>",
        &["Not supported: there are no flakes"],
    ),
    command(
        &[":ll", ":last-loaded"],
        "",
        &["List the variables that were defined last"],
    ),
    command(
        &[":p", ":print"],
        "<expr>",
        &[
            "Print a value with everything in it; strings",
            "without quotes and escapes",
        ],
    ),
    command(&[":q", ":quit"], "", &["Leave"]),
    command(&[":r", ":reload"], "", &["Load all files again"]),
    command(
        &[":sh"],
        "<expr>",
        &["Enter the build environment of a derivation"],
    ),
    command(&[":t"], "<expr>", &["Print the type of a value"]),
    command(
        &[":u"],
        "<expr>",
        &["Enter a shell that has a package on its PATH"],
    ),
    command(
        &[":doc"],
        "<expr>",
        &["Print the comment before a function"],
    ),
    command(
        &[":log"],
        "<expr>",
        &["Print the build log of a derivation"],
    ),
    command(
        &[":te", ":trace-enable"],
        "[bool]",
        &["Show full traces of errors (default: the opposite)"],
    ),
    command(&[":?", ":help"], "", &["Print this list"]),
];

/// The text of `:?`.
pub fn help() -> String {
    let mut text = String::from("Enter an expression, a definition, or a command:\n\n");
    let mut line = |left: &str, help: &[&str]| {
        let mut left = left;
        for part in help {
            text.push_str(&format!("  {left:<28} {part}\n"));
            left = "";
        }
    };
    line("<expr>", &["Print the value of an expression"]);
    line("<x> = <expr>", &["Define a variable"]);
    for command in COMMANDS {
        let names = command.names.join(", ");
        line(
            format!("{names} {}", command.argument).trim_end(),
            command.help,
        );
    }
    text
}

/// A command and its argument; `None` if it is not a command.
pub fn split(text: &str) -> Option<(&str, &str)> {
    if !text.starts_with(':') {
        return None;
    }
    let end = text.find([' ', '\n', '\r', '\t']).unwrap_or(text.len());
    Some((&text[..end], text[end..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_arguments() {
        assert_eq!(split(":p 1 +\n1"), Some((":p", "1 +\n1")));
        assert_eq!(split(":q"), Some((":q", "")));
        assert_eq!(split("1"), None);
    }

    #[test]
    fn help_has_every_command() {
        let help = help();
        for command in COMMANDS {
            assert!(command.names.iter().all(|name| help.contains(name)));
        }
        assert!(help.lines().all(|line| line.len() <= 80), "{help}");
    }
}
