//! The NAR parser on arbitrary input: it does not panic, chunk boundaries do not matter, skipping
//! agrees with reading, and accepted input has a single serialisation, which is the input.

use nix_compat::nar::{Encoder, Parser, Reader};

pub fn check(input: &[u8]) {
    let mut encoder = Encoder::new();
    let mut again = Vec::new();
    let mut reader = Reader::new(input);
    let failure = loop {
        match reader.next_event() {
            Ok(Some(event)) => encoder
                .event(event, &mut again)
                .expect("what is read can be written"),
            Ok(None) => break reader.finish().err(),
            Err(error) => break Some(error),
        }
    };
    match &failure {
        None => assert!(again == input, "another serialisation"),
        Some(_) => assert!(
            again.len() <= input.len() + 64,
            "more was said than was read"
        ),
    }
    let failure = failure.map(|error| error.to_string());
    let skipped = Reader::new(input).finish().err();
    assert_eq!(skipped.map(|error| error.to_string()), failure, "skip");

    let mut fed = Vec::new();
    let mut encoder = Encoder::new();
    let mut parser = Parser::new();
    let mut result = Ok(());
    // The input determines the chunk size.
    let cut = input.last().map_or(1, |last| usize::from(last % 13) + 1);
    'input: for mut chunk in input.chunks(cut) {
        loop {
            match parser.feed(chunk) {
                Ok(step) => {
                    let Some(event) = step.event else { break };
                    encoder
                        .event(event, &mut fed)
                        .expect("what is read can be written");
                    chunk = &chunk[step.consumed..];
                }
                Err(error) => {
                    result = Err(error);
                    break 'input;
                }
            }
        }
    }
    if result.is_ok() {
        result = parser.finish();
    }
    assert!(fed == again, "chunks");
    // Only the reader checks for trailing bytes.
    if let Err(error) = result {
        assert_eq!(Some(error.to_string()), failure, "chunks");
    }
}
