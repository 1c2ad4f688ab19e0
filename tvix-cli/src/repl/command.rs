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
        &["Add attributes from resulting set to scope"],
    ),
    command(&[":b"], "<expr>", &["Build a derivation"]),
    command(
        &[":bl"],
        "<expr>",
        &[
            "Build a derivation, creating GC roots in the",
            "working directory",
        ],
    ),
    command(
        &[":e", ":edit"],
        "<expr>",
        &["Open package or function in $EDITOR"],
    ),
    command(&[":i"], "<expr>", &["Install a derivation with 'nix-env'"]),
    command(
        &[":l", ":load"],
        "<path>",
        &["Load Nix expression and add it to scope"],
    ),
    command(
        &[":lf", ":load-flake"],
        "<ref>",
        &["Not supported: there are no flakes"],
    ),
    command(
        &[":ll", ":last-loaded"],
        "",
        &["Show the variables that were loaded last"],
    ),
    command(
        &[":p", ":print"],
        "<expr>",
        &[
            "Evaluate and print expression recursively;",
            "strings are printed without escaping",
        ],
    ),
    command(&[":q", ":quit"], "", &["Exit"]),
    command(&[":r", ":reload"], "", &["Reload all files"]),
    command(&[":sh"], "<expr>", &["Start 'nix-shell' for a derivation"]),
    command(&[":t"], "<expr>", &["Describe result of evaluation"]),
    command(&[":u"], "<expr>", &["Start 'nix-shell' with a derivation"]),
    command(
        &[":doc"],
        "<expr>",
        &["Show documentation of a function or attribute"],
    ),
    command(
        &[":log"],
        "<expr>",
        &["Show the log of a derivation's build"],
    ),
    command(
        &[":te", ":trace-enable"],
        "[bool]",
        &["Enable, disable or toggle showing traces for", "errors"],
    ),
    command(&[":?", ":help"], "", &["Show this help"]),
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
    line("<expr>", &["Evaluate and print expression"]);
    line("<x> = <expr>", &["Bind expression to variable"]);
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
