//! Dates and times: validated, and printed in a single format.

use std::fmt::Write as _;

struct Cursor<'t> {
    rest: &'t [u8],
}

impl Cursor<'_> {
    fn eat(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        bytes.contains(first).then(|| {
            self.rest = rest;
            *first
        })
    }

    fn number(&mut self, digits: usize) -> Option<u32> {
        let (number, rest) = self.rest.split_at_checked(digits)?;
        let value = number.iter().try_fold(0, |value, digit| {
            Some(value * 10 + char::from(*digit).to_digit(10)?)
        })?;
        self.rest = rest;
        Some(value)
    }

    fn date(&mut self, out: &mut String) -> Option<()> {
        let year = self.number(4)?;
        self.eat(b"-")?;
        let month = self.number(2)?;
        self.eat(b"-")?;
        let day = self.number(2)?;
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let _ = write!(out, "{year:04}-{month:02}-{day:02}");
        (1..=days).contains(&day).then_some(())
    }

    fn time(&mut self, out: &mut String) -> Option<()> {
        let hour = self.number(2)?;
        self.eat(b":")?;
        let minute = self.number(2)?;
        self.eat(b":")?;
        let second = self.number(2)?;
        let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
        if self.eat(b".").is_some() {
            let length = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (digits, rest) = self.rest.split_at(length);
            self.rest = rest;
            // Digits after the ninth are dropped, and so are trailing groups of zeroes.
            let mut nine = [b'0'; 9];
            nine.iter_mut()
                .zip(digits)
                .for_each(|(to, from)| *to = *from);
            let groups = nine.chunks(3).rposition(|group| group != b"000");
            if let Some(last) = groups {
                out.push('.');
                out.extend(nine[..3 * (last + 1)].iter().map(|b| char::from(*b)));
            }
            if length == 0 {
                return None;
            }
        }
        (hour < 24 && minute < 60 && second < 61).then_some(())
    }
}

/// Whether a value that starts like this is a date or a time.
pub(super) fn begins(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    matches!(
        (digits, text.get(digits)),
        (4, Some(b'-')) | (2, Some(b':'))
    )
}

/// Parses a date, a time or both. Returns the formatted text, and the length of the input.
pub(super) fn read(text: &[u8]) -> Option<(String, usize)> {
    let mut cursor = Cursor { rest: text };
    let mut out = String::new();
    if text.get(2) == Some(&b':') {
        cursor.time(&mut out)?;
        return Some((out, text.len() - cursor.rest.len()));
    }
    cursor.date(&mut out)?;
    // A space is part of the value only if a time follows.
    let time_follows = match cursor.rest {
        [b'T' | b't', ..] => true,
        [b' ', digit, ..] => digit.is_ascii_digit(),
        _ => false,
    };
    if time_follows {
        cursor.eat(b"Tt ")?;
        out.push('T');
        cursor.time(&mut out)?;
        if cursor.eat(b"Zz").is_some() {
            out.push('Z');
        } else if let Some(sign) = cursor.eat(b"+-") {
            let hour = cursor.number(2)?;
            cursor.eat(b":")?;
            let minute = cursor.number(2)?;
            if hour > 24 || minute > 59 {
                return None;
            }
            if (hour, minute) == (0, 0) {
                out.push('Z');
            } else {
                let _ = write!(out, "{}{hour:02}:{minute:02}", char::from(sign));
            }
        }
    }
    Some((out, text.len() - cursor.rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_recorded() {
        // Expected values are from C++ Nix 2.34.8.
        for (text, expected) in [
            ("1979-05-27T07:32:00Z", "1979-05-27T07:32:00Z"),
            ("1979-05-27t07:32:00z", "1979-05-27T07:32:00Z"),
            (
                "1979-05-27 07:32:00.5-07:00",
                "1979-05-27T07:32:00.500-07:00",
            ),
            ("1979-05-27T07:32:00+00:00", "1979-05-27T07:32:00Z"),
            ("1979-05-27T07:32:00-00:00", "1979-05-27T07:32:00Z"),
            ("1979-05-27T07:32:00+24:00", "1979-05-27T07:32:00+24:00"),
            (
                "1979-05-27T07:32:00.123456789123",
                "1979-05-27T07:32:00.123456789",
            ),
            ("1979-05-27T07:32:00.1200", "1979-05-27T07:32:00.120"),
            ("1979-05-27T07:32:00.000100", "1979-05-27T07:32:00.000100"),
            ("07:32:00.000000", "07:32:00"),
            ("07:32:00.9999996", "07:32:00.999999600"),
            ("00:00:60", "00:00:60"),
            ("1979-05-27", "1979-05-27"),
        ] {
            assert_eq!(
                read(text.as_bytes()),
                Some((expected.to_owned(), text.len())),
                "{text}"
            );
        }
        assert_eq!(read(b"1979-05-27 # x"), Some(("1979-05-27".to_owned(), 10)));
        for text in [
            "1979-02-30",
            "1979-13-01",
            "24:00:00",
            "00:00:61",
            "07:32",
            "1979-05-27T07:32Z",
            "1979-05-27T",
            "07:32:00.",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
