//! Every message is decoded to the value that was encoded, in every version and with every set of features; cut
//! off anywhere, it is incomplete.
#![allow(clippy::unwrap_used)]

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::signature::Signature;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StorePath, StorePathName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tvix_worker_protocol::bstr::BString;
use tvix_worker_protocol::*;

fn contexts() -> impl Strategy<Value = Context> {
    (34_u8..=39, vec(0..5_usize, 0..5)).prop_map(|(minor, features)| {
        let features = match minor >= 38 {
            true => features.into_iter().map(|it| Feature::ALL[it]).collect(),
            false => Features::default(),
        };
        Context::new(Default::default(), Version::new(1, minor), features)
    })
}

fn text() -> impl Strategy<Value = BString> {
    vec(any::<u8>(), 0..40).prop_map(BString::from)
}

fn name() -> impl Strategy<Value = StorePathName> {
    "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}".prop_map(|text| text.parse().unwrap())
}

fn path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), name()).prop_map(|(digest, name)| StorePath::new(digest, name))
}

fn drv() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), name())
        .prop_map(|(digest, name)| StorePath::new(digest, format!("{name}.drv").parse().unwrap()))
}

fn paths() -> impl Strategy<Value = SortedSet<StorePath>> {
    vec(path(), 0..4).prop_map(|paths| paths.into_iter().collect())
}

fn output() -> impl Strategy<Value = OutputName> {
    "[a-z]{1,8}".prop_map(|text| text.parse().unwrap())
}

fn signature() -> impl Strategy<Value = Signature> {
    ("[a-z.-]{1,10}", any::<[u8; 32]>()).prop_map(|(name, half)| {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&half);
        Signature::new(&name, &bytes).unwrap()
    })
}

fn addressing() -> impl Strategy<Value = Addressing> {
    let fixed = (
        prop_oneof![
            Just(ContentAddressMethod::Flat),
            Just(ContentAddressMethod::NixArchive)
        ],
        prop_oneof![
            Just(HashAlgo::Md5),
            Just(HashAlgo::Sha1),
            Just(HashAlgo::Sha256),
            Just(HashAlgo::Sha512)
        ],
    );
    let fixed = fixed.prop_map(|(method, algo)| Addressing { method, algo });
    let text = Addressing {
        method: ContentAddressMethod::Text,
        algo: HashAlgo::Sha256,
    };
    prop_oneof![fixed, Just(text)]
}

fn address() -> impl Strategy<Value = ContentAddress> {
    (addressing(), any::<[u8; 32]>()).prop_map(|(it, bytes)| {
        let bytes = bytes.repeat(2);
        let hash = NixHash::from_digest(it.algo, &bytes[..it.algo.digest_len()]).unwrap();
        ContentAddress {
            method: it.method,
            hash,
        }
    })
}

fn info() -> impl Strategy<Value = PathInfo> {
    let fields = (
        path(),
        any::<[u8; 32]>(),
        any::<u64>(),
        paths(),
        option::of(drv()),
        option::of(address()),
        vec(signature(), 0..3),
        option::of(1..u64::MAX),
        any::<bool>(),
    );
    fields.prop_map(
        |(path, hash, size, references, deriver, ca, signatures, time, ultimate)| PathInfo {
            references,
            deriver,
            ca,
            signatures,
            registration_time: time,
            ultimate,
            ..PathInfo::new(path, hash, size)
        },
    )
}

fn derived_path() -> impl Strategy<Value = DerivedPath> {
    let wanted = prop_oneof![
        Just(WantedOutputs::All),
        vec(output(), 1..4).prop_map(|names| WantedOutputs::Names(names.into_iter().collect())),
    ];
    prop_oneof![
        path().prop_map(DerivedPath::Opaque),
        (drv(), wanted).prop_map(|(drv, outputs)| DerivedPath::Built { drv, outputs }),
    ]
}

fn mode() -> impl Strategy<Value = BuildMode> {
    prop_oneof![
        Just(BuildMode::Normal),
        Just(BuildMode::Repair),
        Just(BuildMode::Check)
    ]
}

fn realisation() -> impl Strategy<Value = Realisation> {
    let id = prop_oneof![
        (any::<[u8; 32]>(), output()).prop_map(|(hash, output)| DrvOutput::by_hash(hash, output)),
        (drv(), output()).prop_map(|(drv, output)| DrvOutput::by_path(drv, output)),
    ];
    (id, path(), vec(signature(), 0..3)).prop_map(|(id, path, signatures)| Realisation {
        signatures,
        ..Realisation::new(id, path)
    })
}

fn build_derivation() -> impl Strategy<Value = BuildDerivation> {
    let kind = prop_oneof![
        path().prop_map(Output::InputAddressed),
        address()
            .prop_filter("texts have another rule", |it| it.method
                != ContentAddressMethod::Text)
            .prop_map(Output::Fixed),
        addressing().prop_map(|it| Output::Floating {
            method: it.method,
            algo: it.algo
        }),
        addressing().prop_map(|it| Output::Impure {
            method: it.method,
            algo: it.algo
        }),
        Just(Output::Deferred),
    ];
    let fields = (
        drv(),
        vec((output(), kind), 1..3),
        paths(),
        vec(text(), 2..5),
        vec((text(), text()), 0..4),
        mode(),
    );
    fields.prop_map(|(path, outputs, input_srcs, mut args, env, mode)| {
        let name = path
            .name()
            .as_str()
            .strip_suffix(".drv")
            .unwrap()
            .parse()
            .unwrap();
        let derivation = Derivation {
            name,
            outputs: outputs.into_iter().collect(),
            input_drvs: Default::default(),
            input_srcs,
            system: args.pop().unwrap(),
            builder: args.pop().unwrap(),
            args,
            env: env.into_iter().collect(),
        };
        BuildDerivation {
            path,
            derivation,
            mode,
        }
    })
}

fn single() -> impl Strategy<Value = SingleDerivedPath> {
    (path(), vec(output(), 0..4)).prop_map(|(path, outputs)| {
        outputs
            .into_iter()
            .fold(SingleDerivedPath::Opaque(path), |drv, output| {
                SingleDerivedPath::Built {
                    drv: Box::new(drv),
                    output,
                }
            })
    })
}

fn collect_garbage() -> impl Strategy<Value = CollectGarbage> {
    let paths = prop_oneof![
        Just(GcPaths::WholeStore),
        (paths(), any::<bool>()).prop_map(|(paths, delete_referrers)| GcPaths::Specific {
            paths,
            delete_referrers
        }),
    ];
    let action = prop_oneof![
        Just(GcAction::ReturnLive),
        Just(GcAction::ReturnDead),
        Just(GcAction::DeleteDead),
        Just(GcAction::DeleteSpecific),
    ];
    (action, paths, any::<bool>(), any::<u64>()).prop_map(
        |(action, paths, ignore_liveness, max_freed)| CollectGarbage {
            action,
            paths,
            ignore_liveness,
            max_freed,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let of_paths = prop_oneof![
        path().prop_map(|path| Request::from(IsValidPath { path })),
        path().prop_map(|path| QueryReferrers { path }.into()),
        path().prop_map(|path| EnsurePath { path }.into()),
        path().prop_map(|path| AddTempRoot { path }.into()),
        path().prop_map(|path| QueryDeriver { path }.into()),
        path().prop_map(|path| QueryPathInfo { path }.into()),
        path().prop_map(|path| NarFromPath { path }.into()),
        path().prop_map(|path| QueryValidDerivers { path }.into()),
        path().prop_map(|path| QuerySubstitutablePathInfo { path }.into()),
        drv().prop_map(|path| QueryDerivationOutputs { path }.into()),
        drv().prop_map(|path| QueryDerivationOutputNames { path }.into()),
        drv().prop_map(|path| QueryDerivationOutputMap { path }.into()),
        vec(path(), 0..5).prop_map(|paths| QuerySubstitutablePaths { paths }.into()),
        (vec(path(), 0..5), any::<bool>()).prop_map(|(paths, substitute)| QueryValidPaths {
            paths,
            substitute
        }
        .into()),
        vec((path(), option::of(address())), 0..3)
            .prop_map(|paths| QuerySubstitutablePathInfos { paths }.into()),
        any::<[u8; 20]>().prop_map(|digest| QueryPathFromHashPart { digest }.into()),
        vec(derived_path(), 0..4).prop_map(|paths| QueryMissing { paths }.into()),
        drv().prop_map(|drv| AddBuildLog { drv: BaseName(drv) }.into()),
    ];
    let bare = prop_oneof![
        Just(Request::from(SyncWithGc {})),
        Just(FindRoots {}.into()),
        Just(QueryAllValidPaths {}.into()),
        Just(OptimiseStore {}.into()),
        any::<(bool, bool)>().prop_map(|(repair, dont_check_signatures)| {
            AddMultipleToStore {
                repair,
                dont_check_signatures,
            }
            .into()
        }),
        any::<(bool, bool)>().prop_map(|(check_contents, repair)| VerifyStore {
            check_contents,
            repair
        }
        .into()),
        text().prop_map(|link| AddIndirectRoot { link }.into()),
    ];
    let others = prop_oneof![
        (name(), addressing(), paths(), any::<bool>()).prop_map(
            |(name, addressing, references, repair)| {
                AddToStore {
                    name,
                    addressing,
                    references,
                    repair,
                }
                .into()
            }
        ),
        (name(), text(), paths()).prop_map(|(name, text, references)| Request::from(
            AddTextToStore {
                name,
                text,
                references
            }
        )),
        (vec(derived_path(), 0..4), mode())
            .prop_map(|(paths, mode)| BuildPaths { paths, mode }.into()),
        (vec(derived_path(), 0..4), mode()).prop_map(|(paths, mode)| BuildPathsWithResults {
            paths,
            mode
        }
        .into()),
        build_derivation().prop_map(Request::from),
        (path(), vec(signature(), 0..3)).prop_map(|(path, signatures)| AddSignatures {
            path,
            signatures
        }
        .into()),
        (info(), any::<(bool, bool)>()).prop_map(|(info, (repair, dont_check_signatures))| {
            AddToStoreNar {
                info,
                repair,
                dont_check_signatures,
            }
            .into()
        }),
        (path(), text()).prop_map(|(path, link)| AddPermRoot { path, link }.into()),
        (single(), output()).prop_map(|(path, output)| SubmitOutput { path, output }.into()),
        (name(), addressing()).prop_map(|(name, addressing)| AddToStoreScanning {
            name,
            addressing
        }
        .into()),
        collect_garbage().prop_map(Request::from),
        realisation().prop_map(|realisation| RegisterDrvOutput { realisation }.into()),
        realisation().prop_map(|realisation| QueryRealisation { id: realisation.id }.into()),
        (
            any::<[bool; 4]>(),
            0..8_u64,
            any::<[u64; 3]>(),
            vec((text(), text()), 0..3)
        )
            .prop_map(
                |(
                    [keep_failed, keep_going, try_fallback, use_substitutes],
                    level,
                    numbers,
                    overrides,
                )| {
                    let verbosity = match level {
                        0 => Verbosity::Error,
                        1 => Verbosity::Warn,
                        2 => Verbosity::Notice,
                        3 => Verbosity::Info,
                        4 => Verbosity::Talkative,
                        5 => Verbosity::Chatty,
                        6 => Verbosity::Debug,
                        _ => Verbosity::Vomit,
                    };
                    SetOptions {
                        keep_failed,
                        keep_going,
                        try_fallback,
                        verbosity: VerbosityLevel(verbosity),
                        max_build_jobs: numbers[0],
                        max_silent_time: numbers[1],
                        use_build_hook: Default::default(),
                        verbose_build: VerbosityLevel(Verbosity::Vomit),
                        log_type: Default::default(),
                        print_build_trace: Default::default(),
                        build_cores: numbers[2],
                        use_substitutes,
                        overrides,
                    }
                    .into()
                },
            ),
    ];
    prop_oneof![of_paths, bare, others]
}

fn build_result() -> impl Strategy<Value = BuildResult> {
    let status = prop_oneof![
        Just(BuildStatus::Built),
        Just(BuildStatus::AlreadyValid),
        Just(BuildStatus::TimedOut),
        Just(BuildStatus::NoSubstituters),
    ];
    let numbers = any::<([u64; 3], bool, Option<u64>, Option<u64>)>();
    (status, text(), numbers, vec(realisation(), 0..3)).prop_map(
        |(status, error, numbers, outputs)| {
            let ([times_built, start_time, stop_time], is_non_deterministic, cpu_user, cpu_system) =
                numbers;
            let outputs = outputs
                .into_iter()
                .map(|it| (it.id.output.clone(), Realised::from(it)));
            let mut result = BuildResult::new(status)
                .with_error(error)
                .with_outputs(outputs);
            result.times_built = times_built;
            result.start_time = start_time;
            result.stop_time = stop_time;
            result.is_non_deterministic = is_non_deterministic;
            result.cpu_user = cpu_user;
            result.cpu_system = cpu_system;
            result
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<bool>().prop_map(Answer::IsValidPath),
        paths().prop_map(Answer::QueryReferrers),
        info().prop_map(Answer::AddToStore),
        path().prop_map(Answer::AddTextToStore),
        Just(Answer::BuildPaths(Default::default())),
        vec((text(), path()), 0..3).prop_map(|roots| {
            Answer::FindRoots(
                roots
                    .into_iter()
                    .map(|(link, path)| Root { link, path })
                    .collect(),
            )
        }),
        option::of(drv()).prop_map(Answer::QueryDeriver),
        Just(Answer::SetOptions(())),
        (vec(text(), 0..3), any::<u64>()).prop_map(|(paths, bytes_freed)| {
            Answer::CollectGarbage(Collected {
                paths,
                bytes_freed,
                blocks_freed: Default::default(),
            })
        }),
        option::of(info())
            .prop_map(|info| Answer::QueryPathInfo(Tagged(info.map(UnkeyedPathInfo::from)))),
        vec(output(), 0..3).prop_map(Answer::QueryDerivationOutputNames),
        vec(
            (path(), option::of(drv()), paths(), any::<[u64; 2]>()),
            0..3
        )
        .prop_map(|infos| {
            let infos =
                infos
                    .into_iter()
                    .map(|(path, deriver, references, [download_size, nar_size])| {
                        (
                            path,
                            SubstitutablePathInfo {
                                deriver,
                                references,
                                download_size,
                                nar_size,
                            },
                        )
                    });
            Answer::QuerySubstitutablePathInfos(infos.collect())
        }),
        build_result().prop_map(Answer::BuildDerivation),
        (paths(), paths(), paths(), any::<[u64; 2]>()).prop_map(
            |(will_build, will_substitute, unknown, sizes)| {
                let [download_size, nar_size] = sizes;
                Answer::QueryMissing(Missing {
                    will_build,
                    will_substitute,
                    unknown,
                    download_size,
                    nar_size,
                })
            }
        ),
        vec((output(), option::of(path())), 0..3)
            .prop_map(|map| Answer::QueryDerivationOutputMap(map.into_iter().collect())),
        option::of(realisation())
            .prop_map(|it| Answer::QueryRealisation(FoundRealisation(it.map(Realised::from)))),
        vec((derived_path(), build_result()), 0..3).prop_map(|results| {
            let results = results
                .into_iter()
                .map(|(path, result)| KeyedBuildResult { path, result });
            Answer::BuildPathsWithResults(results.collect())
        }),
        text().prop_map(Answer::AddPermRoot),
    ]
}

fn operation(answer: &Answer) -> Operation {
    let name = format!("{answer:?}");
    let name = name.split('(').next().unwrap();
    let mut operations = Operation::ALL.iter();
    *operations.find(|it| it.name() == name).unwrap()
}

fn log() -> impl Strategy<Value = LogMessage> {
    let field = prop_oneof![
        any::<u64>().prop_map(Field::Number),
        text().prop_map(Field::Text)
    ];
    let fields = || {
        vec(
            prop_oneof![
                any::<u64>().prop_map(Field::Number),
                text().prop_map(Field::Text)
            ],
            0..3,
        )
    };
    prop_oneof![
        text().prop_map(LogMessage::Next),
        any::<u64>().prop_map(LogMessage::Read),
        text().prop_map(LogMessage::Write),
        Just(LogMessage::Last),
        (text(), vec(text(), 0..3)).prop_map(|(message, traces)| LogMessage::Error(
            RemoteError::new(message).with_traces(traces)
        )),
        (any::<[u64; 2]>(), text(), fields()).prop_map(|([id, parent], text, fields)| {
            let (level, kind) = (Verbosity::Talkative, ActivityType::Build);
            LogMessage::StartActivity(Activity {
                id,
                level,
                kind,
                text,
                fields,
                parent,
            })
        }),
        any::<u64>().prop_map(LogMessage::StopActivity),
        (any::<u64>(), vec(field, 0..3)).prop_map(|(id, fields)| {
            let kind = ResultType::BuildLogLine;
            LogMessage::Result(ActivityResult { id, kind, fields })
        }),
    ]
}

/// Decodes a message whole and by the byte, and cut off anywhere.
fn decodes<T: Message + PartialEq + std::fmt::Debug>(bytes: &[u8], context: &Context) -> T {
    let mut followed = bytes.to_vec();
    followed.extend_from_slice(&[0xff; 9]);
    let (taken, whole) = Decoder::<T>::new().feed(&followed, context).unwrap();
    assert_eq!(taken, bytes.len());
    let mut decoder = Decoder::<T>::new();
    let mut message = None;
    for (index, byte) in bytes.iter().enumerate() {
        let (taken, found) = decoder.feed(std::slice::from_ref(byte), context).unwrap();
        assert_eq!(taken, 1);
        assert_eq!(found.is_some(), index + 1 == bytes.len());
        message = found;
    }
    for end in 0..bytes.len() {
        let (taken, found) = Decoder::<T>::new().feed(&bytes[..end], context).unwrap();
        assert_eq!((taken, found), (end, None));
    }
    if !bytes.is_empty() {
        assert_eq!(whole, message);
    }
    whole.unwrap()
}

/// The fields of a realisation in the form of the context.
fn as_sent(answer: Answer, context: &Context) -> Answer {
    let with_path = context.features().contains(Feature::RealisationWithPath);
    let realised = |output: OutputName, mut it: Realised| {
        match with_path {
            true => it.id = None,
            false if it.id.is_none() => it.id = Some(DrvOutput::by_hash([0; 32], output)),
            false => {}
        }
        it
    };
    let result = |mut it: BuildResult| {
        if context.version() < Version::new(1, 37) {
            (it.cpu_user, it.cpu_system) = (None, None);
        }
        let outputs = std::mem::take(&mut it.built_outputs).into_iter();
        it.with_outputs(outputs.map(|(name, it)| (name.clone(), realised(name, it))))
    };
    match answer {
        Answer::BuildDerivation(it) => Answer::BuildDerivation(result(it)),
        Answer::BuildPathsWithResults(it) => {
            let results = it.into_iter();
            let results = results.map(|it| KeyedBuildResult {
                result: result(it.result),
                ..it
            });
            Answer::BuildPathsWithResults(results.collect())
        }
        Answer::QueryRealisation(it) => {
            let out = OutputName::out();
            Answer::QueryRealisation(FoundRealisation(it.0.map(|it| realised(out, it))))
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn requests(request in request(), context in contexts()) {
        let mut bytes = b"before".to_vec();
        match context.encode(&request, &mut bytes) {
            Ok(()) => {
                let decoded: Request = decodes(&bytes[6..], &context);
                let same = match (&decoded, &request) {
                    // Without the feature, no paths are all of them.
                    (Request::CollectGarbage(one), Request::CollectGarbage(other)) => {
                        (one.action, one.max_freed) == (other.action, other.max_freed)
                    }
                    _ => decoded == request,
                };
                prop_assert!(same, "{decoded:?}\n{request:?}");
            }
            Err(error) => {
                let unsupported = matches!(error, ProtocolError::Unsupported { .. });
                prop_assert!(unsupported, "{error}");
                prop_assert_eq!(bytes, b"before");
            }
        }
    }

    #[test]
    fn answers(answer in answer(), context in contexts()) {
        let mut bytes = Vec::new();
        answer.encode(&context, &mut bytes).unwrap();
        let mut decoder = AnswerDecoder::new(operation(&answer));
        let (taken, decoded) = decoder.feed(&bytes, &context).unwrap();
        prop_assert_eq!(taken, bytes.len());
        prop_assert_eq!(decoded, Some(as_sent(answer, &context)));
    }

    #[test]
    fn log_messages(message in log(), context in contexts()) {
        let mut bytes = Vec::new();
        context.encode(&message, &mut bytes).unwrap();
        prop_assert_eq!(decodes::<LogMessage>(&bytes, &context), message);
    }

    #[test]
    fn paths_of_a_stream(infos in vec((info(), vec(any::<u8>(), 0..50)), 0..4), size in 1..100_usize) {
        let context = Context::new(Default::default(), Version::MIN, Features::default());
        let mut bytes = Vec::new();
        encode_path_count(infos.len() as u64, &mut bytes);
        let mut expected = Vec::new();
        for (mut info, nar) in infos {
            info.nar_size = nar.len() as u64;
            context.encode(&info, &mut bytes).unwrap();
            bytes.extend_from_slice(&nar);
            expected.push((info, nar));
        }
        let (mut decoder, mut found) = (PathsDecoder::new(), Vec::new());
        let mut rest = &bytes[..];
        while !decoder.is_done() {
            let (taken, event) = decoder.feed(&rest[..size.min(rest.len())], &context).unwrap();
            rest = &rest[taken..];
            match event {
                Some(PathsEvent::Path(info)) => found.push((*info, Vec::new())),
                Some(PathsEvent::Nar(piece)) => found.last_mut().unwrap().1.extend_from_slice(piece),
                _ => {}
            }
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(found, expected);
    }

    /// Both sides agree on the lower version and on the common features.
    #[test]
    fn handshakes(
        client in (34_u8..=39, vec(0..5_usize, 0..5)),
        server in (34_u8..=39, vec(0..5_usize, 0..5)),
        trust in 0..3,
        size in 1..40_usize,
    ) {
        let features = |it: &[usize]| -> Features { it.iter().map(|it| Feature::ALL[*it]).collect() };
        let (ours, theirs) = (features(&client.1), features(&server.1));
        let mut one = ClientHandshake::new(Default::default())
            .with_version(Version::new(1, client.0))
            .with_features(ours);
        let mut other = ServerHandshake::new(Default::default(), "1.2")
            .with_version(Version::new(1, server.0))
            .with_features(theirs);
        let trust = match trust {
            0 => None,
            1 => Some(Trust::Trusted),
            _ => Some(Trust::NotTrusted),
        };
        if let Some(trust) = trust {
            other = other.with_trust(trust);
        }
        let (mut session, mut served) = (None, None);
        while session.is_none() {
            for piece in one.take_output().chunks(size) {
                let (taken, done) = other.feed(piece).unwrap();
                assert_eq!(taken, piece.len());
                served = served.or(done);
            }
            for piece in other.take_output().chunks(size) {
                let (taken, done) = one.feed(piece).unwrap();
                assert_eq!(taken, piece.len());
                session = session.or(done);
            }
        }
        let session = session.unwrap();
        let version = Version::new(1, client.0.min(server.0));
        let common = match version >= Version::new(1, 38) {
            true => ours.intersection(theirs),
            false => Features::default(),
        };
        prop_assert_eq!(session.context.version(), version);
        prop_assert_eq!(session.context.features(), common);
        prop_assert_eq!(Some(session.context), served);
        prop_assert_eq!(session.trust, trust.filter(|_| version >= Version::new(1, 35)));
    }
}
