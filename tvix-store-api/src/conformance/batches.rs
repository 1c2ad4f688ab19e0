//! Cases: adding many objects in a batch.

use nix_compat::derivation::DerivationBuilder;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};

use super::fixtures::{Node, Object, expect_nothing, new_path};
use super::{CaseResult, Context, Failure, cases, ensure};
use crate::{Store, StoreError, VerifiedObject};

cases![
    a_batch_is_added_in_order,
    one_bad_object_of_a_batch_is_refused_alone,
    a_batch_may_hold_what_is_valid_and_what_comes_twice,
    a_large_batch_is_added,
    batches_of_the_same_at_once,
    a_batch_that_is_dropped_happens_by_the_object,
];

fn verified(store: &dyn Store, object: &Object) -> Result<VerifiedObject, StoreError> {
    VerifiedObject::verify(store.store_dir(), object.info.clone(), object.nar.clone())
}

fn all(store: &dyn Store, objects: &[Object]) -> Result<Vec<VerifiedObject>, StoreError> {
    objects
        .iter()
        .map(|object| verified(store, object))
        .collect()
}

async fn add(store: &dyn Store, objects: &[Object]) -> CaseResult {
    let results = store.add_many(all(store, objects)?).await;
    ensure!(
        results.len() == objects.len(),
        "{} objects, {} results",
        objects.len(),
        results.len()
    );
    results.into_iter().collect::<Result<(), _>>()?;
    for object in objects {
        object.expect_in(store).await?;
    }
    Ok(())
}

/// A chain of objects, each with a reference to the previous one: files, a tree, a derivation.
pub(super) fn chain(store: &dyn Store, len: usize) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::with_capacity(len);
    for index in 0..len {
        let object = match index % 4 {
            0 => Object::small("file"),
            1 => Object::new(
                "tree",
                &Node::directory([
                    ("executable", Node::Executable(vec![b'x'; index])),
                    ("link", Node::Symlink(b"executable".to_vec())),
                ]),
            ),
            2 => Object::new("executable", &Node::Executable(Vec::new())),
            _ => {
                let before = objects.last().map(|it| it.path().clone());
                derivation(store.store_dir(), before.as_ref())
            }
        };
        let before = objects.last().map(|it| it.path().clone());
        objects.push(object.referring_to(before.iter()));
    }
    objects
}

/// The file of a derivation that any store accepts.
fn derivation(dir: &StoreDir, source: Option<&StorePath>) -> Object {
    let unique = new_path("unique").to_string();
    let mut made = DerivationBuilder::new("text", "x86_64-linux", "/bin/sh").env("unique", unique);
    if let Some(source) = source {
        made = made.source(source);
    }
    // Its name and attributes are valid.
    let contents = made
        .instantiate(dir)
        .map(|made| made.derivation.to_aterm(dir));
    let contents = String::from_utf8(contents.unwrap_or_default()).unwrap_or_default();
    let references: SortedSet<_> = source.cloned().into_iter().collect();
    Object::text(dir, "text.drv", &contents, references)
}

async fn a_batch_is_added_in_order(context: Context) -> CaseResult {
    let store = &*context.store;
    add(store, &[]).await?;
    add(store, &chain(store, 8)).await
}

async fn one_bad_object_of_a_batch_is_refused_alone(context: Context) -> CaseResult {
    let store = &*context.store;
    let mut objects = chain(store, 4);
    let missing = new_path("missing");
    let bad = Object::small("bad").referring_to([&missing]);
    let above = Object::small("above").referring_to([bad.path()]);
    let early = Object::small("early");
    let too_early = Object::small("too-early").referring_to([early.path()]);
    objects.extend([bad, above, too_early, early]);
    objects.extend(chain(store, 4));
    let results = store.add_many(all(store, &objects)?).await;
    for (index, (object, result)) in objects.iter().zip(results).enumerate() {
        match (index, result) {
            (4..=6, Err(StoreError::InvalidReference { path, .. })) if path == *object.path() => {
                expect_nothing(store, object.path()).await?;
            }
            (4..=6, Err(error)) => {
                return Err(Failure::new(format!(
                    "should be InvalidReference, not: {error}"
                )));
            }
            (4..=6, Ok(())) => {
                return Err(Failure::new(format!("'{}' is accepted", object.path())));
            }
            (_, result) => {
                result?;
                object.expect_in(store).await?;
            }
        }
    }
    Ok(())
}

async fn a_batch_may_hold_what_is_valid_and_what_comes_twice(context: Context) -> CaseResult {
    let store = &*context.store;
    let mut objects = chain(store, 8);
    for object in &objects[..4] {
        object.add_to(store).await?;
    }
    let before = store.path_info(objects[0].path()).await?;
    objects.push(objects[0].clone());
    objects.push(objects[6].clone());
    add(store, &objects).await?;
    ensure!(
        store.path_info(objects[0].path()).await? == before,
        "its info has changed"
    );
    Ok(())
}

async fn a_large_batch_is_added(context: Context) -> CaseResult {
    let store = &*context.store;
    add(store, &chain(store, 700)).await
}

async fn batches_of_the_same_at_once(context: Context) -> CaseResult {
    let objects = chain(&*context.store, 300);
    let mut tasks = Vec::new();
    for from in [0, 0, 100, 200] {
        let (store, some) = (context.store.clone(), objects[from..].to_vec());
        tasks.push(tokio::spawn(async move {
            for object in &some[..usize::from(from > 0)] {
                // The reference is added in another batch.
                while store.path_info(object.path()).await?.is_none() {
                    tokio::task::yield_now().await;
                }
            }
            add(&*store, &some).await
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn a_batch_that_is_dropped_happens_by_the_object(context: Context) -> CaseResult {
    let store = &*context.store;
    for polls in 1..=6 {
        let objects = chain(store, 40);
        {
            let adding = store.add_many(all(store, &objects)?);
            futures::pin_mut!(adding);
            for _ in 0..polls {
                if futures::poll!(&mut adding).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        for object in &objects {
            match store.path_info(object.path()).await? {
                Some(_) => object.expect_in(store).await?,
                // The addition may still complete, but only as a whole.
                None => break,
            }
        }
        add(store, &objects).await?;
    }
    Ok(())
}
