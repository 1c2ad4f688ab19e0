//! Builds whose outputs go to a daemon.

use tvix_tests::program::run;

use super::daemon::daemon;
use super::{build, tvix};

const EXPRESSION: &str = r#"
let
  sh = name: args: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
  } // args);
  generated = sh "generated" { } "echo '\"imported\"' > $out";
in {
  two = sh "two" { one = sh "one" { } "echo one > $out"; outputs = [ "out" "dev" ]; } "echo $one > $out; echo $out > $dev";
  imported = sh (import generated) { } "echo > $out";
  failed = sh "failed" { } "echo about to fail; exit 3";
  fixed = sh "fixed" {
    outputHash = "sha256-DDBxQY5jVuYUiYyE7QZMqV6IVRvAgRtTS98ZUuza5TQ=";
    outputHashMode = "flat";
  } "echo fixed > $out";
}
"#;

#[test]
fn outputs_are_pushed_and_links_are_roots() {
    let daemon = daemon("");
    let (uri, file) = (daemon.uri(), daemon.write("default.nix", EXPRESSION));
    let ended = run(build(&daemon, &uri).args(["-f", &file, "-A", "two", "-A", "imported"]));
    let outputs = ended.expect(0).out;
    assert!(outputs[0].ends_with("-two"), "{outputs:?}");
    assert!(outputs[1].ends_with("-imported"), "{outputs:?}");
    daemon.verify();
    // Real Nix sees the links as roots, and its collector keeps what they lead to.
    let mut roots = daemon.nix("nix-store");
    let roots = roots
        .args(["--gc", "--print-roots"])
        .env("NIX_REMOTE", &uri);
    // Nix 2.34 quotes the links.
    let roots = String::from_utf8(roots.output().unwrap().stdout).unwrap();
    let roots = roots.replace('"', "");
    assert!(roots.contains("work/result ->"), "{roots}");
    assert!(roots.contains("work/result-2 ->"), "{roots}");
    let shown = run(tvix(&daemon).args(["store", "roots", "--store", &uri])).expect(0);
    assert!(
        shown.out.iter().any(|line| line.ends_with(&outputs[0])),
        "{shown:?}"
    );
    let mut collect = daemon.nix("nix-store");
    assert!(
        collect
            .arg("--gc")
            .env("NIX_REMOTE", &uri)
            .output()
            .unwrap()
            .status
            .success()
    );
    let again = run(build(&daemon, &uri).args(["-f", &file, "-A", "two"])).expect(0);
    assert!(!again.err.contains("building"), "{again:?}");
    // The store by the environment, as for Nix.
    let mut by_name = build(&daemon, "auto");
    run(by_name.args(["-f", &file, "-A", "two", "--option", "store", &uri])).expect(0);
    let mut info = tvix(&daemon);
    info.args(["store", "path-info", "./result"])
        .env("NIX_REMOTE", &uri);
    assert_eq!(run(&mut info).expect(0).out, outputs[..1]);
    daemon.verify();
}

#[test]
fn derivations_imports_and_failures() {
    let daemon = daemon("");
    let (uri, file) = (daemon.uri(), daemon.write("default.nix", EXPRESSION));
    let drv = run(tvix(&daemon).args(["instantiate", "-f", &file, "-A", "two", "--store", &uri]));
    let drv = drv.expect(0).out;
    let mut query = daemon.nix("nix-store");
    query
        .args(["--query", "--requisites", &drv[0]])
        .env("NIX_REMOTE", &uri);
    let requisites = String::from_utf8(query.output().unwrap().stdout).unwrap();
    assert!(requisites.contains("-one.drv"), "{requisites}");
    let mut eval = tvix(&daemon);
    eval.args([
        "eval",
        "--raw",
        "-f",
        &file,
        "-A",
        "imported.name",
        "--store",
        &uri,
    ]);
    for path in tvix_tests::local::sandbox_paths() {
        eval.arg("--sandbox-path").arg(path.to_string());
    }
    assert_eq!(run(&mut eval).expect(0).out, ["imported"]);
    run(build(&daemon, &uri).args(["-f", &file, "-A", "failed"]))
        .expect(100)
        .says(&["about to fail", "exit code 3"]);
    // Real Nix shows the log, which the daemon has been given.
    let failed = ["instantiate", "-f", &file, "-A", "failed", "--store", &uri];
    let failed = run(tvix(&daemon).args(failed)).expect(0).out;
    let mut log = daemon.nix("nix-store");
    let root = daemon.text("root");
    let log = log
        .args(["--store", &root, "--read-log", &failed[0]])
        .output();
    let log = String::from_utf8(log.unwrap().stdout).unwrap();
    assert_eq!(log, "about to fail\n");
    let added = run(tvix(&daemon).args(["store", "add", &file, "--store", &uri])).expect(0);
    let shown = run(tvix(&daemon).args(["store", "cat", &added.out[0], "--store", &uri]));
    assert!(shown.expect(0).out.len() > 5);
    run(tvix(&daemon).args(["store", "verify", "--store", &uri])).expect(0);
    run(tvix(&daemon).args(["store", "gc", "--store", &uri])).expect(0);
    daemon.verify();
}

/// A daemon takes from whom it does not trust only what its contents prove.
#[test]
fn a_daemon_that_does_not_trust_us() {
    let daemon = daemon("trusted-users = nobody\n");
    let (uri, file) = (daemon.uri(), daemon.write("default.nix", EXPRESSION));
    let refused = run(build(&daemon, &uri).args(["-f", &file, "-A", "two"]));
    assert_ne!(refused.code, Some(0), "{refused:?}");
    // Nix before 2.15 does not say whether it trusts us.
    let by_signature = refused.err.contains("signature of a trusted key");
    let by_trust = refused.err.contains("'trusted-users' has to name you");
    assert!(by_signature || by_trust, "{refused:?}");
    run(build(&daemon, &uri).args(["-f", &file, "-A", "fixed"])).expect(0);
    daemon.verify();
}
