//! Cases: failing builds.

use std::time::{Duration, Instant};

use super::fixtures::file;
use super::{CaseResult, Step, Subject, cases, ensure};
use crate::FailureKind;

cases![
    an_exit_code,
    the_end_of_the_log,
    too_much_time,
    too_much_silence if log_limits,
    too_much_log if log_limits,
];

async fn an_exit_code(subject: Subject) -> CaseResult {
    let script = [file("out", "made before it failed"), Step::Exit(42)];
    let made = subject.instantiate(&script, |drv| drv)?;
    let failure = subject.fail(subject.request(&made)).await?;
    ensure!(
        failure.kind == FailureKind::ExitCode { code: 42 },
        "{failure}"
    );
    subject.ensure_nothing_left(&made).await
}

async fn the_end_of_the_log(subject: Subject) -> CaseResult {
    let script = [
        Step::LogLines(100),
        Step::Log("the reason".into()),
        Step::Exit(1),
    ];
    let made = subject.instantiate(&script, |drv| drv)?;
    let failure = subject.fail(subject.request(&made)).await?;
    let tail = failure.log_tail;
    ensure!(
        tail.ends_with(&["line 99".to_owned(), "the reason".to_owned()]) && tail.len() < 100,
        "the tail is {tail:?}"
    );
    Ok(())
}

async fn too_much_time(subject: Subject) -> CaseResult {
    let limit = Duration::from_millis(200);
    let made = subject.instantiate(&[Step::Forever], |drv| drv)?;
    let mut request = subject.request(&made);
    request.limits.wall_time = Some(limit);
    let began = Instant::now();
    let failure = subject.fail(request).await?;
    ensure!(failure.kind == FailureKind::TimedOut { limit }, "{failure}");
    ensure!(
        began.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        began.elapsed()
    );
    subject.ensure_nothing_left(&made).await
}

async fn too_much_silence(subject: Subject) -> CaseResult {
    let limit = Duration::from_millis(200);
    let made = subject.instantiate(&[Step::Log("a".into()), Step::Forever], |drv| drv)?;
    let mut request = subject.request(&made);
    request.limits.silence = Some(limit);
    let failure = subject.fail(request).await?;
    ensure!(failure.kind == FailureKind::Silent { limit }, "{failure}");
    subject.ensure_nothing_left(&made).await
}

async fn too_much_log(subject: Subject) -> CaseResult {
    let limit = 4096;
    let made = subject.instantiate(&[Step::LogLines(10_000), Step::Forever], |drv| drv)?;
    let mut request = subject.request(&made);
    request.limits.log_bytes = Some(limit);
    let failure = subject.fail(request).await?;
    ensure!(failure.kind == FailureKind::LogLimit { limit }, "{failure}");
    subject.ensure_nothing_left(&made).await
}
