//! Cases: outputs.

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, NixHash};
use tvix_store_api::StoreExt as _;
use tvix_store_api::verify::digest;

use super::fixtures::{file, file_nar, refers};
use super::{CaseResult, Failure, Step, Subject, Text, cases, ensure};
use crate::{BuildRequest, FailureKind};

cases![
    one_output,
    a_tree,
    several_outputs_references_first,
    references_to_inputs_and_itself,
    a_fixed_output,
    a_fixed_output_with_another_hash,
    a_fixed_output_that_is_no_file,
    a_floating_output if floating,
    floating_outputs_that_refer_to_each_other if floating,
    outputs_in_a_cycle,
    a_forbidden_reference,
    a_missing_output,
];

async fn one_output(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "hello")], |drv| drv)?;
    let success = subject.succeed(subject.request(&made)).await?;
    let outputs = success.delivery.outputs();
    ensure!(outputs.len() == 1, "{} outputs", outputs.len());
    let (name, info) = outputs[0];
    let nar = file_nar("hello")?;
    ensure!(name.as_str() == "out", "the output is called '{name}'");
    ensure!(
        Some(&info.path) == made.output_path("out").as_ref(),
        "it has the path '{}'",
        info.path
    );
    ensure!(
        info.nar_hash == digest(&nar) && info.nar_size == nar.len() as u64,
        "its hash or size is wrong"
    );
    ensure!(info.references.is_empty(), "it has references");
    ensure!(
        info.deriver == Some(made.path.clone()),
        "its deriver is wrong"
    );
    ensure!(info.ca.is_none(), "it has a content address");
    let stored = subject.stored_nar(&info.path).await?;
    ensure!(stored == nar, "the store has other contents");
    Ok(())
}

async fn a_tree(subject: Subject) -> CaseResult {
    let output = "out".to_owned();
    let made = subject.instantiate(&[Step::Tree { output }], |drv| drv)?;
    let success = subject.succeed(subject.request(&made)).await?;
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.directory_start()?;
    writer.entry(b"bin")?;
    writer.directory_start()?;
    writer.entry(b"run")?;
    writer.regular(true, b"#!/bin/sh\n")?;
    writer.directory_end()?;
    writer.entry(b"empty")?;
    writer.directory_start()?;
    writer.directory_end()?;
    writer.entry(b"run")?;
    writer.symlink(b"bin/run")?;
    writer.directory_end()?;
    let nar = writer.finish()?;
    let outputs = success.delivery.outputs();
    let stored = subject.stored_nar(&outputs[0].1.path).await?;
    ensure!(stored == nar, "the store has other contents");
    Ok(())
}

async fn several_outputs_references_first(subject: Subject) -> CaseResult {
    let script = [
        refers(
            "out",
            &[Text::Output("lib".into()), Text::Output("dev".into())],
        ),
        refers("dev", &[Text::Output("lib".into())]),
        file("lib", "nothing"),
    ];
    let made = subject.instantiate(&script, |drv| drv.outputs(["out", "dev", "lib"]))?;
    let success = subject.succeed(subject.request(&made)).await?;
    let outputs = success.delivery.outputs();
    let names: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == ["lib", "dev", "out"], "they come as {names:?}");
    ensure!(
        outputs[2].1.references.len() == 2 && outputs[1].1.references.len() == 1,
        "references are missing"
    );
    for (_, info) in outputs {
        subject.store.verify(&info.path).await?;
    }
    Ok(())
}

async fn references_to_inputs_and_itself(subject: Subject) -> CaseResult {
    let used = subject.add_file("used", &[]).await?;
    let unused = subject.add_file("unused", &[]).await?;
    let script = [refers(
        "out",
        &[Text::Path(used.path.clone()), Text::Output("out".into())],
    )];
    let made = subject.instantiate(&script, |drv| drv.source(&used.path).source(&unused.path))?;
    let mut request = subject.request(&made);
    request.inputs = vec![used.clone(), unused];
    let success = subject.succeed(request).await?;
    let info = success.delivery.outputs()[0].1.clone();
    let wanted = [used.path.clone(), info.path.clone()].into_iter().collect();
    ensure!(info.references == wanted, "found {:?}", info.references);
    Ok(())
}

fn fixed(
    subject: &Subject,
    step: Step,
    method: ContentAddressMethod,
    hash: NixHash,
) -> Result<BuildRequest, Failure> {
    let made = subject.instantiate(&[step], |drv| drv.fixed(method, hash))?;
    Ok(subject.request(&made))
}

async fn a_fixed_output(subject: Subject) -> CaseResult {
    let nar = file_nar("known")?;
    for (method, bytes) in [
        (ContentAddressMethod::Flat, &b"known"[..]),
        (ContentAddressMethod::NixArchive, &nar),
    ] {
        for algo in [HashAlgo::Sha256, HashAlgo::Sha1] {
            let hash = NixHash::digest(algo, bytes);
            let request = fixed(&subject, file("out", "known"), method, hash.clone())?;
            let success = subject.succeed(request).await?;
            let info = success.delivery.outputs()[0].1.clone();
            let ca = info.ca.as_ref();
            ensure!(
                ca.is_some_and(|ca| ca.method == method && ca.hash == hash),
                "its content address is {ca:?}"
            );
        }
    }
    Ok(())
}

async fn a_fixed_output_with_another_hash(subject: Subject) -> CaseResult {
    let declared = NixHash::digest(HashAlgo::Sha256, "declared");
    let made = subject.instantiate(&[file("out", "made")], |drv| {
        drv.fixed(ContentAddressMethod::Flat, declared.clone())
    })?;
    let failure = subject.fail(subject.request(&made)).await?;
    let wanted = FailureKind::HashMismatch {
        expected: declared,
        actual: NixHash::digest(HashAlgo::Sha256, "made"),
    };
    ensure!(failure.kind == wanted, "{failure}");
    subject.ensure_nothing_left(&made).await
}

async fn a_fixed_output_that_is_no_file(subject: Subject) -> CaseResult {
    let output = "out".to_owned();
    let hash = NixHash::digest(HashAlgo::Sha256, "declared");
    let made = subject.instantiate(&[Step::Tree { output }], |drv| {
        drv.fixed(ContentAddressMethod::Flat, hash)
    })?;
    let failure = subject.fail(subject.request(&made)).await?;
    let invalid = matches!(failure.kind, FailureKind::InvalidOutput { .. });
    ensure!(invalid, "{failure}");
    subject.ensure_nothing_left(&made).await
}

async fn a_floating_output(subject: Subject) -> CaseResult {
    let (method, algo) = (ContentAddressMethod::NixArchive, HashAlgo::Sha256);
    let script = [refers("out", &[Text::Output("out".into())])];
    let made = subject.instantiate(&script, |drv| drv.floating(method, algo))?;
    let success = subject.succeed(subject.request(&made)).await?;
    let info = success.delivery.outputs()[0].1.clone();
    let dir = subject.store.store_dir();
    ensure!(info.is_content_addressed(dir), "its path is another one");
    ensure!(
        info.references.contains(&info.path),
        "it does not refer to itself: {:?}",
        info.references
    );
    let text = format!("see {}", dir.display(&info.path));
    let stored = subject.stored_nar(&info.path).await?;
    ensure!(stored == file_nar(&text)?, "its path does not stand in it");
    Ok(())
}

async fn floating_outputs_that_refer_to_each_other(subject: Subject) -> CaseResult {
    let (method, algo) = (ContentAddressMethod::NixArchive, HashAlgo::Sha256);
    let script = [
        refers("out", &[Text::Output("lib".into())]),
        file("lib", "x"),
    ];
    let made = subject.instantiate(&script, |drv| {
        drv.outputs(["out", "lib"]).floating(method, algo)
    })?;
    let success = subject.succeed(subject.request(&made)).await?;
    let outputs = success.delivery.outputs();
    let dir = subject.store.store_dir();
    for (name, info) in &outputs {
        ensure!(
            info.is_content_addressed(dir),
            "the path of '{name}' is wrong"
        );
        subject.store.verify(&info.path).await?;
    }
    let (lib, out) = (outputs[0].1, outputs[1].1);
    let text = format!("see {}", dir.display(&lib.path));
    let stored = subject.stored_nar(&out.path).await?;
    ensure!(stored == file_nar(&text)?, "it has the path from before");
    ensure!(out.references.contains(&lib.path), "the reference is lost");
    Ok(())
}

async fn outputs_in_a_cycle(subject: Subject) -> CaseResult {
    let script = [
        refers("out", &[Text::Output("lib".into())]),
        refers("lib", &[Text::Output("out".into())]),
    ];
    let made = subject.instantiate(&script, |drv| drv.outputs(["out", "lib"]))?;
    let failure = subject.fail(subject.request(&made)).await?;
    let invalid = matches!(failure.kind, FailureKind::InvalidOutput { .. });
    ensure!(invalid, "{failure}");
    subject.ensure_nothing_left(&made).await
}

async fn a_forbidden_reference(subject: Subject) -> CaseResult {
    let input = subject.add_file("input", &[]).await?;
    let script = [refers("out", &[Text::Path(input.path.clone())])];
    let text = subject.store.store_dir().display(&input.path).to_string();
    for (attribute, value, forbidden) in [
        ("disallowedReferences", text.as_str(), true),
        ("allowedReferences", "", true),
        ("allowedReferences", text.as_str(), false),
        ("disallowedRequisites", text.as_str(), true),
        ("allowedRequisites", "out", true),
        ("allowedRequisites", text.as_str(), false),
    ] {
        let made =
            subject.instantiate(&script, |drv| drv.source(&input.path).env(attribute, value))?;
        let mut request = subject.request(&made);
        request.inputs = vec![input.clone()];
        if !forbidden {
            subject.succeed(request).await?;
            continue;
        }
        let failure = subject.fail(request).await?;
        let wanted = matches!(
            &failure.kind,
            FailureKind::ForbiddenReference { references, .. } if *references == [input.path.clone()]
        );
        ensure!(wanted, "with {attribute} = {value:?}: {failure}");
        subject.ensure_nothing_left(&made).await?;
    }
    Ok(())
}

async fn a_missing_output(subject: Subject) -> CaseResult {
    let made = subject.instantiate(&[file("out", "there")], |drv| drv.outputs(["out", "doc"]))?;
    let failure = subject.fail(subject.request(&made)).await?;
    let path = made.output_path("doc");
    let path = path.map(|path| subject.store.store_dir().display(&path).to_string());
    let named = matches!(
        &failure.kind,
        FailureKind::MissingOutput { output, path: named }
            if output.as_str() == "doc" && Some(named) == path.as_ref()
    );
    ensure!(named, "{failure}");
    subject.ensure_nothing_left(&made).await
}
