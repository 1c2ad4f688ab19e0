//! Content addresses that have to stand on their own.

use futures::stream::{self, StreamExt as _};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::SelfReferenceHasher;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use crate::{NarStream, StoreError, StoreUri};

/// The address of a NAR that refers to itself.
fn self_referential(info: &PathInfo) -> Option<&ContentAddress> {
    let address = info.ca.as_ref()?;
    let archive = address.method == ContentAddressMethod::NixArchive;
    (archive && info.references.contains(&info.path)).then_some(address)
}

/// A NAR that only its content address vouches for. If it refers to itself, the address has to
/// be the hash with the offsets of its self-references: without them other contents have the same
/// address. The stream fails at its end if it is not.
pub(super) fn vouched_for(store: &StoreUri, info: &PathInfo, nar: NarStream) -> NarStream {
    let Some(address) = self_referential(info) else {
        return nar;
    };
    let check = Check {
        store: store.clone(),
        path: info.path.clone(),
        expected: address.clone(),
        hasher: SelfReferenceHasher::new(address.hash.algo(), &info.path),
    };
    stream::unfold(Some((nar, check)), |state| async {
        let (mut nar, mut check) = state?;
        match nar.next().await {
            Some(Ok(chunk)) => {
                check.hasher.update(&chunk);
                Some((Ok(chunk), Some((nar, check))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(check.finish()?), None)),
        }
    })
    .boxed()
}

struct Check {
    store: StoreUri,
    path: StorePath,
    expected: ContentAddress,
    hasher: SelfReferenceHasher,
}

impl Check {
    /// What is wrong. Contents that match neither form are refused by the receiver, as any others.
    fn finish(self) -> Option<StoreError> {
        let hashes = self.hasher.finish_both();
        let is_weak = hashes.with_offsets != self.expected.hash
            && hashes.without_offsets == self.expected.hash;
        is_weak.then_some(StoreError::WeakAddress {
            store: self.store,
            path: self.path,
        })
    }
}
