//! Cases: invalid additions are refused and leave nothing visible.

use bytes::Bytes;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::fixed_output_path;

use super::fixtures::{Node, Object, expect_nothing, new_path, stream_of};
use super::{CaseResult, Context, Failure, cases, ensure};
use crate::StoreError;
use crate::verify::digest;

cases![
    a_wrong_hash,
    a_wrong_size,
    a_truncated_nar,
    bytes_after_the_nar,
    a_malformed_nar,
    a_nar_that_leaves_its_place,
    a_reference_that_is_not_valid,
    a_path_that_is_not_its_address,
    contents_that_are_not_their_address,
];

/// Adds `object` with the bytes `nar`. That must fail as `is_expected` requires and leave nothing
/// visible; afterwards the correct object can be added.
async fn refuse(
    context: &Context,
    object: &Object,
    nar: impl Into<Bytes>,
    is_expected: impl Fn(&StoreError) -> bool,
) -> CaseResult {
    let store = &*context.store;
    let nar = stream_of(nar.into());
    match store.add(object.info.clone(), nar).await {
        Ok(()) => return Err(Failure::new("it was accepted")),
        Err(error) => ensure!(is_expected(&error), "refused with another error: {error:?}"),
    }
    expect_nothing(store, object.path()).await?;
    let good = Object {
        info: crate::PathInfo::new(
            object.path().clone(),
            digest(&object.nar),
            object.nar.len() as u64,
        ),
        nar: object.nar.clone(),
    };
    good.add_to(store).await?;
    good.expect_in(store).await
}

async fn a_wrong_hash(context: Context) -> CaseResult {
    let mut object = Object::small("hash");
    object.info.nar_hash[7] ^= 1;
    let nar = object.nar.clone();
    refuse(&context, &object, nar, |error| {
        matches!(error, StoreError::HashMismatch { .. })
    })
    .await
}

async fn a_wrong_size(context: Context) -> CaseResult {
    for difference in [-8, -1, 1, 8, 1 << 40] {
        let mut object = Object::small("size");
        object.info.nar_size = object.info.nar_size.saturating_add_signed(difference);
        let nar = object.nar.clone();
        refuse(&context, &object, nar, |error| {
            matches!(error, StoreError::SizeMismatch { .. })
        })
        .await?;
    }
    Ok(())
}

async fn a_truncated_nar(context: Context) -> CaseResult {
    for kept in [0, 1, 8, 24, 100] {
        let mut object = Object::small("truncated");
        let nar = object.nar.slice(..kept);
        // Also with the info that these bytes have.
        object.info.nar_hash = digest(&nar);
        object.info.nar_size = nar.len() as u64;
        refuse(&context, &object, nar, is_malformed).await?;
    }
    Ok(())
}

async fn bytes_after_the_nar(context: Context) -> CaseResult {
    for more in [&b"\0"[..], b"12345678", &[0; 100]] {
        let mut object = Object::small("trailing");
        let nar = [&object.nar[..], more].concat();
        object.info.nar_hash = digest(&nar);
        object.info.nar_size = nar.len() as u64;
        refuse(&context, &object, nar, is_malformed).await?;
    }
    Ok(())
}

async fn a_malformed_nar(context: Context) -> CaseResult {
    let two = Node::directory([("aaaaaaaa", Node::file("1")), ("bbbbbbbb", Node::file("2"))]);
    let swap = |from: &[u8; 8], to: &[u8; 8]| {
        let mut nar = two.nar().to_vec();
        if let Some(at) = nar.windows(8).position(|window| window == from) {
            nar[at..at + 8].copy_from_slice(to);
        }
        nar
    };
    let huge = {
        let mut nar = two.nar().to_vec();
        nar[..8].fill(0xff);
        nar
    };
    for nar in [
        b"this is no archive at all".to_vec(),
        swap(b"aaaaaaaa", b"cccccccc"), // out of order
        swap(b"aaaaaaaa", b"bbbbbbbb"), // twice
        swap(b"aaaaaaaa", b"aaaa/aaa"),
        swap(b"aaaaaaaa", b"aaaa\0aaa"),
        huge,
    ] {
        let mut object = Object::small("malformed");
        object.info.nar_hash = digest(&nar);
        object.info.nar_size = nar.len() as u64;
        refuse(&context, &object, nar, is_malformed).await?;
    }
    Ok(())
}

/// A symlink, followed by an entry below it: an unpacker that follows it would write outside the
/// tree.
async fn a_nar_that_leaves_its_place(context: Context) -> CaseResult {
    let link = Node::directory([
        ("aaaaaaaa", Node::Symlink(b"/tmp".to_vec())),
        ("bbbbbbbb", Node::directory([("escaped", Node::file("x"))])),
    ]);
    let mut nar = link.nar().to_vec();
    if let Some(at) = nar.windows(8).position(|window| window == b"bbbbbbbb") {
        nar[at..at + 8].copy_from_slice(b"aaaaaaaa");
    }
    let mut object = Object::small("escape");
    object.info.nar_hash = digest(&nar);
    object.info.nar_size = nar.len() as u64;
    refuse(&context, &object, nar, is_malformed).await
}

fn is_malformed(error: &StoreError) -> bool {
    matches!(error, StoreError::MalformedNar { .. })
}

async fn a_reference_that_is_not_valid(context: Context) -> CaseResult {
    let missing = new_path("missing");
    let object = Object::small("referrer").referring_to([&missing]);
    let nar = object.nar.clone();
    refuse(&context, &object, nar, |error| {
        matches!(error, StoreError::InvalidReference { reference, .. } if *reference == missing)
    })
    .await
}

async fn a_path_that_is_not_its_address(context: Context) -> CaseResult {
    let dir = context.store.store_dir();
    let contents = new_path("address").to_string();
    for method in [
        ContentAddressMethod::Text,
        ContentAddressMethod::Flat,
        ContentAddressMethod::NixArchive,
    ] {
        let mut object = Object::text(dir, "address", &contents, Default::default());
        object.info.path = new_path("address");
        object.info.ca = Some(ContentAddress {
            method,
            hash: match method {
                ContentAddressMethod::NixArchive => object.info.nix_hash(),
                _ => NixHash::digest(HashAlgo::Sha256, &contents),
            },
        });
        let nar = object.nar.clone();
        refuse(&context, &object, nar, |error| {
            matches!(error, StoreError::AddressMismatch { .. })
        })
        .await?;
    }
    Ok(())
}

/// The path follows from the content address, but the contents do not match the address.
async fn contents_that_are_not_their_address(context: Context) -> CaseResult {
    let dir = context.store.store_dir();
    for method in [ContentAddressMethod::Flat, ContentAddressMethod::NixArchive] {
        for algo in [HashAlgo::Sha1, HashAlgo::Sha256, HashAlgo::Sha512] {
            let mut object = Object::small("lie");
            let hash = NixHash::digest(algo, new_path("other").to_string());
            let address = ContentAddress { method, hash };
            let name = object.path().name().clone();
            let Some(path) = fixed_output_path(dir, name, &address) else {
                return Err(Failure::new(format!("{address} gives no path")));
            };
            object.info.path = path;
            object.info.ca = Some(address);
            let nar = object.nar.clone();
            refuse(&context, &object, nar, |error| {
                matches!(error, StoreError::HashMismatch { .. })
            })
            .await?;
        }
    }
    Ok(())
}
