//! Cases: looking up and reading many paths at a time.

use std::sync::Arc;

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::batches::chain;
use super::fixtures::{Object, new_path};
use super::{CaseResult, Context, Failure, cases, ensure};
use crate::{Store, StoreError};

cases![
    infos_of_many_paths_come_in_their_order,
    many_paths_are_read_in_their_order,
    a_path_that_cannot_be_read_keeps_no_other_from_being_read,
    a_thousand_paths_are_read,
];

async fn added(store: &dyn Store, len: usize) -> Result<Vec<Object>, Failure> {
    let objects = chain(store, len);
    for object in &objects {
        object.add_to(store).await?;
    }
    Ok(objects)
}

async fn infos_of_many_paths_come_in_their_order(context: Context) -> CaseResult {
    let store = &*context.store;
    ensure!(store.path_infos(&[]).await?.is_empty(), "infos of nothing");
    let objects = added(store, 9).await?;
    let mut paths: Vec<StorePath> = objects.iter().map(|it| it.path().clone()).collect();
    paths.reverse();
    paths.insert(4, new_path("missing"));
    paths.push(paths[0].clone());
    let infos = store.path_infos(&paths).await?;
    ensure!(
        infos.len() == paths.len(),
        "{} paths, {} infos",
        paths.len(),
        infos.len()
    );
    for (path, info) in paths.iter().zip(infos) {
        ensure!(
            info == store.path_info(path).await?,
            "'{path}': {info:?} among many"
        );
    }
    Ok(())
}

async fn read(store: &dyn Store, objects: &[Object]) -> CaseResult {
    let infos = objects.iter().map(|it| Arc::new(it.info.clone()));
    let read = store.read_many(infos.collect()).await;
    ensure!(
        read.len() == objects.len(),
        "{} paths, {} results",
        objects.len(),
        read.len()
    );
    for (object, read) in objects.iter().zip(read) {
        let read = read?;
        ensure!(
            *read.info() == object.info && *read.nar() == object.nar,
            "'{}' is another one: {read:?}",
            object.path()
        );
        ensure!(
            read.store_dir() == store.store_dir(),
            "'{}' is of another directory",
            object.path()
        );
    }
    Ok(())
}

async fn many_paths_are_read_in_their_order(context: Context) -> CaseResult {
    let store = &*context.store;
    read(store, &[]).await?;
    let mut objects = added(store, 7).await?;
    objects.reverse();
    objects.push(objects[2].clone());
    read(store, &objects).await
}

async fn a_path_that_cannot_be_read_keeps_no_other_from_being_read(context: Context) -> CaseResult {
    let store = &*context.store;
    let objects = added(store, 6).await?;
    let mut infos: Vec<PathInfo> = objects.iter().map(|it| it.info.clone()).collect();
    infos[1].path = new_path("missing");
    infos[2].nar_hash = [7; 32];
    infos[3].nar_size += 1;
    infos[4].nar_size -= 1;
    let infos = infos.into_iter().map(Arc::new).collect();
    let read = store.read_many(infos).await;
    ensure!(read.len() == 6, "6 paths, {} results", read.len());
    for (index, read) in read.into_iter().enumerate() {
        match (index, read) {
            (0 | 5, read) => ensure!(*read?.nar() == objects[index].nar, "other contents"),
            (1, Err(StoreError::NotFound { .. })) => {}
            (2, Err(StoreError::HashMismatch { .. })) => {}
            (3 | 4, Err(StoreError::SizeMismatch { .. })) => {}
            (_, Err(error)) => return Err(Failure::new(format!("object {index}: {error}"))),
            (_, Ok(_)) => return Err(Failure::new(format!("object {index} was not checked"))),
        }
    }
    Ok(())
}

async fn a_thousand_paths_are_read(context: Context) -> CaseResult {
    let store = &*context.store;
    let objects = added(store, 1000).await?;
    read(store, &objects).await
}
