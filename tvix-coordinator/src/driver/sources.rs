//! Local trees and texts on their way into the store.

use std::sync::Arc;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_eval_api::{SourceAddition, SourceContent};
use tvix_store_api::{Store, StoreError, StoreExt as _, VerifiedObject};

use crate::machine::ComponentError;

/// The result for each source.
pub(super) type Added = Vec<(StorePath, Result<(), ComponentError>)>;

/// Adds sources in one request, as far as each has at most `max_size` bytes and all together
/// `max_total`. Returns the results, and the sources that are too large.
pub(super) async fn add_small(
    store: Arc<dyn Store>,
    sources: Vec<Arc<SourceAddition>>,
    max_size: usize,
    max_total: usize,
) -> (Added, Vec<StorePath>) {
    let dir = store.store_dir().clone();
    let all: Vec<StorePath> = sources.iter().map(|source| source.path.clone()).collect();
    let read = tokio::task::spawn_blocking(move || {
        let (mut objects, mut added, mut large) = (Vec::new(), Added::new(), Vec::new());
        let mut left = max_total;
        for source in sources {
            match small_object(&dir, &source, left.min(max_size)) {
                Ok(None) => large.push(source.path.clone()),
                Ok(Some(object)) => {
                    left -= object.nar().len().min(left);
                    objects.push(object);
                }
                Err(error) => added.push((source.path.clone(), Err(ComponentError::from(&error)))),
            }
        }
        (objects, added, large)
    });
    let Ok((objects, mut added, large)) = read.await else {
        // Adding each by itself gives the error of the one that is at fault.
        return (Added::new(), all);
    };
    let paths: Vec<StorePath> = objects.iter().map(|object| object.path().clone()).collect();
    let results = store.add_many(objects).await.into_iter();
    let results = results.map(|result| result.map_err(|error| ComponentError::from(&error)));
    added.extend(paths.into_iter().zip(results));
    (added, large)
}

/// Reads a source, if it has no more than `limit` bytes. Blocks.
fn small_object(
    dir: &StoreDir,
    source: &SourceAddition,
    limit: usize,
) -> Result<Option<VerifiedObject>, StoreError> {
    let (path, method) = (&source.path, source.method);
    let references = source.references.clone();
    match &source.content {
        SourceContent::Text(text) if text.len() <= limit => {
            VerifiedObject::file_as(dir, path, text, method, references).map(Some)
        }
        SourceContent::Archive(nar) if nar.len() <= limit => {
            VerifiedObject::archive_as(dir, path, nar.clone(), references).map(Some)
        }
        SourceContent::Tree(file) => {
            VerifiedObject::tree_as(file, dir, path, method, references, limit)
        }
        _ => Ok(None),
    }
}

/// Adds a source of any size.
pub(super) async fn add_source(
    store: Arc<dyn Store>,
    source: Arc<SourceAddition>,
) -> Result<(), ComponentError> {
    let path = &source.path;
    let added = match &source.content {
        SourceContent::Text(text) if source.method == ContentAddressMethod::Flat => {
            store.add_file_as(text.clone(), path).await.map(|()| None)
        }
        SourceContent::Archive(nar) => store
            .add_archive_as(nar.clone(), path, source.references.clone())
            .await
            .map(|()| None),
        SourceContent::Text(text) => store
            .add_text(path.name().clone(), text, source.references.clone())
            .await
            .map(Some),
        SourceContent::Tree(file) => store
            .add_tree_as(file, path, source.method, source.references.clone())
            .await
            .map(|()| None),
        _ => {
            let message = format!("a source of an unknown kind should become '{path}'");
            return Err(ComponentError::bug(message));
        }
    };
    match added {
        Ok(Some(actual)) if actual != *path => {
            let message = format!("a text that should become '{path}' became '{actual}'");
            Err(ComponentError::bug(message))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(ComponentError::from(&error)),
    }
}
