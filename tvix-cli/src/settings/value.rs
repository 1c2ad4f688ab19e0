//! Values of settings.

use std::num::NonZeroUsize;
use std::str::FromStr;

use tvix_store_api::StoreUri;

use super::{Assignment, Origin, SettingError};

impl Assignment {
    /// The error that the value should be something else.
    pub fn should_be(&self, expected: impl Into<String>) -> SettingError {
        SettingError {
            name: self.setting.name,
            place: match &self.origin {
                Origin::CommandLine => String::new(),
                origin => format!(" in {origin}"),
            },
            value: self.value.clone(),
            expected: expected.into(),
        }
    }

    /// `true`, `yes`, `1`, or `false`, `no`, `0`.
    pub fn boolean(&self) -> Result<bool, SettingError> {
        match self.value.as_str() {
            "true" | "yes" | "1" => Ok(true),
            "false" | "no" | "0" => Ok(false),
            _ => Err(self.should_be("'true' or 'false'")),
        }
    }

    /// A number. A unit may follow: K, M, G or T, each 1024 times the one before.
    pub fn number<T: TryFrom<u64>>(&self) -> Result<T, SettingError> {
        let number = parse_number(&self.value).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.should_be("a number"))
    }

    /// Selects a store, if the setting is `store`. `auto` is the default.
    pub fn store(&self, store: &mut Option<StoreUri>) -> Result<(), SettingError> {
        if self.setting.name == "store" {
            *store = match self.value.as_str() {
                "auto" => None,
                uri => {
                    let uri = uri.parse();
                    Some(uri.map_err(|error| self.should_be(format!("a store: {error}")))?)
                }
            };
        }
        Ok(())
    }

    /// A limit, of which 0 is none.
    pub fn limit(&self) -> Result<Option<u64>, SettingError> {
        Ok(Some(self.number()?).filter(|limit| *limit != 0))
    }

    /// Replaces a list by the words of the value, or adds them to it.
    pub fn list<T: FromStr>(&self, list: &mut Vec<T>) -> Result<(), SettingError>
    where
        T::Err: std::fmt::Display,
    {
        let words = self.value.split_whitespace().map(|word| {
            word.parse()
                .map_err(|error: T::Err| self.should_be(format!("a list, but: {error}")))
        });
        let words = words.collect::<Result<Vec<T>, _>>()?;
        if !self.append {
            list.clear();
        }
        list.extend(words);
        Ok(())
    }
}

/// A number of bytes, perhaps with a unit.
fn parse_size(text: &str) -> Result<u64, String> {
    parse_number(text).ok_or_else(|| {
        "expected a number of bytes, which the unit K, M, G or T may follow".to_owned()
    })
}

/// A number of bytes that is not 0.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("expected more than 0 bytes".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A number of MiB that is not 0.
pub fn parse_mebibytes(text: &str) -> Result<u64, String> {
    let parsed = text.parse().ok().filter(|mib| *mib > 0);
    parsed.ok_or_else(|| "expected a number of MiB, 1 or more".to_owned())
}

/// A number of MiB, or 0 for no limit.
pub fn parse_limit(text: &str) -> Result<usize, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "expected a number of MiB, or 0 for no limit".to_owned())
}

/// A number of workers.
pub fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    let parsed = text.parse();
    parsed.map_err(|_| "expected a number of workers, 1 or more".to_owned())
}

/// A number, perhaps with a unit.
pub fn parse_number(text: &str) -> Option<u64> {
    let factor = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => 1 << 10,
        b'M' => 1 << 20,
        b'G' => 1 << 30,
        b'T' => 1 << 40,
        _ => 1,
    };
    let digits = match factor {
        1 => text,
        _ => &text[..text.len() - 1],
    };
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A number of jobs: a number, or `auto` for that of the processors.
pub fn parse_jobs(text: &str) -> Result<u16, String> {
    if text == "auto" {
        let processors = std::thread::available_parallelism();
        return Ok(processors.map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX)));
    }
    let number = parse_number(text).and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| "expected a number or 'auto'".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("1K", Some(1024)),
            ("2m", Some(2 << 20)),
            ("", None),
            ("K", None),
            ("-1", None),
            ("+1", None),
            ("1 ", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse_number(text), number, "{text}");
        }
        assert_eq!(parse_jobs("3"), Ok(3));
        assert!(parse_jobs("auto").is_ok_and(|jobs| jobs > 0));
        assert!(parse_jobs("x").is_err());
    }
}
