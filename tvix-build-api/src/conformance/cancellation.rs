//! Cases: cancelled builds.

use std::time::{Duration, Instant};

use super::fixtures::file;
use super::{CaseResult, Failure, Step, Subject, cases, ensure};
use crate::{BuildOutcome, Builder as _, FailureKind, log_channel};

cases![
    cancelled_before_it_begins,
    cancelled_while_it_runs,
    cancelled_while_nobody_takes_its_log,
    dropped_while_it_runs,
    dropped_at_any_time,
];

async fn cancelled_before_it_begins(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "x")], |drv| drv)?;
    let context = subject.context();
    context.cancel.cancel();
    let outcome = subject
        .builder
        .build(subject.request(&made), context)
        .await?;
    ensure_cancelled(outcome)?;
    subject.ensure_nothing_left(&made).await
}

async fn cancelled_while_it_runs(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[Step::Log("up".into()), Step::Forever], |drv| drv)?;
    let (sender, mut receiver) = log_channel(16);
    let mut context = subject.context();
    context.log = sender;
    let cancel = context.cancel.clone();
    let building = subject.builder.build(subject.request(&made), context);
    let cancelling = async {
        receiver.recv().await;
        cancel.cancel();
        Instant::now()
    };
    let (outcome, cancelled) = futures::join!(building, cancelling);
    ensure_cancelled(outcome?)?;
    let took = cancelled.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?} to end");
    subject.ensure_nothing_left(&made).await
}

async fn cancelled_while_nobody_takes_its_log(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[Step::LogLines(100_000), Step::Forever], |drv| drv)?;
    let (sender, receiver) = log_channel(1);
    let mut context = subject.context();
    context.log = sender;
    let cancel = context.cancel.clone();
    let building = subject.builder.build(subject.request(&made), context);
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    };
    let both = async { futures::join!(building, cancelling) };
    let (outcome, ()) = tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .map_err(|_| Failure::new("it waits for the reader of its log"))?;
    ensure_cancelled(outcome?)?;
    drop(receiver);
    subject.ensure_nothing_left(&made).await
}

async fn dropped_while_it_runs(subject: Subject) -> CaseResult {
    let made = subject.instantiate(
        &[file("out", "x"), Step::Log("up".into()), Step::Forever],
        |drv| drv,
    )?;
    let (sender, mut receiver) = log_channel(16);
    let mut context = subject.context();
    context.log = sender;
    let building = subject.builder.build(subject.request(&made), context);
    tokio::select! {
        outcome = building => {
            return Err(Failure::new(format!("it ended: {outcome:?}")));
        }
        _ = receiver.recv() => {}
    }
    subject.ensure_nothing_left(&made).await
}

/// After a drop at any point, either all outputs are visible or none.
async fn dropped_at_any_time(subject: Subject) -> CaseResult {
    for step in 0..20u64 {
        let made = subject.instantiate(&[file("out", "x")], |drv| drv)?;
        let context = subject.context();
        let building = subject.builder.build(subject.request(&made), context);
        let limit = Duration::from_micros(step * step * 25);
        let ended = tokio::time::timeout(limit, building).await.is_ok();
        // The build may just have completed.
        let again = subject.succeed(subject.request(&made)).await;
        ensure!(
            again.is_ok(),
            "after {limit:?} (ended: {ended}) it cannot be built any more: {}",
            again.as_ref().err().map_or("", Failure::message)
        );
    }
    Ok(())
}

fn ensure_cancelled(outcome: BuildOutcome) -> CaseResult {
    match outcome {
        BuildOutcome::Failure(failure) if failure.kind == FailureKind::Cancelled => Ok(()),
        outcome => Err(Failure::new(format!("it ended otherwise: {outcome:?}"))),
    }
}
