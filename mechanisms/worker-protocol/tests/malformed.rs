//! Invalid messages are errors, and take no memory.
#![allow(clippy::unwrap_used)]

use tvix_worker_protocol::*;

fn context() -> Context {
    Context::new(Default::default(), Version::new(1, 38), Features::default())
}

fn number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = number(text.len() as u64);
    bytes.extend_from_slice(text);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn request(parts: &[Vec<u8>]) -> Result<Option<Request>, ProtocolError> {
    let bytes = parts.concat();
    Ok(Decoder::new().feed(&bytes, &context())?.1)
}

fn refused(parts: &[Vec<u8>]) -> ProtocolError {
    request(parts).expect_err("it is accepted")
}

const PATH: &[u8] = b"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x";

#[test]
fn unknown_operations() {
    for unknown in [0, 2, 3, 16, 48, 999, 1002, u64::MAX] {
        let error = refused(&[number(unknown)]);
        assert!(
            matches!(error, ProtocolError::UnknownOperation(it) if it == unknown),
            "{error}"
        );
    }
}

#[test]
fn lengths_are_checked_when_they_arrive() {
    let is_valid = Operation::IsValidPath.number();
    let query = Operation::QueryValidPaths.number();
    for huge in [65 << 20, 1 << 32, i64::MAX as u64, u64::MAX - 8, u64::MAX] {
        // A text, a list, and a text in a list.
        for parts in [
            vec![number(is_valid), number(huge)],
            vec![number(query), number(huge)],
            vec![number(query), number(1), number(huge)],
        ] {
            let error = refused(&parts);
            assert!(
                matches!(error, ProtocolError::TooLong { .. }),
                "{huge}: {error}"
            );
        }
    }
    // The text would fit, the message would not.
    let small = context().with_limits(Limits::default().with_message(100));
    let bytes = [number(is_valid), number(96)].concat();
    let error = Decoder::<Request>::new().feed(&bytes, &small).unwrap_err();
    assert!(
        matches!(
            error,
            ProtocolError::TooLong {
                what: "message",
                ..
            }
        ),
        "{error}"
    );
    let bytes = [number(query), number(12)].concat();
    let error = Decoder::<Request>::new().feed(&bytes, &small).unwrap_err();
    assert!(
        matches!(error, ProtocolError::TooLong { what: "list", .. }),
        "{error}"
    );
}

#[test]
fn padding_must_be_zero() {
    let operation = number(Operation::IsValidPath.number());
    assert!(request(&[operation.clone(), text(PATH)]).unwrap().is_some());
    let length = text(PATH).len();
    for at in PATH.len() + 8..length {
        let mut bad = text(PATH);
        bad[at] = 1;
        let error = refused(&[operation.clone(), bad]);
        assert!(matches!(error, ProtocolError::Padding), "{error}");
    }
}

#[test]
fn values_are_checked() {
    let long = [PATH, &b"x".repeat(300)].concat();
    let bad: [&[u8]; 7] = [
        b"",
        b"/nix/store",
        b"/etc/passwd",
        b"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-..",
        b"/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x/..",
        b"/nix/store/../store/00bgd045z0d4icpbc2yyz4gx48ak44la-x",
        &long,
    ];
    for path in bad {
        let error = refused(&[number(Operation::IsValidPath.number()), text(path)]);
        assert!(matches!(error, ProtocolError::Invalid { .. }), "{error}");
        // What is displayed of it is bounded.
        assert!(error.to_string().len() < 300, "{error}");
    }
    let verify = |number_: u64| {
        refused(&[
            number(Operation::VerifyStore.number()),
            number(number_),
            number(0),
        ])
    };
    assert!(matches!(verify(2), ProtocolError::Number { value: 2, .. }));
    let build = [number(Operation::BuildPaths.number()), number(0), number(3)];
    assert!(matches!(refused(&build), ProtocolError::Tag { tag: 3, .. }));
    for text_ in [
        "sha256",
        "fixed:",
        "fixed:text:sha256",
        "text:sha1",
        "r:sha256",
        "fixed:r:sha3",
    ] {
        let parts = [
            number(Operation::AddToStoreScanning.number()),
            text(b"x"),
            text(text_.as_bytes()),
        ];
        let error = refused(&parts);
        assert!(
            matches!(error, ProtocolError::Invalid { .. }),
            "{text_}: {error}"
        );
    }
}

#[test]
fn nesting_is_limited() {
    for depth in [17, 100, 100_000] {
        let mut parts = vec![number(Operation::SubmitOutput.number())];
        parts.extend((0..depth).map(|_| number(1)));
        parts.extend([number(0), text(PATH)]);
        parts.extend((0..=depth).map(|_| text(b"out")));
        let error = refused(&parts);
        assert!(matches!(error, ProtocolError::TooDeep(_)), "{error}");
    }
}

#[test]
fn unknown_log_messages() {
    let error = Decoder::<LogMessage>::new()
        .feed(&number(7), &context())
        .unwrap_err();
    assert!(
        matches!(error, ProtocolError::Tag { tag: 7, .. }),
        "{error}"
    );
    // Later versions add activities without saying so.
    let mut bytes = Vec::new();
    let (id, kind) = (1, ActivityType::Other(999));
    let (level, text, fields, parent) = (Verbosity::Info, "new".into(), Vec::new(), 0);
    let activity = LogMessage::StartActivity(Activity {
        id,
        level,
        kind,
        text,
        fields,
        parent,
    });
    context().encode(&activity, &mut bytes).unwrap();
    assert_eq!(
        Decoder::new().feed(&bytes, &context()).unwrap().1,
        Some(activity)
    );
}

#[test]
fn versions_and_greetings() {
    let client = |version: u64| [number(0x6e69_7863), number(version)].concat();
    let daemon = |version: u64| [number(0x6478_696f), number(version)].concat();
    for bad in [0x0121, 0x0112, 0x0226, 0x0026, 0, 0x10126, u64::MAX] {
        assert!(
            ServerHandshake::new(Default::default(), "")
                .feed(&client(bad))
                .is_err(),
            "{bad:x}"
        );
        assert!(
            ClientHandshake::new(Default::default())
                .feed(&daemon(bad))
                .is_err(),
            "{bad:x}"
        );
    }
    // Later versions are spoken to in ours.
    assert!(
        ServerHandshake::new(Default::default(), "")
            .feed(&client(0x01ff))
            .is_ok()
    );
    assert!(
        ClientHandshake::new(Default::default())
            .feed(&daemon(0x01ff))
            .is_ok()
    );
    let greeting = b"SSH-2.0-OpenSSH";
    let error = ClientHandshake::new(Default::default())
        .feed(greeting)
        .unwrap_err();
    assert!(
        matches!(error, HandshakeError::Protocol(ProtocolError::Magic { .. })),
        "{error}"
    );
    let error = ServerHandshake::new(Default::default(), "")
        .feed(b"GET / HTTP/1.1")
        .unwrap_err();
    assert!(matches!(error, ProtocolError::Magic { .. }), "{error}");
    // A peer that is not known yet may not send much.
    let mut bytes = client(0x0126);
    bytes.extend_from_slice(&number(1 << 20));
    let error = ServerHandshake::new(Default::default(), "")
        .feed(&bytes)
        .unwrap_err();
    assert!(matches!(error, ProtocolError::TooLong { .. }), "{error}");
}

#[test]
fn what_a_version_cannot_express_is_an_error() {
    let feature = |feature| {
        Context::new(
            Default::default(),
            Version::MAX,
            Features::default().with(feature),
        )
    };
    let paths = GcPaths::Specific {
        paths: Default::default(),
        delete_referrers: true,
    };
    let (action, ignore_liveness, max_freed) = (GcAction::DeleteDead, false, 0);
    let collect = CollectGarbage {
        action,
        paths,
        ignore_liveness,
        max_freed,
    };
    let mut out = Vec::new();
    let error = context().encode_call(&collect, &mut out).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("delete-dead-specific-referrers"),
        "{message}"
    );
    assert!(out.is_empty());
    feature(Feature::DeleteSpecificReferrers)
        .encode_call(&collect, &mut out)
        .unwrap();
    let scanning = AddToStoreScanning {
        name: "x".parse().unwrap(),
        addressing: Addressing {
            method: nix_compat::content_address::ContentAddressMethod::NixArchive,
            algo: nix_compat::nixhash::HashAlgo::Sha256,
        },
    };
    assert!(context().encode_call(&scanning, &mut out).is_err());
    feature(Feature::AddToStoreScanning)
        .encode_call(&scanning, &mut out)
        .unwrap();
}
