//! Character attributes (SGR).

/// Number of parameters of a sequence; terminals read 16 or 32.
const PARAMETERS: usize = 32;

/// The attributes that a sequence sets, in plain form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Colours {
    text: String,
    /// Whether an attribute is set after the sequence.
    coloured: bool,
}

impl Colours {
    /// Parses the parameters of a sequence. `None` if they are not defined for terminals, or too
    /// many.
    pub(super) fn parse(parameters: &str) -> Option<Self> {
        let valid = |byte| matches!(byte, b'0'..=b'9' | b';' | b':');
        if !parameters.bytes().all(valid) || parameters.split(';').count() > PARAMETERS {
            return None;
        }
        let mut colours = Self {
            text: String::new(),
            coloured: false,
        };
        let mut parameters = parameters.split(';');
        while let Some(parameter) = parameters.next() {
            // Subparameters, as in `4:3` and `38:2::1:2:3`.
            if let Some((code, _)) = parameter.split_once(':') {
                if matches!(number(code)?, 4 | 38 | 48 | 58) {
                    colours.add(parameter);
                }
                continue;
            }
            match number(parameter)? {
                0 => {
                    colours.add("0");
                    colours.coloured = false;
                }
                code @ (38 | 48 | 58) => {
                    let model = number(parameters.next()?)?;
                    let values = match model {
                        2 => 3,
                        5 => 1,
                        _ => return None,
                    };
                    let mut text = format!("{code};{model}");
                    for _ in 0..values {
                        text.push_str(&format!(";{}", number(parameters.next()?)?));
                    }
                    colours.add(&text);
                }
                code if is_kept(code) => colours.add(&code.to_string()),
                _ => {}
            }
        }
        (!colours.text.is_empty()).then_some(colours)
    }

    fn add(&mut self, parameter: &str) {
        if !self.text.is_empty() {
            self.text.push(';');
        }
        self.text.push_str(parameter);
        self.coloured = true;
    }

    /// Writes the sequence, and returns whether an attribute is set after it.
    pub(super) fn push(self, out: &mut String) -> bool {
        out.push_str("\x1b[");
        out.push_str(&self.text);
        out.push('m');
        self.coloured
    }
}

fn number(text: &str) -> Option<u8> {
    match text {
        "" => Some(0),
        text => text.parse().ok(),
    }
}

/// Weight, slant, lines and colours are kept. Concealed text (8), blinking (5, 6) and fonts (10 to
/// 20) are not.
fn is_kept(code: u8) -> bool {
    matches!(
        code,
        1..=4 | 7 | 9 | 21..=25 | 27..=37 | 39..=47 | 49 | 53 | 55 | 59 | 90..=97 | 100..=107
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_in_their_plain_form() {
        let cases = [
            ("", Some(("0", false))),
            ("0", Some(("0", false))),
            ("01;31", Some(("1;31", true))),
            ("31;0", Some(("31;0", false))),
            ("0;31", Some(("0;31", true))),
            ("1;;32", Some(("1;0;32", true))),
            ("38;5;8", Some(("38;5;8", true))),
            ("48;2;1;2;3;1", Some(("48;2;1;2;3;1", true))),
            ("38:2::1:2:3", Some(("38:2::1:2:3", true))),
            ("4:3;8", Some(("4:3", true))),
            ("8", None),
            ("8:1", None),
            ("5;10;66", None),
            ("38;5", None),
            ("38;5;256", None),
            ("38;7;1", None),
            ("1000", None),
            ("?4", None),
            (">4;1", None),
        ];
        for (parameters, expected) in cases {
            let colours = Colours::parse(parameters);
            let expected = expected.map(|(text, coloured)| Colours {
                text: text.to_owned(),
                coloured,
            });
            assert_eq!(colours, expected, "{parameters}");
        }
        assert_eq!(Colours::parse(&"1;".repeat(40)), None);
    }
}
