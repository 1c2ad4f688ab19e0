//! The messages of a client to a daemon, from the handshake on: nothing panics, and each request that is
//! accepted is the same after it is encoded and decoded again.

use tvix_worker_protocol::{
    Decoder, Feature, FrameDecoder, PathsDecoder, PathsEvent, Request, ServerHandshake,
};

pub fn check(input: &[u8]) {
    let features = Feature::ALL.into_iter().collect();
    let mut handshake = ServerHandshake::new(Default::default(), "1.2").with_features(features);
    let Ok((mut at, Some(context))) = handshake.feed(input) else {
        return;
    };
    loop {
        let mut decoder = Decoder::<Request>::new();
        let Ok((taken, Some(request))) = decoder.feed(&input[at..], &context) else {
            // In pieces it fails as well.
            let mut decoder = Decoder::<Request>::new();
            for byte in &input[at..] {
                match decoder.feed(std::slice::from_ref(byte), &context) {
                    Ok((_, message)) => assert_eq!(message, None),
                    Err(_) => break,
                }
            }
            return;
        };
        at += taken;
        let mut bytes = Vec::new();
        context
            .encode(&request, &mut bytes)
            .expect("what was decoded can be encoded");
        let again = Decoder::<Request>::new().feed(&bytes, &context);
        assert_eq!(
            again.expect("what is written can be read"),
            (bytes.len(), Some(request.clone()))
        );
        if request.operation().has_stream() {
            let mut frames = FrameDecoder::new();
            let mut paths = PathsDecoder::new();
            let many = matches!(request, Request::AddMultipleToStore(_));
            while at < input.len() && !frames.is_ended() {
                let (taken, event) = frames.feed(&input[at..]);
                at += taken;
                let tvix_worker_protocol::Framed::Piece(mut piece) = event else {
                    continue;
                };
                while many && !piece.is_empty() && !paths.is_done() {
                    let Ok((taken, event)) = paths.feed(piece, &context) else {
                        return;
                    };
                    piece = &piece[taken..];
                    if let Some(PathsEvent::Count(count)) = event
                        && count > 1000
                    {
                        return;
                    }
                }
            }
        }
    }
}
