//! Any tree round-trips through bytes and events.
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

mod nar_common;

use nar_common::{Owned, Tree, decode, encode, feed, push, read, read_views, tree};
use nix_compat::nar::{Encoder, Event, Parser, Reader};
use proptest::prelude::*;

proptest! {
    #[test]
    fn tree_to_bytes_to_tree(tree in tree()) {
        prop_assert_eq!(decode(&encode(&tree)), tree);
    }

    #[test]
    fn chunks_do_not_matter(tree in tree(), sizes in proptest::collection::vec(1..50usize, 1..8)) {
        let nar = encode(&tree);
        let (events, error) = read(&nar);
        prop_assert!(error.is_none());
        let (fed, error) = feed(&nar, &sizes);
        prop_assert!(error.is_none());
        prop_assert_eq!(&fed, &events);
        prop_assert_eq!(&read_views(&nar).0, &events);
    }

    #[test]
    fn events_to_the_same_bytes(tree in tree()) {
        let nar = encode(&tree);
        let mut parser = Parser::new();
        let mut encoder = Encoder::new();
        let mut again = Vec::new();
        let mut rest = &nar[..];
        while let step = parser.feed(rest).unwrap() && let Some(event) = step.event {
            encoder.event(event, &mut again).unwrap();
            rest = &rest[step.consumed..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(again, nar);
    }

    #[test]
    fn changed_bytes_are_read_and_skipped_alike(
        tree in tree(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut nar = encode(&tree);
        for (at, byte) in changes {
            let at = at.index(nar.len());
            nar[at] = byte;
        }
        let (events, error) = read(&nar);
        let shown = error.map(|error| error.to_string());
        let (fed, fed_error) = feed(&nar, &[3]);
        prop_assert_eq!(&fed, &events);
        prop_assert_eq!(read_views(&nar).0, events);
        let skipped = Reader::new(&nar[..]).finish().err();
        prop_assert_eq!(skipped.map(|error| error.to_string()), shown.clone());
        // A parser does not see bytes after the end, and so does not report them.
        if let Some(fed_error) = fed_error {
            prop_assert_eq!(Some(fed_error.to_string()), shown);
        }
    }

    #[test]
    fn skipping_any_node_leaves_the_rest(tree in tree(), at in any::<prop::sample::Index>()) {
        let nar = encode(&tree);
        let (all, _) = read(&nar);
        let starts: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(_, event)| matches!(event, Owned::Entry(_) | Owned::RegularStart(..)))
            .map(|(at, _)| at)
            .collect();
        prop_assume!(!starts.is_empty());
        let start = starts[at.index(starts.len())];
        let mut reader = Reader::new(&nar[..]);
        let mut events = Vec::new();
        while events.len() <= start {
            push(&mut events, reader.next_event().unwrap().unwrap());
        }
        reader.skip().unwrap();
        let mut after = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            push(&mut after, event);
        }
        let mut depth = 0i32;
        let skipped = all[start + 1..].iter().position(|event| {
            match event {
                Owned::DirectoryStart | Owned::RegularStart(..) => depth += 1,
                Owned::DirectoryEnd | Owned::RegularEnd => depth -= 1,
                _ => {}
            }
            let inside_file = matches!(all[start], Owned::RegularStart(..));
            match event {
                Owned::RegularEnd if inside_file => true,
                Owned::DirectoryEnd | Owned::RegularEnd | Owned::Symlink(_) => depth == 0,
                _ => false,
            }
        });
        prop_assert_eq!(&after[..], &all[start + 1 + skipped.unwrap() + 1..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    #[cfg(feature = "async")]
    fn asynchronously(tree in tree(), sizes in proptest::collection::vec(1..50usize, 1..8)) {
        let nar = encode(&tree);
        let events = read(&nar).0;
        block_on(async {
            let mut reader = nix_compat::nar::r#async::Reader::new(Dribble::new(&nar, &sizes));
            let mut writer = nix_compat::nar::r#async::Writer::new(Vec::new());
            let mut seen = Vec::new();
            while let Some(event) = reader.next_event().await.unwrap() {
                push(&mut seen, event);
                writer.event(event).await.unwrap();
            }
            assert_eq!(seen, events);
            reader.finish().await.unwrap();
            assert_eq!(writer.finish().await.unwrap(), nar);
        });
    }

    #[test]
    #[cfg(feature = "async")]
    fn asynchronously_by_views_and_truncated(tree in tree(), end in any::<prop::sample::Index>()) {
        let nar = encode(&tree);
        let end = end.index(nar.len() + 1);
        let (events, error) = read(&nar[..end]);
        block_on(async {
            use tokio::io::AsyncReadExt;
            let dribble = Dribble::new(&nar[..end], &[7]);
            let mut reader = nix_compat::nar::r#async::Reader::new(dribble);
            let mut seen = Vec::new();
            let result = loop {
                let event = match reader.next_event().await {
                    Ok(Some(event)) => event,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error.to_string()),
                };
                push(&mut seen, event);
                if let Event::RegularStart { .. } = event {
                    let mut contents = Vec::new();
                    let result = reader.contents().read_to_end(&mut contents).await;
                    if !contents.is_empty() {
                        push(&mut seen, Event::Contents(&contents));
                    }
                    if let Err(error) = result {
                        break Err(error.to_string());
                    }
                }
            };
            assert_eq!(seen, events);
            assert_eq!(result.err(), error.map(|error| error.to_string()));
        });
    }
}

#[cfg(feature = "async")]
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A stream that yields a few bytes at a time and is not ready in between.
#[cfg(feature = "async")]
struct Dribble<'a> {
    rest: &'a [u8],
    sizes: Vec<usize>,
    turn: usize,
    buffered: usize,
}

#[cfg(feature = "async")]
impl<'a> Dribble<'a> {
    fn new(rest: &'a [u8], sizes: &[usize]) -> Self {
        let sizes = sizes.to_vec();
        Self {
            rest,
            sizes,
            turn: 0,
            buffered: 0,
        }
    }
}

#[cfg(feature = "async")]
mod dribble {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

    use super::Dribble;

    impl AsyncBufRead for Dribble<'_> {
        fn poll_fill_buf(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<std::io::Result<&[u8]>> {
            let this = self.get_mut();
            if this.buffered == 0 && !this.rest.is_empty() {
                this.turn += 1;
                if this.turn.is_multiple_of(2) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let size = this.sizes[this.turn / 2 % this.sizes.len()];
                this.buffered = size.min(this.rest.len());
            }
            Poll::Ready(Ok(&this.rest[..this.buffered]))
        }

        fn consume(self: Pin<&mut Self>, amount: usize) {
            let this = self.get_mut();
            this.buffered -= amount;
            this.rest = &this.rest[amount..];
        }
    }

    impl AsyncRead for Dribble<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            unimplemented!("read through its buffer")
        }
    }
}

#[test]
#[cfg(feature = "async")]
fn cancelled_reads_lose_nothing() {
    use std::task::{Context, Poll, Waker};
    let contents = vec![7; 1000];
    let tree = Tree::Directory(
        (0..9)
            .map(|i| {
                let contents = contents.clone();
                let executable = i % 2 == 0;
                let file = Tree::File {
                    executable,
                    contents,
                };
                (format!("f{i}").into(), file)
            })
            .collect(),
    );
    let nar = encode(&tree);
    let mut reader = nix_compat::nar::r#async::Reader::new(Dribble::new(&nar, &[5, 13, 100]));
    let mut events = Vec::new();
    let mut dropped = 0;
    loop {
        let future = std::pin::pin!(reader.next_event());
        // Every future that is not ready at once is dropped.
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Some(event))) => push(&mut events, event),
            Poll::Ready(Ok(None)) => break,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => dropped += 1,
        }
    }
    assert!(dropped > 100, "{dropped}");
    assert_eq!(events, read(&nar).0);
}
