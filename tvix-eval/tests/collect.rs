//! Collections of garbage: what is in use stays, and what is not goes.

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use nix_compat::store_path::StoreDir;
use tvix_eval::native::Native;
use tvix_eval::source::Pos;
use tvix_eval::value::{Ref, Value};
use tvix_eval::world::Settings;
use tvix_eval::{Limits, NixEvaluator};
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator as _, RealisedOutput};

fn collecting(every: Option<u32>) -> NixEvaluator {
    let mut settings = Settings::default();
    settings.collect_every = every;
    NixEvaluator::new(settings)
}

#[test]
fn values_that_a_native_holds_stay() {
    let each = Native::new("each", 2, |interp, args: &[Ref<'_>], pos: Pos| {
        let count = interp.expect_int(args[1], pos, "")?;
        // The collector does not see this vector.
        let mut held = Vec::new();
        for number in 0..count {
            let function = interp.force(args[0])?;
            let argument = interp.cell(Value::Int(number));
            held.push(interp.cell(interp.call(function, &[argument], pos)?));
        }
        Ok(interp.list(&held))
    });
    let evaluator = collecting(Some(1)).with_builtin(each);
    let text = r#"
        let lists = builtins.each (n: map (x: "${toString n}-${toString x}") [ 1 2 ]) 30;
        in builtins.deepSeq (builtins.genList (x: [ x ]) 100) lists
    "#;
    let lists: Vec<[String; 2]> = evaluator.eval_to(text).unwrap();
    let expected: Vec<_> = (0..30)
        .map(|n| [format!("{n}-1"), format!("{n}-2")])
        .collect();
    assert_eq!(lists, expected);
}

/// Collections that follow only what is new find what a native has stored in an old cell.
#[test]
fn values_that_a_native_stores_stay() {
    let change = Native::new("change", 1, |interp, args: &[Ref<'_>], pos: Pos| {
        let list = interp.expect_list(args[0], pos, "")?;
        for (number, cell) in (100..).zip(list.items) {
            cell.set(interp.attrs(vec![interp.attr("v", Value::Int(number))]));
        }
        Ok(Value::Null)
    });
    let text = r#"
        let
          some = builtins.genList (x: [ x ]) 60;
          changed = map (n: { v = n; }) (builtins.genList (x: x) 50);
          all = [ changed (builtins.deepSeq some null) (builtins.change changed) (map (x: x ++ x) some) ];
        in
        builtins.seq (builtins.deepSeq changed some) (builtins.deepSeq all (map (x: x.v) changed))
    "#;
    for every in 1..8 {
        let evaluator = collecting(Some(every)).with_builtin(change.clone());
        let numbers: Vec<i64> = evaluator.eval_to(text).unwrap();
        assert_eq!(numbers, (100..150).collect::<Vec<_>>(), "{every}");
    }
}

#[test]
fn values_of_builtins_stay() {
    let texts = [
        "builtins.concatMap (x: map (y: \"${toString y}\") [ x (x + 1) ]) (builtins.genList (x: x) 20)",
        "map (x: toString x.key) (builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: if x.key > 30 then [ ] else [ { key = x.key + 1; } { key = x.key + 2; } ]; })",
        "map (x: builtins.toJSON x.key) (builtins.genericClosure { startSet = [ { key = [ 0 ]; } ]; operator = x: map (n: { key = map (m: m + n) x.key; }) (if builtins.head x.key > 20 then [ ] else [ 1 2 ]); })",
        "map (x: x.name) (builtins.sort (a: b: \"${a.name}\" < \"${b.name}\") (map (n: { name = \"n${toString n}\"; }) (builtins.genList (x: x * 7) 20)))",
        "builtins.attrNames { ${\"a\" + \"b\"} = 1; ${toString (builtins.foldl' (a: b: a + b) 0 [ 1 2 ])} = 2; c = 3; }",
        "map (x: x.outPath) ((derivation { name = \"x\"; system = \"y\"; builder = \"z\"; outputs = [ \"out\" \"dev\" \"lib\" ]; }).all)",
        "builtins.attrValues (builtins.mapAttrs (n: v: \"${n}${v}\") (builtins.foldl' (a: n: a // { ${\"k${toString n}\"} = toString n; }) { } (builtins.genList (x: x) 200)))",
        "builtins.attrNames (builtins.groupBy (x: \"g${toString (x - x / 3 * 3)}\") (builtins.genList (x: x) 30))",
        "builtins.attrValues (builtins.zipAttrsWith (n: vs: builtins.toJSON vs) (builtins.genList (n: { a = [ n ]; \"b${toString n}\" = \"${toString n}\"; }) 20))",
        "[ (builtins.toXML (builtins.foldl' (a: n: { inherit a; b = map (x: \"${toString (x + n)}\") [ n 2 ]; }) 0 (builtins.genList (x: x) 60))) ]",
        "map (x: builtins.toXML x.key) (builtins.genericClosure { startSet = [ { key = [ \"a\" ]; } ]; operator = x: if builtins.length x.key > 20 then [ ] else [ { key = map (k: \"${k}b\") x.key ++ [ \"c\" ]; } ]; })",
        // The text of a file that only the path refers to.
        "map builtins.readFile (builtins.filter (q: builtins.seq q true) (map (n: builtins.toFile \"q\" \"text ${toString n}\") (builtins.genList (x: x) 20)))",
        "builtins.filter builtins.isString (builtins.split \"([0-9]+)\" (builtins.concatStringsSep \"x\" (map toString (builtins.genList (x: x) 50))))",
    ];
    for text in texts {
        let expected: Vec<String> = collecting(None).eval_to(text).unwrap();
        for every in [1, 2, 3, 7] {
            let found: Vec<String> = collecting(Some(every)).eval_to(text).unwrap();
            assert_eq!(found, expected, "{every}: {text}");
        }
    }
}

/// The derivations of an evaluation whose roots are suspended in imports, several at a time.
async fn derivations(every: Option<u32>, imported: &std::path::Path) -> Vec<String> {
    let text = r#"
        let
          make = name: n:
            let
              drv = derivation { name = "import-${name}"; system = "x"; builder = "b"; };
              before = map (x: { text = "${name}-${toString x}"; }) (builtins.genList (x: x) n);
              number = builtins.after n (import "${drv}");
              later = builtins.concatMap (x: [ x.text (toString (number + n)) ]) before;
            in
            builtins.deepSeq before (derivation {
              inherit name;
              system = "x";
              builder = "b";
              args = builtins.seq number later;
              before = map (x: x.text) before;
            });
        in
        builtins.listToAttrs (map (n: rec { name = "r${toString n}"; value = make name n; })
          (builtins.genList (x: x + 3) 12))
    "#;
    let request = EvalRequest::new(EvalSource::Expression {
        text: text.to_owned(),
        base: "/".into(),
    });
    // Its vector is hidden from the collector while it is suspended.
    let after = Native::new("after", 2, |interp, args: &[Ref<'_>], pos: Pos| {
        let count = interp.expect_int(args[0], pos, "")?;
        let lists = |number| interp.list(&[interp.cell(Value::Int(number))]);
        let held: Vec<_> = (0..count)
            .map(|number| interp.cell(lists(number)))
            .collect();
        let result = interp.force(args[1])?;
        for (number, cell) in (0..count).zip(held) {
            let Value::List(list) = cell.get() else {
                panic!("the list {number} was freed");
            };
            assert!(matches!(list.items[0].get(), Value::Int(found) if found == number));
        }
        Ok(result)
    });
    let evaluator = collecting(every).with_builtin(after);
    let mut events = evaluator.evaluate(request).await.unwrap();
    let mut found = Vec::new();
    let mut waiting = VecDeque::new();
    let mut made = HashMap::new();
    let mut most = 0;
    loop {
        // Several fibers are suspended before any continues.
        match tokio::time::timeout(Duration::from_millis(300), events.next()).await {
            Ok(None) => break,
            Ok(Some(event)) => match event.unwrap() {
                EvalEvent::Derivation {
                    path, derivation, ..
                } => {
                    found.push(path.to_string());
                    made.insert(path, derivation);
                }
                EvalEvent::Realise(request) => waiting.push_back(request),
                _ => {}
            },
            Err(_) => {
                most = most.max(waiting.len());
                while let Some(request) = waiting.pop_back() {
                    let wanted = &request.wanted[0];
                    let path = wanted.drv_path.clone();
                    let output = wanted.outputs[0].clone();
                    let dir = StoreDir::default();
                    let built = made[&path].output_path(&dir, &output).unwrap();
                    let output = RealisedOutput::new(path, output, built, imported);
                    request.reply.answer(Ok(vec![output]));
                }
            }
        }
    }
    assert!(most > 3, "{most}");
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_suspended_fibers_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("number.nix");
    std::fs::write(&file, "42").unwrap();
    let expected = derivations(None, &file).await;
    assert_eq!(expected.len(), 24);
    for every in [1, 3, 10] {
        assert_eq!(derivations(Some(every), &file).await, expected, "{every}");
    }
}

/// Each root needs 20 MB or more, which nothing refers to afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_leave_nothing_behind() {
    let text = r#"
        let
          count = n: builtins.length (builtins.filter (x: x >= n) (builtins.genList (x: x) 250000));
          root = n: derivation { name = "d${toString (count n)}"; system = "x"; builder = "b"; };
        in
        builtins.listToAttrs (builtins.genList (n: { name = "r${toString n}"; value = root n; }) 20)
    "#;
    let request = EvalRequest::new(EvalSource::Expression {
        text: text.to_owned(),
        base: "/".into(),
    });
    let evaluator = NixEvaluator::default().with_limits(Limits::default().with_memory(280 << 20));
    let mut events = evaluator.evaluate(request).await.unwrap();
    let mut roots = 0;
    while let Some(event) = events.next().await {
        roots += usize::from(matches!(event.unwrap(), EvalEvent::Root(_)));
    }
    assert_eq!(roots, 20);
}
