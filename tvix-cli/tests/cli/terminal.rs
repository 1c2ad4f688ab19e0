//! Output to terminals, files and pipes: text and colours, and each failure once.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::process::{Command, Stdio};

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::NixHash;
use tvix_tests::local::{LocalWorld, instantiate, sandbox_paths, shell};
use tvix_tests::program::run;

use super::build;

/// Sequences that do harm: titles, the clipboard, the screen, device control, 8-bit forms, conceal, direction.
const HOSTILE: &[&str] = &[
    "\x1b]0;PWNED\x07",
    "\x1b]52;c;UFdORUQ=\x1b\\",
    "\x1b[2J",
    "\x1bP$q\"p\x1b\\",
    "\x1b_APC\x1b\\",
    "\u{9b}2J",
    "\u{9d}0;PWNED\u{9c}",
    "\x1bc",
    "\x1b[8m",
    "\x07\x08\x7f",
    "\u{202e}",
    "\x1b[6n",
];

/// Runs a command with standard output and error on a terminal; returns its output and exit code.
pub fn on_terminal(command: &mut Command) -> (Vec<u8>, Option<i32>) {
    on_terminal_typing(command, b"")
}

/// The same for a command that reads from the terminal, unless nothing is typed.
fn on_terminal_typing(command: &mut Command, typed: &[u8]) -> (Vec<u8>, Option<i32>) {
    let (mut main, mut other) = (0, 0);
    // SAFETY: both pointers are to variables that live until the call returns; the others may be null.
    let opened = unsafe {
        libc::openpty(
            &mut main,
            &mut other,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened and belong to nobody else.
    let (mut main, other) = unsafe { (File::from_raw_fd(main), File::from_raw_fd(other)) };
    let size = libc::winsize {
        ws_row: 40,
        ws_col: 200,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and the request reads a `winsize`.
    unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&other),
            libc::TIOCSWINSZ,
            &size,
        )
    };
    match typed {
        b"" => command.stdin(Stdio::null()),
        _ => command.stdin(other.try_clone().unwrap()),
    };
    main.write_all(typed).unwrap();
    if !typed.is_empty() {
        // Ends a prompt that has lost the end of what was typed.
        let mut main = main.try_clone().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(30));
            let _ = main.write_all(b"\n:q\n");
        });
    }
    command.stdout(other.try_clone().unwrap()).stderr(other);
    let mut child = command.spawn().unwrap();
    // Its copies of the terminal.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    let reader = std::thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        // Ends with an error once nobody has the terminal open any more.
        while let Ok(len @ 1..) = main.read(&mut buffer) {
            all.extend_from_slice(&buffer[..len]);
        }
        all
    });
    let code = child.wait().unwrap().code();
    (reader.join().unwrap(), code)
}

/// Removes the sequences of the progress display: cursor movement, erased lines, colours.
pub fn without_display(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let mut left = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("\x1b[") {
        left.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let end = body.find(|char: char| !char.is_ascii_digit() && char != ';');
        let end = end.expect("a complete sequence");
        assert!(
            matches!(
                body.as_bytes()[end],
                b'm' | b'A' | b'B' | b'C' | b'D' | b'K'
            ),
            "{:?}",
            &rest[at..at + 2 + end + 1]
        );
        rest = &body[end + 1..];
    }
    left.push_str(rest);
    left.replace('\r', "")
}

#[track_caller]
fn expect_text(text: &str) {
    let wrong = text
        .chars()
        .find(|char| (char.is_control() && !matches!(char, '\n' | '\t')) || *char == '\u{202e}');
    assert_eq!(wrong, None, "{text:?}");
    assert!(
        !text.contains("PWNED") && !text.contains("UFdORUQ"),
        "{text:?}"
    );
}

/// A derivation with all of these in its log, in every way that a builder can write.
async fn hostile(world: &LocalWorld) -> String {
    let all = HOSTILE.concat();
    let folder = world.beside("hostile");
    fs::create_dir_all(&folder).unwrap();
    let json =
        serde_json::json!({ "action": "msg", "level": 0, "msg": format!("message {all}\rsaid") });
    let phase = serde_json::json!({ "action": "setPhase", "phase": all });
    let log = format!(
        "begin {all}\rlast {all}\n@nix {phase}\n@nix {json}\n{all}\n\x1b]0;\nunended \x1b[31mred\n"
    );
    let mut log = log.into_bytes();
    log.extend_from_slice(b"eight bits \x9b2J\n");
    fs::write(folder.join("log"), log).unwrap();
    let script = "while read -r line; do printf '%s\\n' \"$line\"; done < /hostile/log; exit 1";
    world.write(&instantiate(shell("hostile", script))).await
}

#[tokio::test]
async fn logs_reach_terminals_as_text() {
    let world = LocalWorld::new().await;
    let drv = hostile(&world).await;
    let folder = format!("/hostile={}", world.beside("hostile").display());
    for options in [&[][..], &["-L"]] {
        let mut command = build(&world);
        command
            .args(["--sandbox-path", &folder, &drv])
            .args(options);
        let (shown, code) = on_terminal(&mut command);
        assert_eq!(code, Some(100));
        let text = without_display(&shown);
        expect_text(&text);
        assert!(text.contains("last ") && text.contains("said"), "{text}");
        assert!(!text.contains("begin"), "it was overwritten: {text}");
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains("\x1b[31mred\x1b[0m"),
            "colours stay: {shown:?}"
        );
    }
}

#[tokio::test]
async fn logs_reach_pipes_as_text_and_files_as_they_are() {
    let world = LocalWorld::new().await;
    let drv = hostile(&world).await;
    let folder = format!("/hostile={}", world.beside("hostile").display());
    let events = world.beside("events");
    let ended = run(build(&world)
        .args(["--sandbox-path", &folder, "--events"])
        .arg(&events)
        .arg(&drv));
    let ended = ended.expect(100);
    expect_text(&ended.err);
    assert!(
        !ended.err.contains("begin") && ended.err.contains("hostile> last"),
        "{}",
        ended.err
    );
    let (_, file) = ended.err.split_once("the whole log is in '").unwrap();
    let kept = fs::read(file.split_once('\'').unwrap().0).unwrap();
    assert_eq!(kept, fs::read(world.beside("hostile/log")).unwrap());
    // JSON escapes, so lines are lines.
    for line in fs::read_to_string(&events).unwrap().lines() {
        let _: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

/// File names, values, warnings and errors of expressions, on standard output and standard error.
#[tokio::test]
async fn names_and_values_reach_terminals_as_text() {
    let world = LocalWorld::new().await;
    let folder = world.beside("tree");
    fs::create_dir_all(&folder).unwrap();
    let all = HOSTILE.concat();
    let name = all.replace('/', "");
    fs::write(folder.join(&name), &all).unwrap();
    let store = world.root().display().to_string();
    let added = run(super::plain()
        .args(["store", "add", "--store", &store])
        .arg(&folder))
    .expect(0);
    let added = &added.out[0];
    let within = format!("{added}/{name}");
    let missing = folder.join(format!("{name}x"));
    let expression = format!("builtins.trace ''{all}'' (builtins.warn ''{all}'' ''{all}'')");
    let cases: &[(&[&str], i32)] = &[
        (&["store", "ls", "-R", "--store", &store, added], 0),
        (&["store", "cat", "--store", &store, &within], 0),
        (
            &["store", "add", "--store", &store, missing.to_str().unwrap()],
            1,
        ),
        (&["eval", "-E", &expression], 0),
        (&["eval", "--raw", "-E", &expression], 0),
        (&["eval", "--json", "-E", &expression], 0),
        (&["eval", "-E", &format!("throw ''{all}''")], 1),
        (
            &["eval", "-E", &format!("import ''/nonexistent/{name}''")],
            1,
        ),
        (
            &[
                "store",
                "ls",
                "--store",
                &store,
                &format!("{added}/{name}y"),
            ],
            1,
        ),
    ];
    for (args, code) in cases {
        let (shown, ended) = on_terminal(super::plain().args(*args));
        let text = without_display(&shown);
        assert_eq!(ended, Some(*code), "{args:?}: {text}");
        match args.contains(&"--json") {
            // JSON escapes what it contains.
            true => assert!(!text.contains(['\x1b', '\x07', '\u{9b}']), "{text:?}"),
            false => expect_text(&text),
        }
    }
    // An option ends before `=`, within a sequence, of which only the introducer is removed then.
    let (shown, ended) = on_terminal(super::plain().arg(format!("--{all}")));
    assert_eq!(ended, Some(1), "{shown:?}");
    let text = without_display(&shown);
    assert!(!text.contains(['\x1b', '\x07', '\u{9b}']), "{text:?}");
    // A pipe gets the bytes that were asked for.
    let output = super::plain()
        .args(["store", "cat", "--store", &store, &within])
        .output()
        .unwrap();
    assert_eq!(output.stdout, all.as_bytes());
}

/// Each kind of failure, on a terminal and without one.
#[tokio::test]
async fn failures_are_said_once() {
    let world = LocalWorld::new().await;
    let fixed = shell("fixed", "echo > $out");
    let fixed = fixed.fixed(ContentAddressMethod::Flat, NixHash::Sha256([0; 32]));
    let failures = [
        (
            instantiate(shell("exits", "echo reason; exit 3")),
            "exit code 3",
        ),
        (instantiate(shell("lacks", ":")), "failed to produce"),
        (instantiate(fixed), "hash mismatch"),
    ];
    for (made, message) in &failures {
        let drv = world.write(made).await;
        let (shown, code) = on_terminal(build(&world).arg(&drv));
        assert_ne!(code, Some(0));
        let text = without_display(&shown);
        assert_eq!(text.matches(message).count(), 1, "{text}");
        let ended = run(build(&world).arg(&drv));
        assert_eq!(ended.err.matches(message).count(), 1, "{}", ended.err);
        assert!(ended.err.matches("> reason").count() <= 1, "{}", ended.err);
    }
    // What evaluation imports, by each command that evaluates.
    let import = "import (derivation { name = ''x''; system = builtins.currentSystem; builder = ''/bin/sh''; args = [ ''-c'' ''exit 5'' ]; })";
    for command in ["build", "instantiate", "eval"] {
        let mut tvix = super::plain();
        tvix.args([command, "-E", import, "--store"])
            .arg(world.root());
        for path in sandbox_paths() {
            tvix.arg("--sandbox-path").arg(path.to_string());
        }
        let (shown, code) = on_terminal(&mut tvix);
        assert_ne!(code, Some(0));
        let text = without_display(&shown);
        assert_eq!(text.matches("exit code 5").count(), 1, "{command}: {text}");
    }
}

/// Lines that are printed while a progress display is shown begin at the left, on a line of their own.
#[tokio::test]
async fn lines_of_jobs_do_not_follow_the_progress_display() {
    let world = LocalWorld::new().await;
    let jobs = "builtins.listToAttrs (map (n: { name = ''job${toString n}''; value = derivation { name = ''x${toString n}''; system = ''x''; builder = ''x''; }; }) (builtins.genList (n: n) 50))";
    let mut tvix = super::plain();
    tvix.args(["jobs", "-E", jobs, "--store"]).arg(world.root());
    let (shown, code) = on_terminal(&mut tvix);
    assert_eq!(code, Some(0));
    let shown = String::from_utf8(shown).unwrap();
    let before: Vec<_> = shown.split("{\"attr\":").collect();
    assert_eq!(before.len(), 51, "{shown}");
    for before in &before[..50] {
        let at_the_left = before.is_empty() || before.ends_with(['\n', '\r', 'K']);
        assert!(at_the_left, "{before:?}");
    }
}

#[tokio::test]
async fn the_prompt_keeps_lines_that_were_typed_ahead() {
    let world = LocalWorld::new().await;
    let mut tvix = super::plain();
    tvix.args(["repl", "--store"]).arg(world.root());
    tvix.env("HOME", world.beside("home")).env("TERM", "xterm");
    let (shown, code) = on_terminal_typing(&mut tvix, b"10 + 1\n10 + 2\n10 + 3\n:q\n");
    let shown = String::from_utf8_lossy(&shown);
    assert_eq!(code, Some(0), "{shown}");
    for result in ["11", "12", "13"] {
        assert!(shown.contains(result), "{result}: {shown}");
    }
}
