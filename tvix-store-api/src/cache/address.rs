//! Content addresses that are the only authentication of their contents.

use futures::stream::{self, StreamExt as _};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::SelfReferenceHasher;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use crate::{NarStream, StoreError, StoreUri};

/// The content address of a NAR that refers to itself.
fn self_referential(info: &PathInfo) -> Option<&ContentAddress> {
    let address = info.ca.as_ref()?;
    let archive = address.method == ContentAddressMethod::NixArchive;
    (archive && info.references.contains(&info.path)).then_some(address)
}

/// A NAR that is authenticated only by its content address. If the NAR refers to itself, the
/// address must be a hash that includes the offsets of its self-references; without the offsets,
/// other contents have the same address. Otherwise the stream fails at its end.
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
    /// The error, if there is one. Contents that match neither form are refused by the receiver.
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
