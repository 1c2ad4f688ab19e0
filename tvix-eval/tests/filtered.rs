//! Filtered sources, read by the evaluation that made them.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::{Value, json};
use tvix_eval::NixEvaluator;

/// Evaluates an expression with a directory `tree` (with `kept`, `gone`, `some/kept`, `some/gone`
/// and `none/x`), a filter, and the filtered source in scope.
fn eval(text: &str) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["kept", "gone", "some/kept", "some/gone", "none/x"] {
        let file = folder.path().join("tree").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "1").unwrap();
    }
    let tree = folder.path().join("tree");
    let text = format!(
        "let
          tree = {};
          keep = path: type: ! builtins.elem (baseNameOf path) [ \"gone\" \"none\" ];
          filtered = builtins.filterSource keep tree;
        in {text}",
        tree.display(),
    );
    let evaluator = NixEvaluator::default();
    evaluator.eval_to(&text).map_err(|failure| failure.message)
}

#[test]
fn excluded_files_are_not_visible() {
    let seen = eval(
        "{
          whole = builtins.readDir filtered;
          some = builtins.readDir \"${filtered}/some\";
          exist = map (name: builtins.pathExists \"${filtered}/${name}\")
            [ \"kept\" \"gone\" \"some/kept\" \"some/gone\" \"none\" \"none/x\" ];
          imported = import \"${filtered}/kept\";
        }",
    );
    let expected = json!({
        "whole": { "kept": "regular", "some": "directory" },
        "some": { "kept": "regular" },
        "exist": [true, false, true, false, false, false],
        "imported": 1,
    });
    assert_eq!(seen.unwrap(), expected);
    for gone in [
        "import \"${filtered}/gone\"",
        "builtins.readFile \"${filtered}/none/x\"",
    ] {
        let message = eval(gone).unwrap_err();
        assert!(message.contains("does not exist"), "{message}");
    }
    // The tree itself is not filtered.
    let whole = eval("builtins.attrNames (builtins.readDir tree)");
    assert_eq!(whole.unwrap(), json!(["gone", "kept", "none", "some"]));
}

/// A copy of a filtered source, or of a part of it, equals a copy from a store without the excluded
/// files.
#[test]
fn excluded_files_are_not_copied() {
    let same = eval(
        "let
          again = path: filter: builtins.path { inherit path filter; name = \"x\"; };
          all = _: _: true;
          whole = path: builtins.path { inherit path; name = \"x\"; };
        in [
          (whole filtered == again tree keep)
          (again filtered all == again tree keep)
          (whole \"${filtered}/some\" == again (tree + \"/some\") keep)
          (whole filtered != whole tree)
        ]",
    );
    assert_eq!(same.unwrap(), json!([true, true, true, true]));
}

/// Equal store objects have the same contents, whichever tree they were made from.
#[test]
fn an_object_from_two_trees_is_one() {
    let seen = eval(
        "let
          some = tree + \"/some\";
          copy = builtins.path {
            path = some; name = \"x\"; filter = path: type: baseNameOf path == \"kept\";
          };
          from = builtins.path { path = filtered + \"/some\"; name = \"x\"; };
        in [ (copy == from) (builtins.readDir copy) (builtins.readDir from) ]",
    );
    let entries = json!({ "kept": "regular" });
    assert_eq!(seen.unwrap(), json!([true, entries, entries]));
}
