//! Numbers of bytes on the command line.

/// Parses a number of bytes: `1000`, `64K`, `10M`, `2G`, `1T`; the letters stand for powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, letter)) if letter.is_ascii_alphabetic() => {
            let power = match letter.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(format!("unknown unit '{letter}', expected K, M, G or T")),
            };
            (&text[..at], 1u64 << power)
        }
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "number too large".to_owned())
}

/// A number of bytes in a unit that is easy to read.
pub fn show(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = larger;
    }
    match unit {
        "B" => format!("{bytes} B"),
        unit => format!("{amount:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("12"), Ok(12));
        assert_eq!(parse("3k"), Ok(3072));
        assert_eq!(parse("1T"), Ok(1 << 40));
        for bad in ["", "K", "1.5G", "-1", "1X", "1ä", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(1536), "1.5 KiB");
    }
}
