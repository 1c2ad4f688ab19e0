//! Arbitrary bytes through the filter for terminals, as a whole and in pieces. `vte`, the parser of
//! a terminal emulator, interprets the result.

use std::io::Write as _;

use tvix_build_api::terminal::{
    PrintableWriter, after_carriage_return, printable, printable_bytes,
};

pub fn check(data: &[u8]) {
    let input = String::from_utf8_lossy(data);
    let out = printable_bytes(data);
    assert_eq!(out, printable(&input));
    expect_safe(&out);
    assert_eq!(printable(&out), out, "twice is once");
    assert_eq!(out.matches('\n').count(), input.matches('\n').count());
    let text = without_colours(&out);
    let mut rest = input.chars();
    let from_input = text.chars().all(|char| rest.any(|other| other == char));
    assert!(from_input, "nothing is invented");
    if input.chars().all(is_text) {
        assert_eq!(out, input, "text stays as it is");
    }
    for line in input.split('\n') {
        let shown = after_carriage_return(line);
        assert!(!shown.contains('\r'));
        assert!(line.trim_end_matches('\r').ends_with(shown));
    }
    pieces(data, &out);
}

/// A writer that receives the bytes in pieces writes the same output, unless it is flushed in
/// between; then its output is safe too. The first byte determines the size of pieces.
fn pieces(data: &[u8], whole: &str) {
    let len = data.first().map_or(1, |byte| usize::from(*byte % 16) + 1);
    let (mut kept, mut flushed) = (Vec::new(), Vec::new());
    let mut writer = PrintableWriter::new(&mut kept);
    let mut flushing = PrintableWriter::new(&mut flushed);
    for piece in data.chunks(len) {
        writer.write_all(piece).unwrap();
        flushing.write_all(piece).unwrap();
        flushing.flush().unwrap();
    }
    writer.flush().unwrap();
    let (kept, flushed) = (String::from_utf8(kept), String::from_utf8(flushed));
    if data.len() < 64 * 1024 {
        assert_eq!(kept.as_deref(), Ok(whole));
    }
    expect_safe(&kept.unwrap());
    expect_safe(&flushed.unwrap());
}

fn is_text(char: char) -> bool {
    let layout = matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    matches!(char, '\n' | '\t') || !(char.is_control() || layout)
}

fn expect_safe(out: &str) {
    let text = without_colours(out);
    assert!(text.chars().all(is_text), "{text:?}");
    let mut terminal = Terminal::default();
    let mut parser = vte::Parser::new();
    for line in out.split_inclusive('\n') {
        parser.advance(&mut terminal, line.as_bytes());
        assert!(!terminal.coloured, "colours end with their line: {line:?}");
    }
    // At the end the terminal is in its ground state: further output is text.
    parser.advance(&mut terminal, b"[2Jx");
    assert_eq!(terminal.printed, text + "[2Jx");
}

/// The output without colour sequences, for which only the strictest form is allowed.
fn without_colours(out: &str) -> String {
    let mut text = String::new();
    let mut pieces = out.split('\x1b');
    text.push_str(pieces.next().unwrap());
    for piece in pieces {
        let piece = piece.strip_prefix('[').expect("a control sequence");
        let (parameters, rest) = piece.split_once('m').expect("that sets colours");
        let valid = |byte| matches!(byte, b'0'..=b'9' | b';' | b':');
        assert!(parameters.bytes().all(valid), "{parameters:?}");
        text.push_str(rest);
    }
    text
}

/// A terminal that supports text, line ends, tabs and colours.
#[derive(Default)]
struct Terminal {
    printed: String,
    coloured: bool,
}

impl vte::Perform for Terminal {
    fn print(&mut self, char: char) {
        self.printed.push(char);
    }

    fn execute(&mut self, byte: u8) {
        assert!(matches!(byte, b'\n' | b'\t'), "control {byte:#x}");
        self.printed.push(char::from(byte));
    }

    fn csi_dispatch(&mut self, params: &vte::Params, between: &[u8], ignore: bool, action: char) {
        assert!(action == 'm' && between.is_empty() && !ignore, "{action:?}");
        for param in params {
            self.coloured = param[0] != 0;
        }
    }

    fn hook(&mut self, _: &vte::Params, _: &[u8], _: bool, _: char) {
        panic!("a device control string");
    }

    fn osc_dispatch(&mut self, _: &[&[u8]], _: bool) {
        panic!("an operating system command");
    }

    fn esc_dispatch(&mut self, _: &[u8], _: bool, byte: u8) {
        panic!("an escape sequence {byte:#x}");
    }
}
