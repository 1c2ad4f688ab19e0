//! Names with versions: `parseDrvName`, `splitVersion` and `compareVersions`.

use std::cmp::Ordering;

/// Splits a name at the first dash that is not followed by a letter. The version is empty if there
/// is no such dash, or if it is the last byte.
pub fn parse_drv_name(text: &[u8]) -> (&[u8], &[u8]) {
    let dash = text
        .windows(2)
        .position(|pair| pair[0] == b'-' && !pair[1].is_ascii_alphabetic());
    match dash {
        Some(dash) => (&text[..dash], &text[dash + 1..]),
        None => (text, b""),
    }
}

/// The components of a version: runs of digits, and runs of other bytes, separated by dots and
/// dashes.
pub fn split_version(version: &[u8]) -> Components<'_> {
    Components { rest: version }
}

/// See [`split_version`].
#[derive(Debug, Clone)]
pub struct Components<'v> {
    rest: &'v [u8],
}

impl<'v> Iterator for Components<'v> {
    type Item = &'v [u8];

    fn next(&mut self) -> Option<&'v [u8]> {
        let separates = |b: &u8| matches!(b, b'.' | b'-');
        let start = self.rest.iter().position(|b| !separates(b));
        self.rest = &self.rest[start.unwrap_or(self.rest.len())..];
        let numeric = self.rest.first()?.is_ascii_digit();
        let end = self
            .rest
            .iter()
            .position(|b| separates(b) || b.is_ascii_digit() != numeric);
        let (component, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        Some(component)
    }
}

/// Orders two versions, component by component.
pub fn compare_versions(left: &[u8], right: &[u8]) -> Ordering {
    let (mut left, mut right) = (split_version(left), split_version(right));
    loop {
        let (a, b) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (a, b) => (a.unwrap_or_default(), b.unwrap_or_default()),
        };
        if less(a, b) {
            return Ordering::Less;
        }
        if less(b, a) {
            return Ordering::Greater;
        }
    }
}

/// Whether one component is less than another. Numbers are compared by value; `pre` is less than
/// any other component; a missing component is less than a number; words are less than numbers.
fn less(a: &[u8], b: &[u8]) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a < b,
        (_, Some(_)) if a.is_empty() => true,
        _ if a == b"pre" && b != b"pre" => true,
        _ if b == b"pre" => false,
        (_, Some(_)) => true,
        (Some(_), _) => false,
        (None, None) => a < b,
    }
}

/// The number of a component. Numbers above 2^31 - 1 count as words.
fn number(component: &[u8]) -> Option<i32> {
    if component.is_empty() {
        return None;
    }
    component.iter().try_fold(0i32, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, name, version) in [
            ("nix-0.12pre12876", "nix", "0.12pre12876"),
            ("a-b-c", "a-b-c", ""),
            ("a-", "a-", ""),
            ("a--b", "a", "-b"),
            ("-1", "", "1"),
            ("1-2-3", "1", "2-3"),
            ("", "", ""),
        ] {
            let expected = (name.as_bytes(), version.as_bytes());
            assert_eq!(parse_drv_name(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn components() {
        let split: Vec<_> = split_version(b"..1.2-3rc4--x-").collect();
        assert_eq!(split, [&b"1"[..], b"2", b"3", b"rc", b"4", b"x"]);
        assert_eq!(split_version(b"").count(), 0);
        assert_eq!(split_version(b".-.").count(), 0);
    }

    #[test]
    fn order() {
        for (left, right, order) in [
            ("1.0", "2.3", Ordering::Less),
            ("2.1", "2.3", Ordering::Less),
            ("2.3", "2.3", Ordering::Equal),
            ("2.5", "2.3", Ordering::Greater),
            ("2.3.1", "2.3", Ordering::Greater),
            ("2.3.1", "2.3a", Ordering::Greater),
            ("2.3pre1", "2.3", Ordering::Less),
            ("2.3pre3", "2.3pre12", Ordering::Less),
            ("2.3a", "2.3c", Ordering::Less),
            ("2.3pre1", "2.3c", Ordering::Less),
            ("2.3pre1", "2.3q", Ordering::Less),
            ("2147483647", "2147483648", Ordering::Greater),
            ("01", "1", Ordering::Equal),
            ("", "a", Ordering::Less),
            (".", "", Ordering::Equal),
        ] {
            let found = compare_versions(left.as_bytes(), right.as_bytes());
            assert_eq!(found, order, "{left} {right}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(a: Vec<u8>, b: Vec<u8>) {
            parse_drv_name(&a);
            let forth = compare_versions(&a, &b);
            proptest::prop_assert_eq!(forth, compare_versions(&b, &a).reverse());
        }
    }
}
