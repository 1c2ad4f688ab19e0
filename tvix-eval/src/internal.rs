//! Positions in the file in which C++ Nix defines `derivation`.
//!
//! Here, `derivation` is defined in Rust, but error messages and `unsafeGetAttrPos` give the
//! positions of C++ Nix. The text of that file is not included: a blank grid replaces it, and
//! messages show no lines of it.

use crate::source::Pos;

/// Number of lines.
const LINES: usize = 60;

/// Length of each line without its newline; larger than any column below.
const WIDTH: usize = 24;

/// The grid: lines of spaces, so that positions have lines and columns.
pub(crate) const TEXT: &[u8] = &grid();

/// The file is the first source of an evaluation.
const BASE: u32 = 1;

/// The function.
pub(crate) const FUNCTION: Pos = at(30, 1);
/// The call of `derivationStrict`.
pub(crate) const STRICT: Pos = at(37, 12);
/// The operator that adds the outputs to the attributes.
pub(crate) const COMMON: Pos = at(41, 9);
/// The attribute `all`.
pub(crate) const ALL: Pos = at(43, 7);
/// The attribute `drvAttrs`.
pub(crate) const DRV_ATTRS: Pos = at(44, 15);
/// The name of an output.
pub(crate) const OUTPUT: Pos = at(48, 5);
/// The attribute that holds the set of an output.
pub(crate) const VALUE: Pos = at(49, 5);
/// The set of an output.
pub(crate) const OUTPUT_SET: Pos = at(49, 13);
/// The attribute `outPath`.
pub(crate) const OUT_PATH: Pos = at(50, 7);
/// The call of `getAttr`.
pub(crate) const GET_ATTR: Pos = at(50, 17);
/// The attribute `drvPath`.
pub(crate) const DRV_PATH: Pos = at(51, 7);
/// The attribute `type`.
pub(crate) const TYPE: Pos = at(52, 7);
/// The attribute `outputName`.
pub(crate) const OUTPUT_NAME: Pos = at(53, 15);
/// The call of `map`.
pub(crate) const OUTPUTS: Pos = at(57, 17);
/// The call of `head`.
pub(crate) const HEAD: Pos = at(60, 2);

/// Whether a position is in the file. C++ Nix adds no trace frames for attributes at such
/// positions.
pub(crate) fn contains(pos: Pos) -> bool {
    (BASE..=BASE + TEXT.len() as u32).contains(&pos.0)
}

const fn grid() -> [u8; LINES * (WIDTH + 1)] {
    let mut text = [b' '; LINES * (WIDTH + 1)];
    let mut line = 1;
    while line <= LINES {
        text[line * (WIDTH + 1) - 1] = b'\n';
        line += 1;
    }
    text
}

/// The position at a line and column, both counted from 1.
const fn at(line: usize, column: usize) -> Pos {
    assert!(1 <= line && line <= LINES && 1 <= column && column <= WIDTH);
    Pos(BASE + ((line - 1) * (WIDTH + 1) + column - 1) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Origin, Sources};

    #[test]
    fn positions_have_their_lines_and_columns() {
        let sources = Sources::default();
        let source = sources.add(Origin::Internal, TEXT).expect("it is short");
        assert_eq!(source.base, BASE);
        for line in 1..=LINES {
            for column in 1..=WIDTH {
                let pos = at(line, column);
                let place = sources.place(pos).expect("it is in the file");
                assert_eq!(
                    (place.origin, place.line as usize, place.column as usize),
                    (Origin::Internal, line, column)
                );
                assert!(contains(pos));
            }
        }
        let after = sources.add(Origin::Text, b"1").expect("it is short");
        assert!(!contains(Pos(after.base)) && !contains(Pos::NONE));
    }

    #[test]
    fn no_line_holds_text() {
        assert!(TEXT.iter().all(u8::is_ascii_whitespace));
    }
}
