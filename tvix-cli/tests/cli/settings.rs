//! Settings in files, in the environment and on the command line.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::program::run;

use super::{bare_build, build};

/// Writes the system's file of settings for a command, and returns its path.
fn configured(world: &LocalWorld, command: &mut Command, text: &str) -> PathBuf {
    let directory = world.beside("conf");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("nix.conf");
    // After it, so that lines keep their numbers.
    let offline = match text.contains("substituters") {
        true => "",
        false => "\nsubstituters =\n",
    };
    fs::write(&file, format!("{text}{offline}")).unwrap();
    command.env("NIX_CONF_DIR", &directory);
    file
}

fn config() -> Command {
    let mut command = super::plain();
    command.arg("config");
    command
}

#[tokio::test]
async fn each_setting_says_where_it_is_from() {
    let world = LocalWorld::new().await;
    let mut command = config();
    let system = configured(
        &world,
        &mut command,
        "cores = 3\nodd = 1\nextra-substituters = file:///a # the first\nbuild-max-jobs = 9\nauto-optimise-store = yes\n",
    );
    let user = world.beside("user.conf");
    fs::write(&user, "cores = 5\nextra-substituters = file:///b\n").unwrap();
    command
        .env("NIX_USER_CONF_FILES", &user)
        .env("NIX_CONFIG", "max-silent-time = 1K")
        .args(["--option", "timeout", "7"])
        .args(["cores", "substituters", "max-jobs", "max-silent-time"])
        .args(["timeout", "auto-optimise-store", "sandbox", "nix-path"]);
    let (system, user) = (system.display(), user.display());
    let ended = run(&mut command).expect(0);
    assert_eq!(
        ended.out,
        [
            format!("cores = 5  # {user}:1"),
            format!(
                "substituters = https://cache.nixos.org/ file:///a file:///b  # {system}:3, {user}:2"
            ),
            format!("max-jobs = 9  # {system}:4"),
            "max-silent-time = 1024  # NIX_CONFIG".to_owned(),
            "timeout = 7  # command line".to_owned(),
            format!("auto-optimise-store = true  # {system}:5, no effect"),
            "sandbox = true".to_owned(),
            "nix-path =".to_owned(),
        ]
    );
    assert_eq!(
        ended.err,
        format!("warning: unknown setting 'odd' in {system}:2\n")
    );
    // The output is a file of settings itself.
    let mut again = config();
    let lines = ended.out;
    configured(&world, &mut again, &(lines.join("\n") + "\n"));
    let ended = run(again.args(["--json", "cores", "substituters"])).expect(0);
    let shown: serde_json::Value = serde_json::from_str(&ended.out[0]).unwrap();
    assert_eq!(shown["cores"]["value"], 5);
    assert_eq!(shown["cores"]["defaultValue"], 0);
    assert_eq!(shown["substituters"]["value"][2], "file:///b");
    assert_eq!(shown["substituters"]["effect"], "used");
    // Of one setting, the value alone.
    for (name, value) in [
        ("cores", "5"),
        (
            "substituters",
            "https://cache.nixos.org/ file:///a file:///b",
        ),
        ("nix-path", ""),
    ] {
        let mut one = config();
        configured(&world, &mut one, &(lines.join("\n") + "\n"));
        assert_eq!(run(one.arg(name)).expect(0).out, [value]);
    }
    run(config().arg("no-such"))
        .expect(1)
        .says(&["error: unknown setting 'no-such'; 'tvix config' lists all"]);
    run(config().arg("extra-substitutors"))
        .expect(1)
        .says(&["'extra-substitutors' (did you mean 'extra-substituters'?); 'tvix config'"]);
}

#[tokio::test]
async fn files_have_an_effect_and_options_the_last_word() {
    let world = LocalWorld::new().await;
    let made = instantiate(shell("cores", "echo of $NIX_BUILD_CORES; echo > $out"));
    let drv = world.write(&made).await;
    let mut first = build(&world);
    configured(&world, &mut first, "cores = 3");
    run(first.arg(&drv)).expect(0).says(&["cores> of 3"]);
    for (variable, arguments, cores) in [
        ("", &[][..], "3"),
        ("cores = 4", &[], "4"),
        ("cores = 4", &["--cores", "5"], "5"),
        ("cores = 4", &["--option", "cores", "6"], "6"),
        ("cores = 4", &["--option", "build-cores", "7"], "7"),
    ] {
        let mut again = build(&world);
        configured(&world, &mut again, "cores = 3");
        again.env("NIX_CONFIG", variable).args(["--check", &drv]);
        run(again.args(arguments))
            .expect(0)
            .says(&[&format!("cores> of {cores}")]);
    }
    // The store itself, and evaluation.
    let mut command = bare_build(&world);
    let text = format!("store = {}\nsandbox = false\n", world.root().display());
    configured(&world, &mut command, &text);
    run(command.arg(&drv)).expect(0);
    let mut info = super::plain();
    configured(&world, &mut info, &text);
    let ended = run(info.args(["store", "path-info", &drv])).expect(0);
    assert_eq!(ended.out, [drv.as_str()]);
    let mut pure = super::plain();
    configured(&world, &mut pure, "pure-eval = true\n");
    pure.args(["eval", "-E", "builtins ? currentTime"]);
    assert_eq!(run(&mut pure).expect(0).out, ["false"]);
    assert_eq!(run(pure.arg("--impure")).expect(0).out, ["true"]);
}

#[tokio::test]
async fn errors_name_the_file_and_the_line() {
    let world = LocalWorld::new().await;
    let conf = world.beside("conf").join("nix.conf");
    let conf = conf.display();
    for (text, message) in [
        (
            "\ncores = many\n".to_owned(),
            format!(
                "error: setting 'cores' in {conf}:2 has invalid value 'many', expected a number"
            ),
        ),
        (
            "cores=3\n".to_owned(),
            format!(
                "error: invalid settings in '{conf}': line 1 is not 'NAME = VALUE' or 'include PATH': 'cores=3'"
            ),
        ),
        (
            "include gone.conf\n".to_owned(),
            "gone.conf', which ".to_owned(),
        ),
    ] {
        let mut command = super::plain();
        configured(&world, &mut command, &text);
        run(command.args(["eval", "-E", "1"]))
            .expect(1)
            .says(&[&message]);
    }
    // Of settings that mean nothing here, files say nothing.
    let mut command = super::plain();
    configured(
        &world,
        &mut command,
        "auto-optimise-store = true\nuse-cgroups = true\n",
    );
    let ended = run(command.args(["eval", "-E", "1"])).expect(0);
    assert_eq!((ended.out, ended.err.as_str()), (vec!["1".to_owned()], ""));
}

/// The table in the documents agrees with the program. UPDATE_GOLDEN=1 writes it anew.
#[test]
fn the_documents_list_every_setting() {
    let ended = run(config()
        .arg("--json")
        .env("NIX_CONF_DIR", "/no-conf")
        .env("NIX_USER_CONF_FILES", "/no"));
    let shown: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&ended.expect(0).out[0]).unwrap();
    let mut table = String::from("| setting | default | effect |\n|---|---|---|\n");
    for (name, setting) in &shown {
        let default = match &setting["defaultValue"] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(words) => {
                let words = words.iter().map(|word| word.as_str().unwrap());
                words.collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        let default = if default.is_empty() {
            default
        } else {
            format!("`{default}`")
        };
        let effect = setting["effect"].as_str().unwrap();
        table.push_str(&format!("| `{name}` | {default} | {effect} |\n"));
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SETTINGS.md");
    let document = fs::read_to_string(file).unwrap();
    let (text, found) = document.split_at(document.find("| setting |").unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, format!("{text}{table}")).unwrap();
        return;
    }
    assert_eq!(found, table, "docs/SETTINGS.md is not up to date");
}
