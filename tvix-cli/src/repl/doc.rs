//! `:doc`: documentation as text for a terminal.

use tvix_eval::interactive::{Documentation, Documented};
use tvix_eval::source::Origin;

/// Where builtins are described.
const MANUAL: &str = "https://nix.dev/manual/nix/2.34/language/builtins.html#builtins-";

/// Documentation as text.
pub fn text(documented: &Documented<'_>) -> String {
    match documented {
        Documented::Builtin { name, arity } => {
            let plural = if *arity == 1 { "" } else { "s" };
            format!("Builtin builtins.{name}\nTakes {arity} argument{plural}. See {MANUAL}{name}")
        }
        Documented::Value(documentation) => of_language(documentation),
    }
}

fn of_language(documentation: &Documentation<'_>) -> String {
    let kind = match documentation.of_attribute {
        true => "Attribute",
        false => "Function",
    };
    let mut text = kind.to_owned();
    if let Some(name) = &documentation.name {
        text.push_str(&format!(" {name}"));
    }
    if let Some(place) = &documentation.place {
        let origin = match place.origin {
            Origin::File(path) => String::from_utf8_lossy(path).into_owned(),
            Origin::Text => "«string»".to_owned(),
            Origin::Stdin => "«stdin»".to_owned(),
            Origin::Internal => "«nix-internal»".to_owned(),
        };
        let begin = match (documentation.of_attribute, &documentation.name) {
            (true, _) => "\n\n… ",
            (false, Some(_)) => "\n… ",
            (false, None) => " ",
        };
        let (line, column) = (place.line, place.column);
        text.push_str(&format!("{begin}defined at {origin}:{line}:{column}"));
    }
    match &documentation.text {
        Some(comment) => {
            text.push_str("\n\n");
            text.push_str(&plain(comment));
        }
        None if documentation.of_attribute => text.push_str("\n\nNo documentation found."),
        None => {}
    }
    text
}

/// Markdown without its marks.
fn plain(markdown: &str) -> String {
    let mut lines = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            lines.push(format!("  │ {line}"));
        } else {
            let heading = line.trim_start_matches('#');
            let is_heading = heading.len() < line.len() && heading.starts_with(' ');
            let line = if is_heading {
                heading.trim_start()
            } else {
                line
            };
            lines.push(line.replace(['`', '*'], ""));
        }
    }
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn markdown_becomes_text() {
        let text = "Doc of *fun*.\n\n# Example\n```nix\nfun 1\n```\n";
        assert_eq!(plain(text), "Doc of fun.\n\nExample\n  │ fun 1");
    }
}
