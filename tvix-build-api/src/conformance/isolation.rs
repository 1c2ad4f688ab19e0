//! Cases: visibility of inputs, and of builds.

use tvix_store_api::conformance::Polls;

use super::fixtures::{file, file_nar};
use super::{CaseResult, Failure, Step, Subject, cases, ensure};
use crate::{BuildOutcome, Builder as _, log_channel};

cases![
    inputs_can_be_read,
    nothing_but_the_inputs_is_visible,
    logs_are_complete_and_in_order,
    nobody_reads_the_log,
    a_system_that_is_not_supported,
    a_feature_that_is_not_supported,
    polls_do_not_block,
];

/// A machine that is busy may delay a poll that waits for a lock for a moment: a builder that
/// blocks does so each time.
const ATTEMPTS: usize = 5;

async fn polls_do_not_block(subject: Subject) -> CaseResult {
    let mut longest = None;
    for _ in 0..ATTEMPTS {
        let script = [Step::Log("a line".into()), file("out", "x")];
        let made = subject.instantiate(&script, |drv| drv)?;
        let (built, blocked) = Polls::of(subject.succeed(subject.request(&made))).await;
        built?;
        if blocked.is_none() {
            return Ok(());
        }
        longest = longest.max(blocked);
    }
    let longest = longest.unwrap_or_default();
    Err(Failure::new(format!(
        "a poll blocked its thread for {longest:?}"
    )))
}

async fn inputs_can_be_read(subject: Subject) -> CaseResult {
    let input = subject.add_file("the contents of the input", &[]).await?;
    let step = Step::Copy {
        input: input.path.clone(),
        output: "out".into(),
    };
    let made = subject.instantiate(&[step], |drv| drv.source(&input.path))?;
    let mut request = subject.request(&made);
    request.inputs = vec![input];
    let success = subject.succeed(request).await?;
    let path = success.delivery.outputs()[0].1.path.clone();
    let stored = subject.stored_nar(&path).await?;
    ensure!(
        stored == file_nar("the contents of the input")?,
        "something else was read"
    );
    Ok(())
}

async fn nothing_but_the_inputs_is_visible(subject: Subject) -> CaseResult {
    let one = subject.add_file("one", &[]).await?;
    let two = subject
        .add_file("two", std::slice::from_ref(&one.path))
        .await?;
    let other = subject.add_file("other", &[]).await?;
    let output = "out".to_owned();
    let made = subject.instantiate(&[Step::ListInputs { output }], |drv| drv.source(&two.path))?;
    let mut request = subject.request(&made);
    request.inputs = vec![one.clone(), two.clone()];
    let success = subject.succeed(request).await?;
    let path = success.delivery.outputs()[0].1.path.clone();
    let mut visible = [one.path.to_string(), two.path.to_string()];
    visible.sort();
    let stored = subject.stored_nar(&path).await?;
    ensure!(
        stored == file_nar(&format!("{}\n", visible.join("\n")))?,
        "it sees {:?} (and not to be seen is '{}')",
        String::from_utf8_lossy(&stored),
        other.path
    );
    Ok(())
}

async fn logs_are_complete_and_in_order(subject: Subject) -> CaseResult {
    const LINES: u32 = 3000;
    let script = [
        Step::LogLines(LINES),
        Step::Log("end".into()),
        file("out", "x"),
    ];
    let made = subject.instantiate(&script, |drv| drv)?;
    // Smaller than the log: a slow reader applies back-pressure, and no line is lost.
    let (sender, mut receiver) = log_channel(16);
    let mut context = subject.context();
    context.log = sender.tagged(7);
    drop(sender);
    let reading = async {
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            lines.push(line);
        }
        lines
    };
    let building = subject.builder.build(subject.request(&made), context);
    let (lines, outcome) = futures::join!(reading, building);
    ensure!(
        matches!(outcome?, BuildOutcome::Success(_)),
        "the build failed"
    );
    ensure!(
        lines.len() == LINES as usize + 1,
        "{} lines of {}",
        lines.len(),
        LINES + 1
    );
    for (number, line) in lines.iter().enumerate() {
        let wanted = match number {
            number if number == LINES as usize => "end".to_owned(),
            number => format!("line {number}"),
        };
        ensure!(
            line.build == 7 && line.text == wanted,
            "line {number} is {line:?}"
        );
    }
    Ok(())
}

async fn nobody_reads_the_log(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[Step::LogLines(3000), file("out", "x")], |drv| drv)?;
    let (sender, receiver) = log_channel(1);
    drop(receiver);
    let mut context = subject.context();
    context.log = sender;
    let outcome = subject
        .builder
        .build(subject.request(&made), context)
        .await?;
    ensure!(
        matches!(outcome, BuildOutcome::Success(_)),
        "the build failed"
    );
    Ok(())
}

async fn a_system_that_is_not_supported(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "x")], |drv| drv)?;
    let mut derivation = (*made.derivation).clone();
    derivation.system = "pdp11-unix".into();
    let mut request = subject.request(&made);
    request.derivation = derivation.into();
    ensure_unsupported(&subject, request).await?;
    subject.ensure_nothing_left(&made).await
}

async fn a_feature_that_is_not_supported(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "x")], |drv| {
        drv.env("requiredSystemFeatures", "an-anvil")
    })?;
    ensure_unsupported(&subject, subject.request(&made)).await?;
    subject.ensure_nothing_left(&made).await
}

async fn ensure_unsupported(
    subject: &Subject,
    request: crate::BuildRequest,
) -> Result<(), Failure> {
    ensure!(
        !subject.builder.profile().supports(&request.derivation),
        "its profile says that it supports that"
    );
    match subject.builder.build(request, subject.context()).await {
        Err(crate::BuilderError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(outcome) => Err(Failure::new(format!("it was built: {outcome:?}"))),
    }
}
