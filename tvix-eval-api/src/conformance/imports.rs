//! Cases with imports from derivations.

use futures::FutureExt;
use nix_compat::derivation::Instantiated;

use super::cases::{attribute, builder, cases, made, root};
use super::watch::{Seen, Watch, same};
use super::{
    Capabilities, Case, Counter, Factory, Outcome, TestAttribute, TestGraph, TestImport, TestValue,
};
use crate::RealiseError;

const IMPORTS: Capabilities = Capabilities {
    sources: false,
    lazy: false,
    imports: true,
};

pub(super) const ALL: &[Case] = &cases!(IMPORTS:
    imports_suspend_only_what_needs_them,
    imports_answered_in_reverse_order,
    imports_of_imports,
    failed_imports_stop_no_other,
    dropped_replies_are_cancelled,
    streams_dropped_while_importing,
);

/// A graph of imports: each attribute imports a derivation of its own, and evaluates to another
/// one.
struct Imports {
    graph: TestGraph,
    resumed: Vec<Counter>,
    results: Vec<Instantiated>,
}

fn import(wanted: &Instantiated, resumed: &Counter, then: TestValue) -> TestValue {
    TestValue::Import(Box::new(TestImport {
        wanted: vec![(wanted.clone(), vec!["out".to_owned()])],
        resumed: resumed.clone(),
        then,
    }))
}

/// Attributes `import0`, `import1` and so on, and an attribute `plain` without an import.
fn imports(count: usize) -> Result<Imports, String> {
    let plain = made(builder("plain"))?;
    let mut imports = Imports {
        graph: TestGraph::default(),
        resumed: Vec::new(),
        results: Vec::new(),
    };
    for number in 0..count {
        let needed = made(builder(format!("needed{number}")).input(&plain, "out"))?;
        let result = made(builder(format!("result{number}")).input(&needed, "out"))?;
        let resumed = Counter::default();
        let then = TestValue::Root(result.clone(), None);
        let value = import(&needed, &resumed, then);
        let name = format!("import{number}");
        imports.graph.attributes.push(attribute(name, value));
        imports.graph.derivations.push(needed);
        imports.resumed.push(resumed);
        imports.results.push(result);
    }
    imports.graph.attributes.push(root("plain", &plain));
    imports.graph.derivations.insert(0, plain);
    Ok(imports)
}

fn names(attributes: &[TestAttribute]) -> Vec<&str> {
    let names = attributes.iter().map(|attribute| &*attribute.name);
    names.collect()
}

async fn imports_suspend_only_what_needs_them(factory: Factory<'_>) -> Outcome {
    let imports = imports(1)?;
    let subject = factory(imports.graph);
    let mut watch = Watch::start(&subject, &["import0", "plain"], None).await?;
    let mut import = None;
    while import.is_none() || watch.roots.is_empty() {
        match watch.next().await? {
            Some(Seen::Realise(realise)) => import = Some(realise),
            Some(_) => {}
            None => return Err("ended before the import and what needs it not".to_owned()),
        }
    }
    same("resumed before the answer", imports.resumed[0].value(), 0)?;
    import.into_iter().for_each(|import| watch.answer(import));
    watch.finish().await?;
    watch.no_errors()?;
    same("roots", watch.roots.len(), 2)
}

async fn imports_answered_in_reverse_order(factory: Factory<'_>) -> Outcome {
    let imports = imports(5)?;
    let subject = factory(imports.graph.clone());
    let names = names(&imports.graph.attributes);
    let mut watch = Watch::start(&subject, &names, None).await?;
    // All imports are in flight at once.
    let in_flight = watch.imports(5).await?;
    for realise in in_flight.into_iter().rev() {
        watch.answer(realise);
    }
    watch.finish().await?;
    watch.no_errors()?;
    same("roots", watch.roots.len(), 6)?;
    for (result, resumed) in imports.results.iter().zip(&imports.resumed) {
        if !watch.seen.contains(&result.path) {
            return Err(format!("{} did not come after its import", result.path));
        }
        same("an import was resumed", resumed.value(), 1)?;
    }
    Ok(())
}

async fn imports_of_imports(factory: Factory<'_>) -> Outcome {
    let first = made(builder("first"))?;
    let second = made(builder("second").input(&first, "out"))?;
    let result = made(builder("result").input(&second, "out"))?;
    let (once, twice) = (Counter::default(), Counter::default());
    let then = import(&second, &twice, TestValue::Root(result.clone(), None));
    let graph = TestGraph {
        attributes: vec![attribute("chained", import(&first, &once, then))],
        derivations: vec![first],
        ..TestGraph::default()
    };
    let subject = factory(graph);
    let mut watch = Watch::start(&subject, &["chained"], None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("resumed", [once.value(), twice.value()], [1, 1])?;
    same(
        "roots",
        watch.wanted(),
        vec![(result.path, vec!["out".to_owned()])],
    )
}

async fn failed_imports_stop_no_other(factory: Factory<'_>) -> Outcome {
    let imports = imports(2)?;
    let subject = factory(imports.graph.clone());
    let mut watch = Watch::start(&subject, &["import0"], None).await?;
    let failed = RealiseError::Failed {
        drv_path: imports.graph.derivations[1].path.clone(),
        message: "the builder exited with 1".to_owned(),
        log_tail: vec!["no".to_owned()],
    };
    for realise in watch.imports(1).await? {
        realise.reply.answer(Err(failed.clone()));
    }
    watch.finish().await?;
    same("reason", watch.import_failed("import0")?, &failed)?;
    same("resumed", imports.resumed[0].value(), 0)?;

    let names = names(&imports.graph.attributes);
    let mut watch = Watch::start(&subject, &names, None).await?;
    let mut in_flight = watch.imports(2).await?;
    let last = in_flight.pop();
    for realise in in_flight {
        realise.reply.answer(Err(failed.clone()));
    }
    last.into_iter().for_each(|realise| watch.answer(realise));
    watch.finish().await?;
    same("errors", watch.errors.len(), 1)?;
    same("roots", watch.roots.len(), 2)
}

async fn dropped_replies_are_cancelled(factory: Factory<'_>) -> Outcome {
    let imports = imports(1)?;
    let subject = factory(imports.graph);
    let mut watch = Watch::start(&subject, &["import0"], None).await?;
    drop(watch.imports(1).await?);
    watch.finish().await?;
    same(
        "reason",
        watch.import_failed("import0")?,
        &RealiseError::Cancelled,
    )
}

async fn streams_dropped_while_importing(factory: Factory<'_>) -> Outcome {
    let imports = imports(3)?;
    let subject = factory(imports.graph.clone());
    let names = names(&imports.graph.attributes);
    let mut watch = Watch::start(&subject, &names, None).await?;
    let in_flight = watch.imports(3).await?;
    drop(watch);
    for realise in in_flight {
        realise.reply.answer(Err(RealiseError::Cancelled));
    }
    let mut watch = Watch::start(&subject, &names, None).await?;
    watch.finish().await?;
    watch.no_errors()?;
    same("roots", watch.roots.len(), 4)
}
