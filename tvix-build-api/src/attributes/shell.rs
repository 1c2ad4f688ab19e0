//! Structured attributes as bash declarations. Only values that bash can represent are declared:
//! strings, integers, null, booleans, and lists and objects of these.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use super::json::sorted;

/// One line for each attribute that can be declared, sorted by name.
pub(super) fn declarations(attributes: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (name, value) in sorted(attributes) {
        if is_variable(name)
            && let Some(declaration) = declaration(name, value)
        {
            out.push_str(&declaration);
        }
    }
    out
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn declaration(name: &str, value: &Value) -> Option<String> {
    let mut inside = String::new();
    match value {
        Value::Array(elements) => {
            for element in elements {
                write!(inside, "{} ", word(element)?).ok()?;
            }
            Some(format!("declare -a {name}=({inside})\n"))
        }
        Value::Object(entries) => {
            for (key, value) in sorted(entries) {
                write!(inside, "[{}]={} ", quoted(key), word(value)?).ok()?;
            }
            Some(format!("declare -A {name}=({inside})\n"))
        }
        simple => Some(format!("declare {name}={}\n", word(simple)?)),
    }
}

/// A value that is a single word in bash.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(quoted(text)),
        Value::Number(number) => whole(number).map(|number| number.to_string()),
        Value::Null => Some("''".into()),
        Value::Bool(true) => Some("1".into()),
        Value::Bool(false) => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number in Nix's format: an integral number in single precision is converted to a C `int`. For
/// numbers beyond 32 bits, builder programs see the same wrong digits.
fn whole(number: &Number) -> Option<i32> {
    if let Some(value) = number.as_i64() {
        return Some(value as i32);
    }
    if let Some(value) = number.as_u64() {
        return Some(value as i32);
    }
    let value = number.as_f64()?;
    let single = value as f32;
    if single.ceil() != single {
        return None;
    }
    // The result of the conversion on x86 for a number that is too large.
    let fits = value > f64::from(i32::MIN) - 1.0 && value < f64::from(i32::MAX) + 1.0;
    Some(if fits { value as i32 } else { i32::MIN })
}

/// Quotes a text for a POSIX shell, unconditionally.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        declarations(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_bash_can_hold() {
        assert_eq!(
            of(r#"{"z":"it's","a":["x y",1,true,false,null],"m":{"k'":"v","b":2.0},"n":null}"#),
            "declare -a a=('x y' 1 1  '' )\n\
             declare -A m=(['b']=2 ['k'\\''']='v' )\n\
             declare n=''\n\
             declare z='it'\\''s'\n"
        );
    }

    #[test]
    fn what_bash_cannot_hold_is_left_out() {
        assert_eq!(
            of(r#"{"a b":1,"1a":1,"":1,"f":1.5,"deep":[[1]],"o":{"a":{}},"é":1,"_ok9":true}"#),
            "declare _ok9=1\n"
        );
    }

    #[test]
    fn numbers_are_c_integers() {
        assert_eq!(
            of(r#"{"a":4294967297,"b":-1,"c":1e10,"d":16777216.5,"e":18446744073709551615}"#),
            "declare a=1\ndeclare b=-1\ndeclare c=-2147483648\ndeclare d=16777216\ndeclare e=-1\n"
        );
    }
}
