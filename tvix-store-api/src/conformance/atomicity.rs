//! Cases: a path becomes valid as a whole or not at all, whatever happens meanwhile.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Notify;

use super::fixtures::{Node, Object, expect_nothing};
use super::{CaseResult, Context, cases, ensure};
use crate::{NarStream, Store, StoreError};

cases![
    a_stream_that_fails_leaves_nothing,
    nothing_is_visible_while_it_comes,
    a_dropped_addition_leaves_nothing,
    an_addition_dropped_at_any_point_happens_or_not,
    adding_again_changes_nothing,
    a_reader_that_stops_early_does_no_harm,
    other_futures_may_be_dropped,
];

/// An object that no back end receives in one piece, and one that any back end may.
fn sizes() -> [Object; 2] {
    let large = vec![b'x'; 3 << 20];
    [
        Object::small("small"),
        Object::new("large", &Node::directory([("file", Node::File(large))])),
    ]
}

/// The beginning of the NAR, in chunks.
fn first_part(object: &Object, parts: usize) -> NarStream {
    let len = object.nar.len() * parts / 4;
    super::fixtures::stream_of(object.nar.slice(..len))
}

async fn a_stream_that_fails_leaves_nothing(context: Context) -> CaseResult {
    let store = &*context.store;
    for object in sizes() {
        for parts in 0..=4 {
            let failure = StoreError::Backend {
                store: store.uri().clone(),
                action: "fail on purpose".into(),
                retryable: true,
                source: "on purpose".into(),
            };
            let failing = stream::iter([Err(failure)]);
            let nar = first_part(&object, parts).chain(failing).boxed();
            match store.add(object.info.clone(), nar).await {
                Ok(()) => ensure!(false, "a stream that fails is accepted"),
                Err(error) => ensure!(
                    error.is_retryable(),
                    "the stream's error should be passed on, not: {error}"
                ),
            }
            expect_nothing(store, object.path()).await?;
        }
        object.add_to(store).await?;
        object.expect_in(store).await?;
    }
    Ok(())
}

async fn nothing_is_visible_while_it_comes(context: Context) -> CaseResult {
    for object in sizes() {
        for parts in 1..=4 {
            let object = Object::from_nar("slow", object.nar.clone());
            let resume = Arc::new(Notify::new());
            let reached = Arc::new(Notify::new());
            let rest = object.nar.slice(object.nar.len() * parts / 4..);
            let paused = {
                let (resume, reached) = (resume.clone(), reached.clone());
                stream::once(async move {
                    reached.notify_one();
                    resume.notified().await;
                    Ok(rest)
                })
            };
            let nar = first_part(&object, parts).chain(paused).boxed();
            let adding = {
                let (store, info) = (context.store.clone(), object.info.clone());
                tokio::spawn(async move { store.add(info, nar).await })
            };
            reached.notified().await;
            // Gives the back end time to write the received chunks.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let nothing = expect_nothing(&*context.store, object.path()).await;
            resume.notify_one();
            adding.await??;
            nothing?;
            object.expect_in(&*context.store).await?;
        }
    }
    Ok(())
}

async fn a_dropped_addition_leaves_nothing(context: Context) -> CaseResult {
    let store = &*context.store;
    for object in sizes() {
        for parts in 0..=3 {
            let reached = Arc::new(Notify::new());
            let forever = {
                let reached = reached.clone();
                stream::poll_fn(move |_| -> Poll<Option<Result<Bytes, StoreError>>> {
                    reached.notify_one();
                    Poll::Pending
                })
            };
            let nar = first_part(&object, parts).chain(forever).boxed();
            {
                let adding = store.add(object.info.clone(), nar);
                futures::pin_mut!(adding);
                let reached = reached.notified();
                futures::pin_mut!(reached);
                let _ = futures::future::select(adding, reached).await;
            }
            expect_nothing(store, object.path()).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
            expect_nothing(store, object.path()).await?;
        }
        object.add_to(store).await?;
        object.expect_in(store).await?;
    }
    Ok(())
}

/// Each round polls one time more before it drops the future.
async fn an_addition_dropped_at_any_point_happens_or_not(context: Context) -> CaseResult {
    let store = &*context.store;
    for polls in 1..=12 {
        let object = Object::new("polled", &Node::File(vec![b'x'; 200_000]));
        {
            let adding = store.add(object.info.clone(), object.stream());
            futures::pin_mut!(adding);
            for _ in 0..polls {
                if futures::poll!(&mut adding).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        match store.path_info(object.path()).await? {
            Some(_) => object.expect_in(store).await?,
            None => {
                // The addition may still complete, but only as a whole.
                object.add_to(store).await?;
                object.expect_in(store).await?;
            }
        }
    }
    Ok(())
}

async fn adding_again_changes_nothing(context: Context) -> CaseResult {
    let store = &*context.store;
    let object = Object::small("again");
    object.add_to(store).await?;
    let before = store.path_info(object.path()).await?;
    let mut other = object.clone();
    other.info.ultimate = true;
    other.info.signatures = vec!["other:AAAA".parse()?];
    object.add_to(store).await?;
    other.add_to(store).await?;
    ensure!(
        store.path_info(object.path()).await? == before,
        "its info has changed"
    );
    object.expect_in(store).await
}

async fn a_reader_that_stops_early_does_no_harm(context: Context) -> CaseResult {
    let store = &*context.store;
    let [_, large] = sizes();
    large.add_to(store).await?;
    for chunks in 0..200 {
        let nar = store.nar(large.path()).await?;
        let mut some = nar.take(chunks % 3);
        while let Some(chunk) = some.next().await {
            chunk?;
        }
    }
    large.expect_in(store).await
}

async fn other_futures_may_be_dropped(context: Context) -> CaseResult {
    let store: &dyn Store = &*context.store;
    let object = Object::small("dropped");
    object.add_to(store).await?;
    let paths = [object.path().clone()];
    for _ in 0..20 {
        let _ = futures::poll!(Box::pin(store.path_info(object.path())));
        let _ = futures::poll!(Box::pin(store.valid_paths(&paths)));
        let _ = futures::poll!(Box::pin(store.nar(object.path())));
        let _ = futures::poll!(Box::pin(store.on_disk(object.path())));
    }
    object.expect_in(store).await
}
