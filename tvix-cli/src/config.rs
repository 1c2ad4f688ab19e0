//! `tvix config`: settings, their values and where they are from.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::args::ConfigArgs;
use crate::error::CliError;
use crate::output::print;
use crate::settings::{Assignment, Effect, Kind, SETTINGS, Setting, find};

/// A setting with its present value.
struct Shown {
    setting: &'static Setting,
    value: String,
    /// The places that set it or added to it; none for the default.
    origins: Vec<String>,
}

pub fn run(args: ConfigArgs) -> Result<ExitCode, CliError> {
    let shown = shown(&args.names, &args.assignments)?;
    if args.json {
        let all: Map<String, Value> = shown
            .into_iter()
            .map(|it| (it.setting.name.to_owned(), it.json()))
            .collect();
        print([Value::Object(all)])?;
    } else if let [one] = &shown[..] {
        // For scripts, as `nix config show NAME` prints it.
        print([&one.value])?;
    } else {
        print(shown.iter().map(Shown::line))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(names: &[String], assignments: &[Assignment]) -> Result<Vec<Shown>, CliError> {
    let mut wanted = Vec::new();
    for name in names {
        match find(name) {
            Some((setting, false)) => wanted.push(setting),
            _ => return Err(CliError::UnknownSetting(name.clone())),
        }
    }
    if names.is_empty() {
        wanted.extend(SETTINGS);
    }
    let all = wanted.into_iter().map(|setting| {
        let mut shown = Shown {
            setting,
            value: setting.default.to_owned(),
            origins: Vec::new(),
        };
        for assignment in assignments {
            if assignment.setting.name == setting.name {
                shown.apply(assignment)?;
            }
        }
        Ok(shown)
    });
    all.collect()
}

impl Shown {
    fn apply(&mut self, assignment: &Assignment) -> Result<(), CliError> {
        let value = match self.setting.kind {
            Kind::Bool => assignment.boolean()?.to_string(),
            Kind::Number => assignment.number::<u64>()?.to_string(),
            _ => assignment.value.clone(),
        };
        if assignment.append {
            if !self.value.is_empty() && !value.is_empty() {
                self.value.push(' ');
            }
            self.value.push_str(&value);
        } else {
            self.value = value;
            self.origins.clear();
        }
        self.origins.push(assignment.origin.to_string());
        Ok(())
    }

    /// The effect of the setting, as a word.
    fn effect(&self) -> &'static str {
        match self.setting.effect {
            Effect::Used => "used",
            Effect::Settled => "settled",
            Effect::None => "none",
        }
    }

    fn line(&self) -> String {
        let Self { setting, value, .. } = self;
        let mut line = format!("{} = {value}", setting.name);
        let mut remarks = self.origins.clone();
        if !remarks.is_empty() && setting.effect == Effect::None {
            remarks.push("no effect".to_owned());
        }
        if !remarks.is_empty() {
            line = format!("{line}  # {}", remarks.join(", "));
        }
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "aliases": self.setting.aliases,
            "value": typed(self.setting.kind, &self.value),
            "defaultValue": typed(self.setting.kind, self.setting.default),
            "origins": self.origins,
            "effect": self.effect(),
        })
    }
}

/// A value as JSON of the setting's type.
fn typed(kind: Kind, value: &str) -> Value {
    match kind {
        Kind::Bool => Value::Bool(value == "true"),
        Kind::Number => value
            .parse::<u64>()
            .map_or_else(|_| Value::from(value), Value::from),
        Kind::List => value.split_whitespace().collect(),
        Kind::Text | Kind::Sandbox | Kind::Jobs => Value::from(value),
    }
}
