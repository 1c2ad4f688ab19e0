//! JSON in the format of Nix: keys sorted by bytes, no spaces, floating-point numbers with a point
//! or an exponent of at least two digits (nlohmann's `dump`).

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// The entries of an object in Nix's order.
pub(super) fn sorted(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

/// A value as text. The recursion is bounded, because `serde_json` has a depth limit.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    write_to(&mut out, value);
    out
}

fn write_to(out: &mut String, value: &Value) {
    match value {
        Value::Object(object) => {
            out.push('{');
            for (index, (key, value)) in sorted(object).into_iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_text(out, key);
                out.push(':');
                write_to(out, value);
            }
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_to(out, element);
            }
            out.push(']');
        }
        Value::String(text) => write_text(out, text),
        Value::Number(number) => write_number(out, number),
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control @ '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(value) if number.is_f64() => write_float(out, value),
        _ => out.push_str(&number.to_string()),
    }
}

/// The shortest representation of the finite number `value`. It has an exponent if the point would
/// be more than 15 places after the first digit or if more than 3 zeros would precede it.
fn write_float(out: &mut String, value: f64) {
    if value.is_sign_negative() {
        out.push('-');
    }
    let scientific = format!("{:e}", value.abs());
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = digits.chars().filter(|digit| *digit != '.').collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let length = digits.len() as i32;
    // The position of the point, relative to the first digit.
    let point = exponent + 1;
    if length <= point && point <= 15 {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', (point - length) as usize));
        out.push_str(".0");
    } else if 0 < point && point <= 15 {
        let (whole, rest) = digits.split_at(point as usize);
        let _ = write!(out, "{whole}.{rest}");
    } else if -4 < point && point <= 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', -point as usize));
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            let _ = write!(out, ".{rest}");
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        write(&serde_json::from_str(text).unwrap())
    }

    /// The format of `builtins.toJSON` and `nix-build` of Nix 2.8.
    #[test]
    fn numbers() {
        for (text, wanted) in [
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("1.5", "1.5"),
            ("100.0", "100.0"),
            ("1e14", "100000000000000.0"),
            ("1e15", "1e+15"),
            ("123456789012345.6", "123456789012345.6"),
            ("1234567890123456.7", "1.2345678901234568e+15"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("5e-324", "5e-324"),
            ("1.25e100", "1.25e+100"),
            ("-2.5e-7", "-2.5e-07"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(again(text), wanted);
        }
    }

    #[test]
    fn order_and_escapes() {
        assert_eq!(
            again(r#"{ "b": [1, null, true, {}], "a": "\u001f\n\"\\\/\u007fä\u0000" , "B": [] }"#),
            "{\"B\":[],\"a\":\"\\u001f\\n\\\"\\\\/\u{7f}ä\\u0000\",\"b\":[1,null,true,{}]}"
        );
    }
}
