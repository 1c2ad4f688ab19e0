//! Random indented strings, and random values as XML.

use crate::random::Random;

/// The pieces of indented strings: indentation, line ends, escape sequences and interpolations.
const PIECES: &[&str] = &[
    " ",
    "  ",
    "    ",
    "\t",
    "\n",
    "\n\n",
    "\n  ",
    "\n    ",
    "\r\n",
    "a",
    "b c",
    "\"",
    "\\",
    "$",
    "$$",
    "'''",
    "''$",
    "''${",
    "''\\n",
    "''\\t",
    "''\\ ",
    "$${",
    "${\"x\"}",
    "${\"\\n  y\"}",
    "'x",
    "é",
    "#",
];

/// `''…''`.
pub fn indented_string(random: &mut Random) -> String {
    let mut text = String::from("''");
    for _ in 0..random.below(14) {
        let piece = random.pick(PIECES);
        // A dollar sign or a quote must not combine with the next piece.
        if (text.ends_with('$') && piece.starts_with('{'))
            || (text.ends_with('\'') && piece.starts_with('\'') && text.len() > 2)
        {
            text.push('.');
        }
        text.push_str(piece);
    }
    if text.ends_with('\'') && text.len() > 2 {
        text.push('.');
    }
    text.push_str("''");
    text
}

/// `builtins.toXML …`.
pub fn to_xml(random: &mut Random) -> String {
    format!("builtins.toXML {}", value(random, 0))
}

fn value(random: &mut Random, depth: usize) -> String {
    let kinds = if depth > 3 { 9 } else { 12 };
    match random.below(kinds) {
        0 => "null".to_owned(),
        1 => random.pick(&["true", "false"]).to_owned(),
        2 => random
            .pick(&["0", "1", "(-7)", "9223372036854775807"])
            .to_owned(),
        3 => random
            .pick(&[
                "1.5",
                "0.1",
                "1.0e300",
                "(-2.5e-9)",
                "123456789.0",
                "100000.0",
            ])
            .to_owned(),
        4 => random.pick(&["/a/b", "/a-b"]).to_owned(),
        5 | 6 => random
            .pick(&[
                r#""""#,
                r#""a <b> & 'c'""#,
                r#""\"\n\r\t""#,
                r#""é€""#,
                r#""${builtins.toFile "t" "x"}""#,
            ])
            .to_owned(),
        7 => random
            .pick(&[
                "(x: x)",
                "({ a, b ? 1 }: a)",
                "({ ... }: 1)",
                "(s@{ a, ... }: a)",
            ])
            .to_owned(),
        8 => random
            .pick(&["builtins.add", "(builtins.add 1)"])
            .to_owned(),
        9 => {
            let items: Vec<_> = (0..random.below(4))
                .map(|_| value(random, depth + 1))
                .collect();
            format!("[ {} ]", items.join(" "))
        }
        10 => format!(
            r#"(derivation {{ name = "d"; system = "x"; builder = "b"; v = toString {}; }})"#,
            random.below(3)
        ),
        _ => {
            let mut set = String::from("{ ");
            for name in ["a", "\"b c\"", "\"<\"", "type", "_"] {
                if random.below(3) == 0 {
                    set.push_str(&format!("{name} = {}; ", value(random, depth + 1)));
                }
            }
            set.push('}');
            set
        }
    }
}
