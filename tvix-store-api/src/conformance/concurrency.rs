//! Cases: concurrent callers.

use futures::future::try_join_all;

use super::fixtures::{Node, Object};
use super::{CaseResult, Context, cases};

cases![
    one_path_added_by_many_at_once,
    many_paths_added_at_once,
    chains_added_at_once,
    one_path_read_by_many_at_once,
];

async fn one_path_added_by_many_at_once(context: Context) -> CaseResult {
    let large = Node::directory([("file", Node::File(vec![b'y'; 300_000]))]);
    for object in [Object::small("small"), Object::new("large", &large)] {
        let additions = (0..16).map(|_| {
            let (store, object) = (context.store.clone(), object.clone());
            tokio::spawn(async move { object.add_to(&*store).await })
        });
        for added in try_join_all(additions).await? {
            added?;
        }
        object.expect_in(&*context.store).await?;
    }
    Ok(())
}

async fn many_paths_added_at_once(context: Context) -> CaseResult {
    let objects: Vec<Object> = (0..200).map(|_| Object::small("many")).collect();
    let additions = objects.iter().map(|object| {
        let (store, object) = (context.store.clone(), object.clone());
        tokio::spawn(async move { object.add_to(&*store).await })
    });
    for added in try_join_all(additions).await? {
        added?;
    }
    for object in &objects {
        object.expect_in(&*context.store).await?;
    }
    Ok(())
}

/// Several chains concurrently, each in order: an object that has just been added is a valid
/// reference of the next one.
async fn chains_added_at_once(context: Context) -> CaseResult {
    let chains = (0..8).map(|_| {
        let store = context.store.clone();
        tokio::spawn(async move {
            let mut previous: Option<Object> = None;
            for _ in 0..10 {
                let mut object = Object::small("link");
                if let Some(previous) = &previous {
                    object = object.referring_to([previous.path()]);
                }
                object.add_to(&*store).await?;
                previous = Some(object);
            }
            Ok::<_, crate::StoreError>(previous)
        })
    });
    for last in try_join_all(chains).await? {
        if let Some(last) = last? {
            last.expect_in(&*context.store).await?;
        }
    }
    Ok(())
}

async fn one_path_read_by_many_at_once(context: Context) -> CaseResult {
    let object = Object::new("read", &Node::File(vec![b'z'; 400_000]));
    object.add_to(&*context.store).await?;
    try_join_all((0..100).map(|_| object.expect_in(&*context.store))).await?;
    Ok(())
}
