//! Attributes of derivations for builders: graphs of references, structured attributes, checks of
//! outputs.

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::store_path::StoreDir;
use tvix_build_api::{BuildOutcome, FailureKind};
use tvix_tests::build_users;

use crate::{Peers, instantiate, shell};

/// A chain of two derivations, one of which refers to itself.
async fn inputs(peers: &Peers) -> (Instantiated, Instantiated) {
    let library = instantiate(shell("library", "echo library > $out"));
    peers.expect_same(&library).await;
    let program = instantiate(
        shell("program", "echo $library $out > $out").input_env("library", &library, "out"),
    );
    peers.expect_same(&program).await;
    (library, program)
}

fn path_of(made: &Instantiated) -> String {
    made.output_reference("out").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_of_references_are_the_same() {
    let peers = Peers::new().await;
    let (library, program) = inputs(&peers).await;
    let source = peers.add_text("source", "what a source holds\n").await;
    let dir = StoreDir::default();
    let graph = format!(
        "program {} source {}/below",
        path_of(&program),
        dir.display(&source)
    );
    // Nix 2.8 with build users leaves these files to root.
    let owner = match build_users::group() {
        Some(_) => "",
        None => "%u %g",
    };
    let script =
        format!("stat -c '%n %a {owner}' program source > $out; cat program source >> $out");
    let with_graph = |name: &str, graph: &str| {
        shell(name, &script)
            .env("exportReferencesGraph", graph)
            .input(&program, "out")
            .source(&source)
    };
    let made = instantiate(with_graph("graphs", &graph));
    peers.expect_same(&made).await;
    // A valid path that is not an input.
    let stranger = peers.add_text("stranger", "strange").await;
    for wrong in [
        "odd",
        "../x /nix/store",
        &format!("stranger {}", dir.display(&stranger)),
        &format!(
            "library {}",
            path_of(&library).replace("/nix/", "/elsewhere/")
        ),
    ] {
        peers
            .expect_both_fail(&instantiate(with_graph("wrong", wrong)))
            .await;
    }
}

/// Finds its output as the programs of Nix do, without a bash that could read `.attrs.sh`.
const STRUCTURED: &str = r#"
    line=$(grep '^declare -A outputs=' .attrs.sh)
    out=${line#*"['out']='"}; out=${out%%"'"*}
"#;

fn structured(name: &str, script: &str, json: &str) -> DerivationBuilder {
    shell(name, &format!("{STRUCTURED}{script}")).env("__json", json)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn structured_attributes_are_the_same() {
    let peers = Peers::new().await;
    let (library, program) = inputs(&peers).await;
    let source = peers.add_text("source", "what a source holds\n").await;
    let json = r#"{
        "name": "structured", "z": "it's \"quoted\" $HOME `x` \\ \n\t\u0001 ä ☃ 𝄞",
        "list": ["a b", 1, -2, 1.5, true, false, null], "empty": [], "nothing": {},
        "words": ["a b", 1, -2, 3.0, true, false, null], "null": null, "yes": true, "no": false,
        "int": 42, "large": 4294967298, "huge": 9223372036854775807, "unsigned": 18446744073709551615,
        "half": 0.5, "whole": 3.0, "negative": -7.0, "tiny": 1e-7, "big": 1e300, "float": 123456789.25,
        "set": {"b": "x", "a'": 1, "c": null, "d": false}, "deep": {"a": {"b": {}}}, "lists": [[1]],
        "not a name": 1, "1digit": 1, "_under": 1, "umläut": 1, "passAsFile": ["z"],
        "outputs": ["out", "dev"], "PATH": "/mine",
        "exportReferencesGraph": {"graph": ["PROGRAM"], "both": ["PROGRAM", "SOURCE"]}
    }"#;
    let dir = StoreDir::default();
    let json = json
        .replace("PROGRAM", &path_of(&program))
        .replace("SOURCE", &dir.display(&source).to_string());
    let script = r#"
        # Nix 2.8 names files of the host in the two variables, and Nix 2.34 does not. It adds that
        # a path is valid, which Nix 2.8 leaves out.
        env | sed 's#\(NIX_ATTRS_[A-Z_]*=\).*/#\1#' | sort > $out
        stat -c '%n %a %u %g' .attrs.* >> $out; sed 's/,"valid":true//g' .attrs.json >> $out; cat .attrs.sh >> $out
        dev=${line#*"['dev']='"}; echo dev > ${dev%%"'"*}
    "#;
    let made = instantiate(
        structured("structured", script, &json)
            .outputs(["out", "dev"])
            .input(&program, "out")
            .input(&library, "out")
            .source(&source),
    );
    peers.expect_same(&made).await;
    let not_json = instantiate(shell("broken", "echo > $out").env("__json", "{"));
    peers.expect_both_fail(&not_json).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_of_outputs_are_the_same() {
    let peers = Peers::new().await;
    let (library, program) = inputs(&peers).await;
    let (l, p) = (path_of(&library), path_of(&program));
    // `out` refers to itself, to `lib` and to the program, which refers to the library.
    let script = "echo $out $lib $program > $out; echo lib > $lib";
    let plain = |attribute: &str, value: &str| {
        shell("plain", script)
            .outputs(["out", "lib"])
            .env(attribute, value)
            .input_env("program", &program, "out")
    };
    for (attribute, value) in [
        ("allowedReferences", ""),
        ("allowedReferences", "out lib"),
        ("allowedReferences", &format!("out lib {p}")),
        ("allowedReferences", &format!("lib {p}")),
        ("allowedReferences", "out lib dev"),
        ("allowedRequisites", &format!("lib {p} {l}")),
        ("allowedRequisites", &format!("lib {p}")),
        ("disallowedReferences", &l),
        ("disallowedReferences", &format!("{l} {p}")),
        ("disallowedReferences", "out"),
        ("disallowedReferences", ""),
        ("disallowedRequisites", &l),
        ("disallowedRequisites", "lib out"),
        ("disallowedRequisites", "out"),
        ("maxSize", "1"),
    ] {
        peers
            .expect_same_verdict(&plain(attribute, value), value)
            .await;
    }
    let script =
        format!("lib=${{line#*\"['lib']='\"}}; lib=${{lib%%\"'\"*}}; program={p}; {script}");
    let checked = |checks: &str| {
        let json = format!(r#"{{"outputs":["out","lib"],"outputChecks":{checks}}}"#);
        structured("checked", &script, &json)
            .outputs(["out", "lib"])
            .input(&program, "out")
    };
    for checks in [
        r#"{"lib":{"allowedReferences":[],"maxSize":1000},"other":{"maxSize":0}}"#,
        r#"{"lib":{"maxSize":1}}"#,
        r#"{"out":{"maxClosureSize":100}}"#,
        r#"{"out":{"maxClosureSize":100000}}"#,
        r#"{"out":{"allowedReferences":["out","lib"]}}"#,
        &format!(r#"{{"out":{{"allowedReferences":["out","lib","{p}"]}}}}"#),
        &format!(r#"{{"out":{{"allowedRequisites":["lib","{p}","{l}"]}}}}"#),
        &format!(r#"{{"out":{{"allowedRequisites":["out","lib","{p}","{l}"]}}}}"#),
        &format!(r#"{{"out":{{"disallowedReferences":["{l}"],"disallowedRequisites":[]}}}}"#),
        &format!(r#"{{"out":{{"disallowedRequisites":["{l}"]}}}}"#),
        r#"{"out":{"disallowedReferences":["lib"]}}"#,
        r#"{"out":{"disallowedReferences":["what"]}}"#,
    ] {
        peers.expect_same_verdict(&checked(checks), checks).await;
    }
}

impl Peers {
    async fn expect_both_fail(&self, made: &Instantiated) {
        let outcome = self.build_ours(made).await;
        assert!(matches!(outcome, BuildOutcome::Failure(_)), "{outcome:?}");
        self.build_theirs(made).await.unwrap_err();
    }

    /// Builds with both, and compares success and, for failures, the reported cause.
    async fn expect_same_verdict(&self, builder: &DerivationBuilder, about: &str) {
        // A different derivation each time, because existing outputs are not built again.
        let made = instantiate(builder.clone().env("about", about));
        let theirs = self.build_theirs(&made).await;
        match (self.build_ours(&made).await, theirs) {
            (BuildOutcome::Success(_), Ok(())) => {}
            (BuildOutcome::Failure(failure), Err(log)) => match failure.kind {
                FailureKind::ForbiddenReference { references, .. } => {
                    let (_, named) = log.split_once("following paths:").unwrap();
                    assert_eq!(
                        named.matches("/nix/store/").count(),
                        references.len(),
                        "{log}"
                    );
                    for path in references {
                        assert!(named.contains(&path.to_string()), "{path}: {log}");
                    }
                }
                FailureKind::TooLarge { size, limit, .. } => {
                    let words = format!("is too large at {size} bytes; limit is {limit} bytes");
                    assert!(log.contains(&words), "{words}: {log}");
                }
                FailureKind::InvalidDerivation { .. } => {
                    assert!(log.contains("illegal reference specifier"), "{log}");
                }
                kind => panic!("{about}: {kind}"),
            },
            (ours, theirs) => panic!("{about}:\nours: {ours:?}\ntheirs: {theirs:?}"),
        }
    }
}
