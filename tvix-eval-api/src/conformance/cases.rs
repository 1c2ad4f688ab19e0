//! Cases without imports.

use std::time::Duration;

use futures::FutureExt;
use futures::future::try_join_all;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath, text_path};

use super::watch::{Seen, Watch, same};
use super::{Capabilities, Case, Counter, Factory, Outcome, TestAttribute, TestGraph, TestValue};
use crate::{SourceAddition, SourceContent};

const NONE: Capabilities = Capabilities {
    sources: false,
    lazy: false,
    imports: false,
};
const LAZY: Capabilities = Capabilities { lazy: true, ..NONE };
const SOURCES: Capabilities = Capabilities {
    sources: true,
    ..NONE
};

macro_rules! cases {
    ($needs:ident: $($case:ident),* $(,)?) => {
        [$(Case { name: stringify!($case), needs: $needs, run: |factory| $case(factory).boxed() }),*]
    };
}
pub(super) use cases;

pub(super) const ALL: &[Case] = &{
    let [a, b, c, d, e, f, g] = cases!(NONE:
        inputs_before_dependents,
        long_chains,
        all_outputs_or_those_asked_for,
        only_requested_attributes_are_yielded,
        one_unknown_name_stops_no_other,
        evaluations_at_once,
        dropped_streams_end,
    );
    let [h] = cases!(SOURCES: sources_before_users);
    let [i, j] = cases!(LAZY: derivations_at_once, back_pressure);
    [a, b, c, d, e, f, g, h, i, j]
};

pub(super) fn builder(name: impl Into<String>) -> DerivationBuilder {
    DerivationBuilder::new(name, "x86_64-linux", "/bin/sh")
}

pub(super) fn made(builder: DerivationBuilder) -> Result<Instantiated, String> {
    let made = builder.instantiate(&StoreDir::default());
    made.map_err(|error| error.to_string())
}

pub(super) fn attribute(name: impl Into<String>, value: TestValue) -> TestAttribute {
    let name = name.into();
    TestAttribute { name, value }
}

pub(super) fn root(name: impl Into<String>, derivation: &Instantiated) -> TestAttribute {
    attribute(name, TestValue::Root(derivation.clone(), None))
}

fn graph(
    derivations: impl IntoIterator<Item = Instantiated>,
    attributes: impl IntoIterator<Item = TestAttribute>,
) -> TestGraph {
    TestGraph {
        derivations: derivations.into_iter().collect(),
        attributes: attributes.into_iter().collect(),
        ..TestGraph::default()
    }
}

fn diamond() -> Result<TestGraph, String> {
    let bottom = made(builder("bottom"))?;
    let left = made(builder("left").input(&bottom, "out"))?;
    let right = made(builder("right").input(&bottom, "out"))?;
    let top = made(builder("top").input(&left, "out").input(&right, "out"))?;
    let attributes = [root("top", &top), root("left", &left)];
    Ok(graph([bottom, left, right, top], attributes))
}

async fn inputs_before_dependents(factory: Factory<'_>) -> Outcome {
    let graph = diamond()?;
    let subject = factory(graph.clone());
    let mut watch = Watch::start(&subject, &["top", "left"], None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("derivations", watch.seen.len(), 4)?;
    same("roots", watch.roots.len(), 2)
}

async fn long_chains(factory: Factory<'_>) -> Outcome {
    let mut chain = vec![made(builder("link"))?];
    for _ in 1..2000 {
        let below = chain
            .last()
            .map(|below| builder("link").input(below, "out"));
        chain.push(made(below.ok_or("no link")?)?);
    }
    let top = chain.last().ok_or("no link")?.clone();
    let subject = factory(graph(chain, [root("top", &top)]));
    let mut watch = Watch::start(&subject, &["top"], None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("derivations", watch.seen.len(), 2000)
}

async fn all_outputs_or_those_asked_for(factory: Factory<'_>) -> Outcome {
    let many = made(builder("many").outputs(["out", "dev", "doc"]))?;
    let some = vec!["doc".to_owned(), "out".to_owned()];
    let attributes = [
        root("all", &many),
        attribute("some", TestValue::Root(many.clone(), Some(some.clone()))),
    ];
    let subject = factory(graph([many.clone()], attributes));
    let all = ["dev", "doc", "out"].map(str::to_owned).to_vec();
    for (name, outputs) in [("all", all), ("some", some)] {
        let mut watch = Watch::start(&subject, &[name], None).await?;
        watch.finish().await?;
        watch.no_errors()?;
        // One root with all outputs, or one root per output.
        let (paths, found): (Vec<_>, Vec<_>) = watch.wanted().into_iter().unzip();
        let mut found = found.concat();
        found.sort();
        same("outputs", found, outputs)?;
        let others = paths.iter().filter(|path| **path != many.path);
        same("other derivations", others.count(), 0)?;
    }
    Ok(())
}

async fn only_requested_attributes_are_yielded(factory: Factory<'_>) -> Outcome {
    let graph = diamond()?;
    let left = graph.derivations[1].path.clone();
    let subject = factory(graph);
    let mut watch = Watch::start(&subject, &["left"], None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    let wanted = vec![(left, vec!["out".to_owned()])];
    same("roots", watch.wanted(), wanted)
}

async fn one_unknown_name_stops_no_other(factory: Factory<'_>) -> Outcome {
    let subject = factory(diamond()?);
    let mut watch = Watch::start(&subject, &["unknown", "left"], None).await?;
    watch.finish().await?;
    same("roots", watch.roots.len(), 1)?;
    same("errors", watch.errors.len(), 1)?;
    match watch.errors[0].attr_path() {
        Some(_) => Ok(()),
        None => Err(format!(
            "{:?} does not say what it is about",
            watch.errors[0]
        )),
    }
}

async fn evaluations_at_once(factory: Factory<'_>) -> Outcome {
    let subject = factory(diamond()?);
    let evaluate = |_| async {
        let mut watch = Watch::start(&subject, &["top", "left"], None).await?;
        watch.finish().await?;
        watch.no_errors()?;
        same("roots", watch.roots.len(), 2)?;
        same("derivations", watch.seen.len(), 4)
    };
    try_join_all((0..8).map(evaluate)).await?;
    Ok(())
}

async fn dropped_streams_end(factory: Factory<'_>) -> Outcome {
    let subject = factory(diamond()?);
    for events in 0..4 {
        let mut watch = Watch::start(&subject, &["top"], None).await?;
        for _ in 0..events {
            watch.next().await?;
        }
    }
    // A dropped evaluation does not block a new one.
    let mut watch = Watch::start(&subject, &["top"], None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("derivations", watch.seen.len(), 4)
}

fn text(name: &str, references: SortedSet<StorePath>) -> Result<SourceAddition, String> {
    let dir = StoreDir::default();
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok(SourceAddition {
        path: text_path(&dir, name, b"text", &references),
        method: ContentAddressMethod::Text,
        references,
        content: SourceContent::Text("text".into()),
    })
}

async fn sources_before_users(factory: Factory<'_>) -> Outcome {
    let inner = text("inner", SortedSet::new())?;
    let outer = text("outer", SortedSet::from([inner.path.clone()]))?;
    let user = made(builder("user").source(&inner.path).source(&outer.path))?;
    let above = made(builder("above").source(&inner.path).input(&user, "out"))?;
    let attributes = [root("above", &above)];
    let graph = TestGraph {
        sources: vec![outer, inner],
        ..graph([user, above], attributes)
    };
    let subject = factory(graph.clone());
    let mut watch = Watch::start(&subject, &["above"], Some(&graph)).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("derivations and sources", watch.seen.len(), 4)
}

/// Attributes that are computed on demand, and their names.
fn lazy(count: usize) -> Result<(TestGraph, Vec<String>, Counter), String> {
    let computed = Counter::default();
    let names: Vec<_> = (0..count).map(|number| format!("lazy{number}")).collect();
    let mut attributes = Vec::new();
    for name in &names {
        let derivation = made(builder(name))?;
        attributes.push(attribute(
            name,
            TestValue::Lazy(derivation, computed.clone()),
        ));
    }
    Ok((graph([], attributes), names, computed))
}

async fn derivations_at_once(factory: Factory<'_>) -> Outcome {
    let (graph, names, computed) = lazy(2000)?;
    let subject = factory(graph);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut watch = Watch::start(&subject, &names, None).await?;
    if !matches!(watch.next().await?, Some(Seen::Derivation)) {
        return Err("the first event is not a derivation".to_owned());
    }
    if computed.value() == names.len() {
        return Err("no derivation came before all had been evaluated".to_owned());
    }
    watch.finish().await?;
    watch.no_errors()?;
    same("evaluated", computed.value(), names.len())?;
    same("roots", watch.roots.len(), names.len())
}

/// How many attributes an evaluation may compute ahead of a stream that is not polled.
const AHEAD: usize = 1024;

async fn back_pressure(factory: Factory<'_>) -> Outcome {
    let (graph, names, computed) = lazy(4 * AHEAD)?;
    let subject = factory(graph);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut watch = Watch::start(&subject, &names, None).await?;
    watch.next().await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    if computed.value() > AHEAD {
        return Err(format!(
            "{} attributes were evaluated unasked",
            computed.value()
        ));
    }
    drop(watch);
    let before = computed.value();
    tokio::time::sleep(Duration::from_millis(200)).await;
    if computed.value() > before + AHEAD {
        return Err("evaluation goes on after its stream was dropped".to_owned());
    }
    Ok(())
}
