//! The answers of this crate, as text.

use tvix_eval::internals::text::json::{self, JsonSink};
use tvix_eval::internals::text::number;
use tvix_eval::internals::text::print;
use tvix_eval::internals::text::regex::{Groups, Regex};
use tvix_eval::internals::text::toml::{self, TomlValue};
use tvix_eval::internals::text::version;
use tvix_eval::internals::text::xml::XmlWriter;

use std::collections::BTreeMap;

/// Separates the two parts of an input.
pub const SPLIT: char = '\u{1}';

pub const KINDS: [&str; 13] = [
    "match",
    "split",
    "compare",
    "components",
    "name",
    "coerced",
    "float-json",
    "float-xml",
    "json",
    "json-string",
    "toml",
    "xml-string",
    "printed",
];

/// A value of the language, as far as JSON represents it.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Vec<u8>),
    List(Vec<Value>),
    Set(BTreeMap<Vec<u8>, Value>),
}

impl Value {
    fn json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Int(value) => number::write_int(out, *value),
            Self::Float(value) => number::write_json(out, *value),
            Self::String(value) => json::write_string(out, value).unwrap(),
            Self::List(values) => {
                out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    value.json(out);
                }
                out.push(b']');
            }
            Self::Set(values) => {
                out.push(b'{');
                for (at, (key, value)) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    json::write_string(out, key).unwrap();
                    out.push(b':');
                    value.json(out);
                }
                out.push(b'}');
            }
        }
    }

    fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.json(&mut out);
        String::from_utf8(out).unwrap()
    }
}

impl From<TomlValue> for Value {
    fn from(value: TomlValue) -> Self {
        match value {
            TomlValue::String(value) => Self::String(value.into_bytes()),
            TomlValue::Int(value) => Self::Int(value),
            TomlValue::Float(value) => Self::Float(value),
            TomlValue::Bool(value) => Self::Bool(value),
            TomlValue::Array(values) => Self::List(values.into_iter().map(Self::from).collect()),
            TomlValue::Table(table) => Self::Set(
                table
                    .into_iter()
                    .map(|(key, value)| (key.into_bytes(), value.into()))
                    .collect(),
            ),
            TomlValue::DateTime(_) => panic!("dates are refused"),
        }
    }
}

fn has_date(value: &TomlValue) -> bool {
    match value {
        TomlValue::DateTime(_) => true,
        TomlValue::Array(values) => values.iter().any(has_date),
        TomlValue::Table(table) => table.values().any(has_date),
        _ => false,
    }
}

/// Builds values like the evaluator.
#[derive(Default)]
struct Build {
    done: Vec<Value>,
    keys: Vec<Vec<u8>>,
    open: Vec<usize>,
}

type Done = Result<(), std::convert::Infallible>;

impl Build {
    fn push(&mut self, value: Value) -> Done {
        self.done.push(value);
        Ok(())
    }
}

impl JsonSink for Build {
    type Error = std::convert::Infallible;

    fn null(&mut self) -> Done {
        self.push(Value::Null)
    }
    fn bool(&mut self, value: bool) -> Done {
        self.push(Value::Bool(value))
    }
    fn int(&mut self, value: i64) -> Done {
        self.push(Value::Int(value))
    }
    fn float(&mut self, value: f64) -> Done {
        self.push(Value::Float(value))
    }
    fn string(&mut self, value: &str) -> Done {
        self.push(Value::String(value.into()))
    }
    fn begin_list(&mut self) -> Done {
        self.open.push(self.done.len());
        Ok(())
    }
    fn end_list(&mut self) -> Done {
        let values = self.done.split_off(self.open.pop().unwrap());
        self.push(Value::List(values))
    }
    fn begin_set(&mut self) -> Done {
        self.begin_list()
    }
    fn key(&mut self, key: &str) -> Done {
        self.keys.push(key.into());
        Ok(())
    }
    fn end_set(&mut self) -> Done {
        let values = self.done.split_off(self.open.pop().unwrap());
        let keys = self.keys.split_off(self.keys.len() - values.len());
        // The last of several equal keys wins.
        self.push(Value::Set(keys.into_iter().zip(values).collect()))
    }
}

fn groups(groups: &Groups, text: &str) -> Value {
    let group = |group: &Option<std::ops::Range<usize>>| match group {
        Some(range) => Value::String(text[range.clone()].into()),
        None => Value::Null,
    };
    Value::List(groups.iter().map(group).collect())
}

fn split(regex: &Regex, text: &str) -> Option<Value> {
    let mut parts = Vec::new();
    let mut at = 0;
    for found in regex.find_iter(text.as_bytes()) {
        let found = found.ok()?;
        parts.push(Value::String(text[at..found.range.start].into()));
        parts.push(groups(&found.groups, text));
        at = found.range.end;
    }
    parts.push(Value::String(text[at..].into()));
    Some(Value::List(parts))
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn xml(element: &'static str, value: &[u8]) -> String {
    let mut xml = XmlWriter::new();
    xml.open("expr", &[]);
    xml.empty(element, &[("value", value)]);
    String::from_utf8(xml.finish()).unwrap()
}

/// The answer; `None` if it is an error.
pub fn answer(kind: &str, input: &str) -> Option<String> {
    let (left, right) = input.split_once(SPLIT).unwrap_or((input, ""));
    Some(match kind {
        "match" => {
            let found = Regex::new(left.as_bytes())
                .ok()?
                .match_whole(right.as_bytes());
            match found.ok()? {
                Some(found) => groups(&found, right).to_json(),
                None => "null".into(),
            }
        }
        "split" => split(&Regex::new(left.as_bytes()).ok()?, right)?.to_json(),
        "compare" => {
            let order = version::compare_versions(left.as_bytes(), right.as_bytes());
            (order as i8).to_string()
        }
        "components" => {
            let parts = version::split_version(input.as_bytes());
            Value::List(parts.map(|p| Value::String(p.into())).collect()).to_json()
        }
        "name" => {
            let (name, version) = version::parse_drv_name(input.as_bytes());
            let set = [("name", name), ("version", version)]
                .map(|(key, text)| (key.into(), Value::String(text.into())));
            Value::Set(set.into()).to_json()
        }
        "coerced" => written(|out| number::write_coerced(out, input.parse().unwrap())),
        "float-json" => written(|out| number::write_json(out, input.parse().unwrap())),
        "float-xml" => {
            let printed = written(|out| number::write_printed(out, input.parse().unwrap()));
            xml("float", printed.as_bytes())
        }
        "json" => {
            let mut build = Build::default();
            json::read(input.as_bytes(), 1000, &mut build).ok()?;
            build.done.pop()?.to_json()
        }
        "json-string" => written(|out| json::write_string(out, input.as_bytes()).unwrap()),
        "toml" => {
            let table = TomlValue::Table(toml::read(input.as_bytes()).ok()?);
            if has_date(&table) {
                return None;
            }
            Value::from(table).to_json()
        }
        "xml-string" => xml("string", input.as_bytes()),
        // In the format of evaluation results.
        "printed" => written(|out| {
            out.extend_from_slice(b"{ ");
            print::write_attribute_name(out, left.as_bytes());
            out.extend_from_slice(b" = ");
            print::write_string(out, right.as_bytes());
            out.extend_from_slice(b"; }");
        }),
        _ => return None,
    })
}
