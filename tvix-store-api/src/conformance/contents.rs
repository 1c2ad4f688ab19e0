//! Cases: NARs are returned unchanged.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tvix_tree::dump_path;

use super::fixtures::{Node, Object, in_chunks};
use super::{CaseResult, Context, cases, ensure};
use crate::StoreExt as _;

cases![
    a_tree_of_everything,
    single_nodes,
    odd_names,
    deep_and_wide_trees,
    a_large_file_in_odd_chunks,
    chunks_of_one_byte_and_of_none,
    files_on_disk_are_those_of_the_nar,
    a_local_path_can_be_read,
];

fn everything() -> Node {
    Node::directory([
        (
            "bin",
            Node::directory([("run", Node::Executable(b"#!/bin/sh\n".to_vec()))]),
        ),
        ("dangling", Node::Symlink(b"nowhere/at/all".to_vec())),
        ("empty", Node::directory::<&str>([])),
        ("empty-executable", Node::Executable(Vec::new())),
        ("empty-file", Node::file("")),
        ("file", Node::file("contents\n")),
        ("link", Node::Symlink(b"bin/run".to_vec())),
        ("outside", Node::Symlink(b"/etc/passwd".to_vec())),
        ("zeroes", Node::file([0; 4097])),
    ])
}

async fn round_trip(context: &Context, object: &Object) -> CaseResult {
    object.add_to(&*context.store).await?;
    object.expect_in(&*context.store).await
}

async fn a_tree_of_everything(context: Context) -> CaseResult {
    round_trip(&context, &Object::new("everything", &everything())).await
}

async fn single_nodes(context: Context) -> CaseResult {
    for node in [
        Node::file(""),
        Node::file("x"),
        Node::file("12345678"),
        Node::Executable(b"x".to_vec()),
        Node::Symlink(b"target".to_vec()),
        Node::directory::<&str>([]),
    ] {
        round_trip(&context, &Object::new("node", &node)).await?;
    }
    Ok(())
}

async fn odd_names(context: Context) -> CaseResult {
    let names: [&[u8]; 12] = [
        b" ",
        b"-rf",
        b"...",
        b".a",
        b"A",
        b"a",
        b"a\nb",
        b"a b",
        b"\\",
        b"\x01",
        b"\xff\xfe",
        "grün~nix~case~hack~1".as_bytes(),
    ];
    let entries = names.map(|name| (name, Node::file(name)));
    let long = [b'n'; 255];
    let entries = entries.into_iter().chain([(&long[..], Node::file("long"))]);
    round_trip(&context, &Object::new("names", &Node::directory(entries))).await
}

async fn deep_and_wide_trees(context: Context) -> CaseResult {
    let mut node = Node::file("bottom");
    for _ in 0..60 {
        node = Node::directory([("d", node)]);
    }
    round_trip(&context, &Object::new("deep", &node)).await?;
    let wide = (0..2_000).map(|number| (format!("{number}"), Node::file(number.to_string())));
    round_trip(&context, &Object::new("wide", &Node::directory(wide))).await
}

async fn a_large_file_in_odd_chunks(context: Context) -> CaseResult {
    let mut state = 1u32;
    let contents: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(5 * 1024 * 1024 + 3)
    .collect();
    let node = Node::directory([("large", Node::File(contents)), ("small", Node::file("s"))]);
    for chunk in [65_537, 7_919, 8 << 20] {
        let object = Object::new("large", &node);
        let nar = in_chunks(object.nar.clone(), chunk);
        context.store.add(object.info.clone(), nar).await?;
        object.expect_in(&*context.store).await?;
    }
    Ok(())
}

async fn chunks_of_one_byte_and_of_none(context: Context) -> CaseResult {
    let object = Object::new("bytes", &everything());
    let chunks = in_chunks(object.nar.clone(), 1);
    let nothing = || stream::iter([Ok(Bytes::new())]);
    let spaced = nothing().chain(chunks).chain(nothing()).boxed();
    context.store.add(object.info.clone(), spaced).await?;
    object.expect_in(&*context.store).await
}

async fn files_on_disk_are_those_of_the_nar(context: Context) -> CaseResult {
    let object = Object::new("files", &everything());
    object.add_to(&*context.store).await?;
    let place = context.store.on_disk(object.path()).await?;
    match place {
        None => ensure!(!context.capabilities.on_disk, "it is nowhere on disk"),
        Some(place) => {
            let mut nar = Vec::new();
            dump_path(&place, &mut nar)?;
            ensure!(nar == object.nar, "'{}' is something else", place.display());
        }
    }
    Ok(())
}

async fn a_local_path_can_be_read(context: Context) -> CaseResult {
    let object = Object::new("local", &everything());
    object.add_to(&*context.store).await?;
    let local = context.store.local_path(object.path()).await?;
    let mut nar = Vec::new();
    dump_path(local.path(), &mut nar)?;
    ensure!(
        nar == object.nar,
        "'{}' is something else",
        local.path().display()
    );
    Ok(())
}
