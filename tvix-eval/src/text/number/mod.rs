//! Numbers as printed and parsed by C++ Nix, which uses several formats.

mod shortest;

use std::io::Write as _;

fn write_to(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

/// Writes a decimal integer.
pub fn write_int(out: &mut Vec<u8>, number: i64) {
    write_to(out, format_args!("{number}"));
}

fn write_special(out: &mut Vec<u8>, number: f64) -> bool {
    if number.is_finite() {
        return false;
    }
    if number.is_sign_negative() {
        out.push(b'-');
    }
    out.extend_from_slice(if number.is_nan() { b"nan" } else { b"inf" });
    true
}

/// Writes a float in the format of `toString`: six digits after the point (C's `%f`).
pub fn write_coerced(out: &mut Vec<u8>, number: f64) {
    if !write_special(out, number) {
        write_to(out, format_args!("{number:.6}"));
    }
}

/// Writes a float in the format of evaluation results and XML: six significant digits (C's `%g`).
pub fn write_printed(out: &mut Vec<u8>, number: f64) {
    if write_special(out, number) {
        return;
    }
    let digits = format!("{number:.5e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let places = usize::try_from(5 - exponent).unwrap_or(0);
        let fixed = format!("{number:.places$}");
        out.extend_from_slice(without_zeros(&fixed).as_bytes());
    } else {
        out.extend_from_slice(without_zeros(mantissa).as_bytes());
        write_exponent(out, exponent);
    }
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

fn write_exponent(out: &mut Vec<u8>, exponent: i32) {
    let sign = if exponent < 0 { '-' } else { '+' };
    write_to(out, format_args!("e{sign}{:02}", exponent.unsigned_abs()));
}

/// Writes a float in the format of JSON: digits that parse back to the same float, and always a
/// point or an exponent. Floats that are not finite are `null`.
pub fn write_json(out: &mut Vec<u8>, number: f64) {
    if !number.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    if number.is_sign_negative() {
        out.push(b'-');
    }
    if number == 0.0 {
        out.extend_from_slice(b"0.0");
        return;
    }
    let digits = shortest::digits(number.abs());
    let exponent = digits.exponent;
    let digits = digits.as_slice();
    let length = digits.len() as i32;
    // Position of the point, counted from the first digit.
    let point = length + exponent;
    if (length..=15).contains(&point) {
        out.extend_from_slice(digits);
        out.resize(out.len() + exponent as usize, b'0');
        out.extend_from_slice(b".0");
    } else if (1..=15).contains(&point) {
        let (whole, part) = digits.split_at(point as usize);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(part);
    } else if (-3..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.extend_from_slice(digits);
    } else {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        write_exponent(out, point - 1);
    }
}

/// Parses a float: infinite if too large, zero if too small.
pub(crate) fn read_float(literal: &[u8]) -> Option<f64> {
    std::str::from_utf8(literal).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&mut Vec<u8>, f64), number: f64) -> String {
        let mut out = Vec::new();
        write(&mut out, number);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_as_recorded() {
        // Expected values are from C++ Nix 2.34.8: toString, --eval, --json.
        for (number, coerced, printed, json) in [
            (1.5, "1.500000", "1.5", "1.5"),
            (1.0, "1.000000", "1", "1.0"),
            (1.0e6, "1000000.000000", "1e+06", "1000000.0"),
            (
                123456789.0,
                "123456789.000000",
                "1.23457e+08",
                "123456789.0",
            ),
            (1.0e-5, "0.000010", "1e-05", "1e-05"),
            (0.1, "0.100000", "0.1", "0.1"),
            (0.1 + 0.2, "0.300000", "0.3", "0.30000000000000004"),
            (100000.0, "100000.000000", "100000", "100000.0"),
            (1.0e22, "10000000000000000000000.000000", "1e+22", "1e+22"),
            (f64::INFINITY, "inf", "inf", "null"),
            (-f64::NAN, "-nan", "-nan", "null"),
            (0.0, "0.000000", "0", "0.0"),
            (-0.0, "-0.000000", "-0", "-0.0"),
            (1.5e-6, "0.000002", "1.5e-06", "1.5e-06"),
        ] {
            assert_eq!(written(write_coerced, number), coerced);
            assert_eq!(written(write_printed, number), printed);
            assert_eq!(written(write_json, number), json);
        }
        assert_eq!(written(write_json, 1.0e14), "100000000000000.0");
        assert_eq!(written(write_json, 1.0e15), "1e+15");
        assert_eq!(written(write_json, 0.0001), "0.0001");
        assert_eq!(written(write_json, f64::MAX), "1.7976931348623157e+308");
        assert_eq!(written(write_json, f64::from_bits(1)), "5e-324");
    }

    proptest::proptest! {
        #[test]
        fn json_reads_back(bits: u64) {
            let number = f64::from_bits(bits);
            if number.is_finite() {
                let text = written(write_json, number);
                proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
            }
        }
    }
}
