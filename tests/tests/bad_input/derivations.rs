//! Invalid `.drv` files.

use std::fs;
use std::path::PathBuf;

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::{StoreDir, text_path};
use tvix_store_api::StoreExt as _;
use tvix_tests::local::{absolute, instantiate, shell};

use super::{Before, good};

/// Creates a file with this name and these contents next to the store.
fn file(before: &Before, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let folder = before.world.beside("drvs");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    fs::write(&file, contents).unwrap();
    file
}

fn other() -> Instantiated {
    instantiate(shell("other", "echo other > $out"))
}

fn text(made: &Instantiated) -> String {
    String::from_utf8(made.derivation.to_aterm(&made.store_dir)).unwrap()
}

#[tokio::test]
async fn unreadable() {
    let before = Before::new().await;
    // Not even root can read a directory as a file.
    let made = other();
    let folder = before.world.beside("drvs").join(made.path.to_string());
    fs::create_dir_all(&folder).unwrap();
    let path = folder.to_str().unwrap();
    before
        .expect(&[path], 1, &["cannot read", path, "directory"])
        .await;
}

#[tokio::test]
async fn missing() {
    let before = Before::new().await;
    let path = absolute(&other().path);
    before.expect(&[&path], 1, &[&path]).await;
}

#[tokio::test]
async fn malformed() {
    let before = Before::new().await;
    let made = other();
    let name = made.path.to_string();
    let whole = text(&made);
    for contents in [
        "",
        "garbage",
        &whole[..whole.len() / 2],
        &format!("{whole} "),
    ] {
        let file = file(&before, &name, contents);
        let path = file.to_str().unwrap();
        before.expect(&[path], 1, &[path, "not a derivation"]).await;
    }
}

#[tokio::test]
async fn not_a_name() {
    let before = Before::new().await;
    let contents = text(&other());
    // A file that does not end in `.drv` is an expression.
    for name in ["other.drv", "0000-other.drv"] {
        let file = file(&before, name, &contents);
        let path = file.to_str().unwrap();
        before
            .expect(&[path], 1, &[path, "the name of the file"])
            .await;
    }
}

#[tokio::test]
async fn contents_of_another() {
    let before = Before::new().await;
    let (made, other) = (good(), other());
    let file = file(
        &before,
        &other.path.to_string(),
        text(&made).replace("good", "evil"),
    );
    let path = file.to_str().unwrap();
    before
        .expect(&[path], 1, &[path, "the contents are those of"])
        .await;
}

/// The name matches the contents, but an output path is wrong.
#[tokio::test]
async fn output_path_of_another() {
    let before = Before::new().await;
    let (victim, thief) = (good(), other());
    let own = absolute(&thief.output_path("out").unwrap());
    let stolen = absolute(&victim.output_path("out").unwrap());
    let contents = text(&thief).replace(&own, &stolen);
    let references = thief.derivation.references();
    let name = thief.path.name().clone();
    let path = text_path(&StoreDir::default(), name, contents.as_bytes(), &references);
    let file = file(&before, &path.to_string(), contents);
    let path = file.to_str().unwrap();
    before
        .expect(&[path], 1, &[path, "output paths that are not its own"])
        .await;
}

/// The same in the store, built by an expression. Without `check_output_paths` in
/// `tvix-eval/src/access/realise.rs`, the output of this derivation would become the valid output
/// of the other one.
#[tokio::test]
async fn output_path_of_another_by_an_expression() {
    let mut before = Before::new().await;
    let victim = instantiate(shell("victim", "echo victim > $out"));
    let thief = other();
    let own = absolute(&thief.output_path("out").unwrap());
    let stolen = absolute(&victim.output_path("out").unwrap());
    let contents = text(&thief).replace(&own, &stolen);
    let references = thief.derivation.references();
    let store = &before.world.store;
    let name = thief.path.name().clone();
    let added = store.add_text(name, contents.as_bytes(), references).await;
    let drv = absolute(&added.unwrap());
    before.valid = before.world.valid().await;
    let expression = format!(
        "derivation {{ name = \"user\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
           args = [ \"-c\" \"read it < ${{builtins.appendContext \"{stolen}\" \
             {{ \"{drv}\" = {{ outputs = [ \"out\" ]; }}; }}}}; echo $it > $out\" ]; }}"
    );
    before
        .expect(&["-E", &expression], 1, &[&drv, "'out'", "victim"])
        .await;
}

#[tokio::test]
async fn missing_input_derivation() {
    let before = Before::new().await;
    let input = instantiate(shell("nowhere-input", "echo > $out"));
    let made = instantiate(shell("user", "echo > $out").input(&input, "out"));
    let file = file(&before, &made.path.to_string(), text(&made));
    let path = file.to_str().unwrap();
    let words = [
        &*made.path.to_string(),
        &input.path.to_string(),
        "needs the derivation",
    ];
    before.expect(&[path], 1, &words).await;
}

#[tokio::test]
async fn missing_input_source() {
    let before = Before::new().await;
    let name = "nowhere-source".parse().unwrap();
    let source = text_path(&StoreDir::default(), name, b"never added", &[].into());
    let made = instantiate(shell("user", "cat $source > $out").source(&source));
    let file = file(&before, &made.path.to_string(), text(&made));
    let path = file.to_str().unwrap();
    let words = [&*made.path.to_string(), &source.to_string()];
    before.expect(&[path], 1, &words).await;
}

#[tokio::test]
async fn unknown_output() {
    let mut before = Before::new().await;
    let drv = before.write(&other()).await;
    let wanted = format!("{drv}!lib");
    let name = other().path.to_string();
    before
        .expect(&[&wanted], 1, &[&name, "has no output 'lib'"])
        .await;
}

#[tokio::test]
async fn for_another_system() {
    let mut before = Before::new().await;
    let made = nix_compat::derivation::DerivationBuilder::new("foreign", "mips-plan9", "/bin/sh");
    let drv = before.write(&instantiate(made)).await;
    before.expect(&[&drv], 100, &[&drv, "mips-plan9"]).await;
}

#[tokio::test]
async fn builder_that_is_not_there() {
    let mut before = Before::new().await;
    let system = tvix_build_api::this_system();
    let made = nix_compat::derivation::DerivationBuilder::new("nobody", system, "/no/such/program");
    let drv = before.write(&instantiate(made)).await;
    before
        .expect(&[&drv], 100, &[&drv, "/no/such/program"])
        .await;
}
