//! Sets of jobs by several workers: the same jobs and errors as by one evaluation.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use futures::StreamExt as _;
use tvix_eval::NixEvaluator;
use tvix_eval_api::{
    EvalEvent, EvalRequest, EvalSource, Evaluator, JobOptions, RealiseError, Root, RootOrder,
    Workers,
};

fn file(name: &str) -> EvalSource {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    EvalSource::File(folder.join(name))
}

fn expression(text: &str) -> EvalSource {
    EvalSource::Expression {
        text: text.to_owned(),
        base: "/".into(),
    }
}

fn request(source: EvalSource, attrs: &[&str], jobs: bool) -> EvalRequest {
    EvalRequest::new(source)
        .with_attr_paths(attrs.iter().map(|attr| (*attr).to_owned()).collect())
        .with_jobs(jobs.then(JobOptions::default))
}

fn workers(count: usize, memory: Option<u64>) -> Workers<NixEvaluator> {
    let count = NonZeroUsize::new(count).unwrap();
    Workers::new(NixEvaluator::default(), count).with_memory(memory)
}

/// Roots and errors by their places. Roots that moved are at their first place only.
type Found = BTreeMap<RootOrder, (String, String)>;

/// Follows an evaluation to its end. Checks that inputs come first. Imports fail.
async fn found(evaluator: &dyn Evaluator, request: EvalRequest) -> Found {
    let mut events = evaluator.evaluate(request).await.unwrap();
    let (mut found, mut seen) = (Found::new(), HashSet::new());
    let mut add = |order: RootOrder, name: String, what: String, moved: Option<RootOrder>| {
        if let Some(before) = moved {
            found.remove(&before).unwrap();
        }
        let known = found.insert(order, (name, what));
        assert!(known.is_none(), "{known:?} came twice");
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(EvalEvent::Derivation {
                path, derivation, ..
            }) => {
                for input in derivation.input_drvs.keys() {
                    assert!(seen.contains(input), "{path} came before {input}");
                }
                seen.insert(path);
            }
            Ok(EvalEvent::Root(Root {
                name,
                wanted,
                order,
                moved_from,
                ..
            })) => {
                assert!(seen.contains(&wanted.drv_path), "{name} came too early");
                add(order, name, wanted.drv_path.to_string(), moved_from);
            }
            Ok(EvalEvent::Realise(realise)) => {
                let failed = RealiseError::Failed {
                    drv_path: realise.wanted[0].drv_path.clone(),
                    message: "no builds here".to_owned(),
                    log_tail: Vec::new(),
                };
                realise.reply.answer(Err(failed));
            }
            Ok(_) => {}
            Err(error) => {
                let failure = error.failure();
                let name = failure.attr_path.map(|path| path.text);
                add(
                    failure.order,
                    name.unwrap_or_default(),
                    failure.message,
                    None,
                );
            }
        }
    }
    found
}

const PACKAGES: [&str; 5] = ["native", "cross", "changed", "machine", "other"];

#[tokio::test]
async fn a_package_set_has_the_same_jobs_whoever_evaluates_them() {
    let request = || request(file("packages/release.nix"), &PACKAGES, true);
    let alone = found(&NixEvaluator::default(), request()).await;
    assert!(alone.len() > 100, "{}", alone.len());
    // With little memory, each evaluation ends after a job or a batch of names.
    for (count, memory) in [(1, None), (2, None), (3, None), (2, Some(4 << 20))] {
        let shared = found(&workers(count, memory), request()).await;
        assert_eq!(alone, shared, "{count} workers with {memory:?}");
    }
}

#[tokio::test]
async fn roots_to_build_are_the_same_and_in_order() {
    let request = || request(file("packages/release.nix"), &PACKAGES, false);
    let alone = found(&NixEvaluator::default(), request()).await;
    let shared = found(&workers(3, None), request()).await;
    // Equal derivations of different values are one root only for workers.
    let mut unique: BTreeMap<(Option<usize>, String), RootOrder> = BTreeMap::new();
    for (order, (_, drv_path)) in &alone {
        let key = (order.request_index(), drv_path.clone());
        unique.entry(key).or_insert_with(|| order.clone());
    }
    let orders: HashSet<_> = unique.into_values().collect();
    let alone: Found = alone
        .into_iter()
        .filter(|(order, _)| orders.contains(order))
        .collect();
    assert_eq!(alone, shared);
}

/// 10,000 attributes, or as many as TVIX_JOBS says.
#[tokio::test]
async fn a_large_set() {
    let count = std::env::var("TVIX_JOBS").map_or(10_000, |count| count.parse().unwrap());
    let text = format!(
        "builtins.listToAttrs (builtins.genList (n: {{
          name = \"a${{toString n}}\";
          value = if n - n / 1000 * 1000 == 7 then throw \"seven\" else derivation {{
            name = \"n${{toString n}}\"; system = \"x\"; builder = \"y\"; }};
        }}) {count})"
    );
    let request = || request(expression(&text), &[], true);
    let alone = found(&NixEvaluator::default(), request()).await;
    assert_eq!(alone.len(), count);
    // Little enough that workers start afresh now and then.
    let shared = found(&workers(2, Some((4 << 20) + count as u64 * 500)), request()).await;
    assert!(alone == shared);
}

/// Jobs that fail, between jobs that do not.
const BAD: &str = "
    let
      d = name: derivation { inherit name; system = \"x\"; builder = \"y\"; };
      deep = n: deep (n + 1) + 1;
      all = builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; };
    in {
      a = d \"a\";
      b = throw \"thrown\";
      c = deep 0;
      d = d \"d\";
      e = let x = x; in x;
      f = all;
      g = d \"g\";
      h = import (d \"import\");
      i = { recurseForDerivations = true; j = d \"j\"; k = abort \"aborted\"; l = [ (d \"l\") ]; };
      m = { recurseForDerivations = throw \"recurse\"; };
      n = { x = d \"x\"; };
      \"o.p\" = d \"p\";
      q = { name ? \"called\" }: d name;
      r = { name }: d name;
      s = d \"s\";
    }";

#[tokio::test]
async fn an_error_in_one_job_ends_no_other() {
    let limited = || {
        let limits = tvix_eval::Limits::default().with_memory(64 << 20);
        NixEvaluator::default().with_limits(limits)
    };
    let named = |found: Found| {
        let mut names: Vec<_> = found.into_values().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    let expected = [
        "\"o.p\"", "a", "b", "c", "d", "e", "f", "g", "h", "i.j", "i.k", "m", "q", "s",
    ];
    for count in [1, 2] {
        let workers = Workers::new(limited(), NonZeroUsize::new(count).unwrap());
        let found = found(&workers, request(expression(BAD), &[], true)).await;
        for (name, what) in found.values() {
            let fails = ["b", "c", "e", "f", "h", "i.k", "m"].contains(&name.as_str());
            assert_eq!(fails, !what.ends_with(".drv"), "{name}: {what}");
        }
        let says = |job: &str, text: &str| {
            let mut jobs = found.values();
            let (_, what) = jobs.find(|(name, _)| name == job).unwrap();
            assert!(what.contains(text), "{job}: {what}");
        };
        says("b", "thrown");
        says("c", "max-call-depth exceeded");
        says("e", "infinite recursion");
        says("f", "memory");
        says("h", "no builds here");
        says("i.k", "aborted");
        assert_eq!(named(found), expected, "{count}");
    }
}

#[tokio::test]
async fn jobs_have_details() {
    let set = "{ set.a.recurseForDerivations = true; set.a.\"b.c\" = derivation {
                 name = \"b-1\"; system = \"x\"; builder = \"y\"; outputs = [ \"out\" \"dev\" ];
               } // { meta = { text = \"t\"; list = [ 1 true ]; function = x: x; none = null; }; }; }";
    let options = JobOptions::default().with_meta(true);
    let request = request(expression(set), &["set"], false).with_jobs(options);
    for evaluator in [
        &NixEvaluator::default() as &dyn Evaluator,
        &workers(2, None),
    ] {
        let mut events = evaluator.evaluate(request.clone()).await.unwrap();
        let mut jobs = Vec::new();
        while let Some(event) = events.next().await {
            if let EvalEvent::Root(root) = event.unwrap() {
                jobs.push(root);
            }
        }
        let [root] = &jobs[..] else {
            panic!("{jobs:?}");
        };
        assert_eq!(root.name, "set.a.\"b.c\"");
        let job = root.job.as_ref().unwrap();
        assert_eq!(job.attr_path, ["set", "a", "b.c"]);
        assert_eq!(job.name, "b-1");
        assert_eq!(job.derivation.outputs.iter().count(), 2);
        let meta = r#"{"list":[1,true],"text":"t"}"#;
        assert_eq!(job.meta.as_deref(), Some(meta));
        assert!(job.cost.bytes > 0);
    }
}
