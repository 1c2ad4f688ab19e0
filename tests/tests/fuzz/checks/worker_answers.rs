//! The messages of a daemon to a client, from the handshake on. The input begins with the operations that
//! the client has asked for: their number, and an index of each, all in one byte.

use tvix_worker_protocol::{
    AnswerDecoder, ClientHandshake, Decoder, Feature, LogMessage, Operation,
};

pub fn check(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else {
        return;
    };
    let Some((operations, input)) = rest.split_at_checked(usize::from(count)) else {
        return;
    };
    let features = Feature::ALL.into_iter().collect();
    let mut handshake = ClientHandshake::new(Default::default()).with_features(features);
    let Ok((mut at, Some(session))) = handshake.feed(input) else {
        return;
    };
    let context = session.context;
    for operation in operations {
        let operation = Operation::ALL[usize::from(*operation) % Operation::ALL.len()];
        let failed = loop {
            let mut decoder = Decoder::<LogMessage>::new();
            let Ok((taken, Some(message))) = decoder.feed(&input[at..], &context) else {
                return;
            };
            at += taken;
            let mut bytes = Vec::new();
            context
                .encode(&message, &mut bytes)
                .expect("what was decoded can be encoded");
            let again = Decoder::<LogMessage>::new().feed(&bytes, &context);
            let again = again.expect("what is written can be read");
            assert_eq!(again, (bytes.len(), Some(message.clone())));
            match message {
                LogMessage::Last => break false,
                LogMessage::Error(error) => {
                    let _ = error.to_string();
                    break true;
                }
                _ => {}
            }
        };
        if failed {
            continue;
        }
        let Ok((taken, Some(answer))) = AnswerDecoder::new(operation).feed(&input[at..], &context)
        else {
            return;
        };
        at += taken;
        let mut bytes = Vec::new();
        answer
            .encode(&context, &mut bytes)
            .expect("what was decoded can be encoded");
        let again = AnswerDecoder::new(operation).feed(&bytes, &context);
        assert_eq!(
            again.expect("what is written can be read"),
            (bytes.len(), Some(answer))
        );
    }
}
