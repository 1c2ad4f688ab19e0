//! Cases: delivery of outputs.

use std::collections::HashSet;

use futures::StreamExt as _;
use futures::future::try_join_all;
use tvix_store_api::StoreExt as _;
use tvix_store_api::verify::digest;

use super::fixtures::{collect, file, file_nar, refers};
use super::{CaseResult, Failure, Subject, Text, cases, ensure};
use crate::Delivery;

cases![
    a_known_store_is_pushed_to,
    other_outputs_are_streamed,
    streams_outlive_the_build,
    streams_can_be_dropped,
    built_again_it_is_the_same,
    builds_at_once,
];

async fn a_known_store_is_pushed_to(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "x")], |drv| drv)?;
    let success = subject.succeed(subject.request(&made)).await?;
    let Delivery::Pushed(outputs) = success.delivery else {
        return Err(Failure::new("the outputs are streamed"));
    };
    for output in outputs {
        let stored = subject.store.require(&output.info.path).await?;
        ensure!(
            stored.nar_hash == output.info.nar_hash && stored.references == output.info.references,
            "the store knows something else of it"
        );
    }
    Ok(())
}

async fn other_outputs_are_streamed(subject: Subject) -> CaseResult {
    let script = [
        refers("out", &[Text::Output("lib".into())]),
        file("lib", "x"),
    ];
    let made = subject.instantiate(&script, |drv| drv.outputs(["out", "lib"]))?;
    let mut unnamed = subject.foreign_request(&made);
    unnamed.store = None;
    for request in [subject.foreign_request(&made), unnamed] {
        let success = subject.succeed(request).await?;
        let Delivery::Streamed(outputs) = success.delivery else {
            return Err(Failure::new("the outputs are pushed"));
        };
        for output in outputs {
            // Adding the outputs in this order never misses a reference.
            let nar = collect(output.nar).await?;
            ensure!(
                digest(&nar) == output.info.nar_hash && nar.len() as u64 == output.info.nar_size,
                "the stream of '{}' does not match its info",
                output.name
            );
        }
        subject.ensure_nothing_left(&made).await?;
    }
    Ok(())
}

async fn streams_outlive_the_build(subject: Subject) -> CaseResult {
    let script = [file("out", "of out"), file("dev", "of dev")];
    let made = subject.instantiate(&script, |drv| drv.outputs(["out", "dev"]))?;
    let success = subject.succeed(subject.foreign_request(&made)).await?;
    let Delivery::Streamed(mut outputs) = success.delivery else {
        return Err(Failure::new("the outputs are pushed"));
    };
    // Meanwhile other builds use the resources that this build may have used.
    for _ in 0..3 {
        let other = subject.instantiate(&[file("out", "other")], |drv| drv)?;
        subject.succeed(subject.request(&other)).await?;
    }
    outputs.reverse();
    for output in outputs {
        let wanted = file_nar(&format!("of {}", output.name))?;
        let nar = collect(output.nar).await?;
        ensure!(nar == wanted, "the stream of '{}' is wrong", output.name);
    }
    subject.ensure_nothing_left(&made).await
}

async fn streams_can_be_dropped(subject: Subject) -> CaseResult {
    let script = [file("out", "x"), file("dev", "y")];
    let made = subject.instantiate(&script, |drv| drv.outputs(["out", "dev"]))?;
    let success = subject.succeed(subject.foreign_request(&made)).await?;
    let Delivery::Streamed(mut outputs) = success.delivery else {
        return Err(Failure::new("the outputs are pushed"));
    };
    let first = outputs.remove(0).nar.next().await.transpose()?;
    ensure!(first.is_some(), "a stream is empty");
    drop(outputs);
    subject.ensure_nothing_left(&made).await
}

async fn built_again_it_is_the_same(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "x")], |drv| drv)?;
    let first = subject.succeed(subject.request(&made)).await?;
    let again = subject.succeed(subject.request(&made)).await?;
    let (first, again) = (first.delivery.outputs(), again.delivery.outputs());
    ensure!(
        first[0].1.path == again[0].1.path && first[0].1.nar_hash == again[0].1.nar_hash,
        "it is something else"
    );
    Ok(())
}

async fn builds_at_once(subject: Subject) -> CaseResult {
    let mut all = Vec::new();
    for number in 0..16 {
        all.push(subject.instantiate(&[file("out", &number.to_string())], |drv| drv)?);
    }
    // One of them occurs twice.
    all.push(all[0].clone());
    let builds = all
        .iter()
        .map(|made| subject.succeed(subject.request(made)));
    let built = try_join_all(builds).await?;
    let paths: HashSet<_> = built
        .iter()
        .flat_map(|success| success.delivery.outputs())
        .map(|(_, info)| info.path.clone())
        .collect();
    ensure!(paths.len() == 16, "{} paths", paths.len());
    for (number, made) in all[..16].iter().enumerate() {
        let path = made.output_path("out");
        let path = path.ok_or_else(|| Failure::new("no path"))?;
        let stored = subject.stored_nar(&path).await?;
        ensure!(
            stored == file_nar(&number.to_string())?,
            "builds mixed up their outputs"
        );
    }
    Ok(())
}
