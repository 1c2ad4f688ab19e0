//! Random inputs for every kind of question.

use crate::ours::SPLIT;
use crate::random::Random;
use crate::regexes;

pub fn input(kind: &str, random: &mut Random) -> String {
    match kind {
        "match" | "split" => {
            let text = regexes::text(random).replace('é', "e");
            let pattern = regexes::pattern(random).replace('é', "e");
            format!("{pattern}{SPLIT}{text}")
        }
        "compare" => format!("{}{SPLIT}{}", version(random), version(random)),
        "components" | "name" => version(random),
        "coerced" | "float-json" | "float-xml" => float(random),
        "json" => {
            let mut out = String::new();
            json(random, 3, &mut out);
            spoil(random, out)
        }
        "toml" => {
            let document = toml(random);
            spoil(random, document)
        }
        "printed" => format!(
            "{}{SPLIT}{}",
            name(random),
            string(random).replace("; }", "")
        ),
        _ => string(random),
    }
}

fn many(random: &mut Random, most: usize, pieces: &[&str]) -> String {
    let count = random.below(most + 1);
    (0..count).map(|_| random.pick(pieces)).collect()
}

fn version(random: &mut Random) -> String {
    let pieces = [
        "1",
        "2",
        "10",
        "01",
        "0",
        "2147483647",
        "2147483648",
        "99999999999999999999",
        ".",
        ".",
        "-",
        "-",
        "pre",
        "rc",
        "a",
        "b",
        "é",
        "_",
        "+",
        "A",
        " ",
        "prea",
        "p",
    ];
    many(random, 7, &pieces)
}

fn float(random: &mut Random) -> String {
    let number = match random.below(5) {
        0 => loop {
            let number = f64::from_bits(random.next());
            if number.is_finite() {
                break number;
            }
        },
        1 => (random.next() % 2_000_000) as f64 / 1000.0 - 1000.0,
        2 => (random.next() % 100) as f64 * 10f64.powi(random.below(40) as i32 - 20),
        3 => (random.next() % 1_000_000_000_000) as f64 / 2f64.powi(random.below(60) as i32),
        _ => (random.below(1 << 20) as f64) * 0.5f64.powi(random.below(24) as i32),
    };
    format!("{number:e}")
        .replacen('e', if number.fract() == 0.0 { ".0e" } else { "e" }, 1)
        .replace(".0.", ".")
        .replacen(".0e", "e", usize::from(format!("{number:e}").contains('.')))
}

fn string(random: &mut Random) -> String {
    let pieces = [
        "a", "b", " ", "\"", "\\", "$", "{", "${", "$$", "\n", "\r", "\t", "<", ">", "&", "'",
        "\u{2}", "\u{1b}", "\u{7f}", "é", "😀", "\u{2028}", "/", "\u{8}", "\u{c}", "]]>", ";",
    ];
    many(random, 8, &pieces)
}

fn name(random: &mut Random) -> String {
    let pieces = [
        "a", "b", "_", "-", "'", "1", "if", "or", "rec", "é", " ", ".", "A", "$", "then", "in",
        "let", "inherit",
    ];
    many(random, 3, &pieces)
}

fn json(random: &mut Random, depth: usize, out: &mut String) {
    let blank = |random: &mut Random, out: &mut String| {
        if random.below(4) == 0 {
            out.push_str(random.pick(&[" ", "\n", "\t", "\r\n"]));
        }
    };
    blank(random, out);
    match random.below(if depth == 0 { 5 } else { 8 }) {
        0 => out.push_str(random.pick(&["null", "true", "false"])),
        1 => out.push_str(random.pick(&[
            "0",
            "-0",
            "1",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "123456789012345678901234567890",
            "01",
            "1e3",
            "1E+3",
            "1.5e-3",
            "-0.0",
            "0.1",
            "1.",
            ".5",
            "1e400",
            "1e-400",
        ])),
        2 => out.push_str(&float(random)),
        3 | 4 => json_string(random, out),
        5 | 6 => {
            out.push('[');
            for at in 0..random.below(4) {
                if at > 0 {
                    out.push(',');
                }
                json(random, depth - 1, out);
            }
            blank(random, out);
            out.push(']');
        }
        _ => {
            out.push('{');
            for at in 0..random.below(4) {
                if at > 0 {
                    out.push(',');
                }
                blank(random, out);
                json_string(random, out);
                blank(random, out);
                out.push(':');
                json(random, depth - 1, out);
            }
            out.push('}');
        }
    }
    blank(random, out);
}

fn json_string(random: &mut Random, out: &mut String) {
    out.push('"');
    let pieces = [
        "a",
        "b",
        "a",
        "é",
        "\\n",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\/",
        "\\\\",
        "\\\"",
        "😀",
        "\\b",
        "\\u0001",
        "\u{7f}",
        "\\uD83D",
        "\\x",
        "\\u0000",
    ];
    let most = if random.below(6) == 0 {
        pieces.len()
    } else {
        pieces.len() - 3
    };
    out.push_str(&many(random, 3, &pieces[..most]));
    out.push('"');
}

/// Sometimes removes or inserts a character.
fn spoil(random: &mut Random, text: String) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    if random.below(8) == 0 && !characters.is_empty() {
        let at = random.below(characters.len());
        match random.below(2) {
            0 => drop(characters.remove(at)),
            _ => {
                let other = random.pick(&[
                    "\"", "]", "}", ",", "x", "0", "-", "\n", "\\", "=", "#", "[", ".", "_", "\r",
                    "'",
                ]);
                characters.insert(at, other.chars().next().unwrap());
            }
        }
    }
    characters.into_iter().collect()
}

fn toml(random: &mut Random) -> String {
    let mut out = String::new();
    for _ in 0..random.below(6) {
        match random.below(6) {
            0 => {
                out.push('[');
                out.push_str(&toml_key(random));
                out.push(']');
            }
            1 => {
                out.push_str("[[");
                out.push_str(&toml_key(random));
                out.push_str("]]");
            }
            _ => {
                out.push_str(&toml_key(random));
                out.push_str(random.pick(&["=", " = ", "\t=\t"]));
                toml_value(random, 2, &mut out);
            }
        }
        out.push_str(random.pick(&["\n", "\n", "\r\n", " # é\n", "\n\n", "#\n", " \n"]));
    }
    out
}

fn toml_key(random: &mut Random) -> String {
    let part = |random: &mut Random| {
        random.pick(&[
            "a", "b", "c", "d", "a", "b", "\"a\"", "'b'", "a-1_", "1", "\"é\"", "\"\"",
        ])
    };
    let mut key = part(random).to_owned();
    for _ in 0..random.below(4).saturating_sub(1) {
        key.push_str(random.pick(&[".", ".", " . "]));
        key.push_str(part(random));
    }
    key
}

fn toml_value(random: &mut Random, depth: usize, out: &mut String) {
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 => out.push_str(random.pick(&[
            "1",
            "+1",
            "-0",
            "0",
            "1_000",
            "1__0",
            "_1",
            "1_",
            "01",
            "0x1F",
            "0xff_ff",
            "0o17",
            "0b101",
            "0x",
            "-0x1",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "0x8000000000000000",
            "0X1",
            "+0",
            "0b2",
        ])),
        1 => out.push_str(random.pick(&[
            "1.0",
            "-1.5",
            "1e3",
            "1E+3",
            "1.5e-3",
            "1.",
            ".5",
            "1.e3",
            "inf",
            "-inf",
            "nan",
            "+nan",
            "1_0.0_1",
            "0.1",
            "-0.0",
            "1e400",
            "1e-400",
            "1e1_0",
            "01.5",
            "0e0",
            "00e1",
            "1e",
            "1e03",
            "infx",
            "0.1e-5",
            "3.141592653589793238462643383279",
        ])),
        2 => out.push_str(random.pick(&["true", "false", "True", "truex"])),
        3 => out.push_str(random.pick(&[
            "1979-05-27T07:32:00Z",
            "1979-05-27",
            "07:32:00",
            "1979-05-27 07:32:00.5-07:00",
            "1979-13-27",
            "1979-02-29",
            "07:32",
        ])),
        4 => {
            let long = random.below(3) == 0;
            let quote = if long { "\"\"\"" } else { "\"" };
            let pieces = [
                "a",
                "é",
                "\\n",
                "\\u00e9",
                "\\U0001F600",
                "\\\\",
                "\\\"",
                "😀",
                "'",
                "\t",
                "\\b",
                "\u{7f}",
                "\\uD83D",
                "\\x41",
                "\\e",
                "\\u0000",
                "\\/",
            ];
            let more = [
                "\n", "\r\n", "\\\n  ", "\\ \n\n ", "\"", "\"\"", " ", "\\\r\n", "\r",
            ];
            let most = if random.below(5) == 0 {
                pieces.len()
            } else {
                11
            };
            out.push_str(quote);
            for _ in 0..random.below(5) {
                out.push_str(&many(random, 1, &pieces[..most]));
                if long {
                    out.push_str(&many(random, 1, &more));
                }
            }
            out.push_str(quote);
        }
        5 => {
            let long = random.below(3) == 0;
            let quote = if long { "'''" } else { "'" };
            out.push_str(quote);
            out.push_str(&many(random, 3, &["a", "\\", "\"", "é", "\t", "b"]));
            if long {
                out.push_str(&many(random, 3, &["\n", "\r\n", "'", "a", "''"]));
            }
            out.push_str(quote);
        }
        6 | 7 => {
            out.push('[');
            for at in 0..random.below(4) {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(random.pick(&["", " ", "\n", "# x\n", "", ""]));
                toml_value(random, depth - 1, out);
            }
            out.push_str(random.pick(&["", ",", " ", "\n", ",\n", ""]));
            out.push(']');
        }
        _ => {
            out.push('{');
            for at in 0..random.below(4) {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&toml_key(random));
                out.push('=');
                toml_value(random, depth - 1, out);
                out.push_str(random.pick(&["", " ", "", "", "", "\n"]));
            }
            out.push_str(random.pick(&["", "", "", ","]));
            out.push('}');
        }
    }
}
