//! Byte ranges (RFC 9110, section 14). Only single ranges are supported.

/// The requested part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The whole file: there is no range, or one of a form that a server may ignore.
    Whole,
    /// From the first byte to the last, inclusive.
    Part(u64, u64),
    /// A range that is not satisfiable.
    Nothing,
}

/// Parses the header `Range`, for a file of `size` bytes.
pub(crate) fn asked(header: Option<&str>, size: u64) -> Asked {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Asked::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", last) => match number(last) {
            Some(0) => Asked::Nothing,
            Some(_) if size == 0 => Asked::Nothing,
            Some(last) => Asked::Part(size.saturating_sub(last), size - 1),
            None => Asked::Whole,
        },
        (first, "") => match number(first) {
            Some(first) if first < size => Asked::Part(first, size - 1),
            Some(_) => Asked::Nothing,
            None => Asked::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Asked::Whole,
            (Some(first), Some(_)) if first >= size => Asked::Nothing,
            (Some(first), Some(last)) => Asked::Part(first, last.min(size - 1)),
            _ => Asked::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |text| asked(Some(text), 100);
        assert_eq!(asked(None, 100), Asked::Whole);
        assert_eq!(part("bytes=0-"), Asked::Part(0, 99));
        assert_eq!(part("bytes=10-19"), Asked::Part(10, 19));
        assert_eq!(
            part("bytes=10-99999999999999999999999"),
            Asked::Part(10, 99)
        );
        assert_eq!(part("bytes=-10"), Asked::Part(90, 99));
        assert_eq!(part("bytes=-1000"), Asked::Part(0, 99));
        for nothing in [
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(part(nothing), Asked::Nothing, "{nothing}");
        }
        for ignored in [
            "bytes=5-4",
            "bytes=1-2,4-5",
            "bytes=",
            "bytes=-",
            "lines=1-2",
            "bytes=+1-2",
            "bytes=a-",
        ] {
            assert_eq!(part(ignored), Asked::Whole, "{ignored}");
        }
        assert_eq!(asked(Some("bytes=-1"), 0), Asked::Nothing);
        assert_eq!(asked(Some("bytes=0-"), 0), Asked::Nothing);
    }
}
