//! A model of the contents of an archive, and conversions between it, bytes and events.
#![allow(dead_code, reason = "every test uses a part")]

use std::collections::BTreeMap;
use std::io::Read;

use bstr::BString;
use nix_compat::nar::{Event, NarError, Parser, Reader, Writer};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Symlink(BString),
    Directory(BTreeMap<BString, Tree>),
}

/// An owned [`Event`], with adjacent contents joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owned {
    DirectoryStart,
    Entry(BString),
    DirectoryEnd,
    RegularStart(bool, u64),
    Contents(Vec<u8>),
    RegularEnd,
    Symlink(BString),
    End,
}

pub fn push(events: &mut Vec<Owned>, event: Event<'_>) {
    let event = match event {
        Event::DirectoryStart => Owned::DirectoryStart,
        Event::Entry { name } => Owned::Entry(name.into()),
        Event::DirectoryEnd => Owned::DirectoryEnd,
        Event::RegularStart { executable, size } => Owned::RegularStart(executable, size),
        Event::Contents(bytes) => {
            assert!(!bytes.is_empty(), "contents are never empty");
            if let Some(Owned::Contents(before)) = events.last_mut() {
                before.extend_from_slice(bytes);
                return;
            }
            Owned::Contents(bytes.to_vec())
        }
        Event::RegularEnd => Owned::RegularEnd,
        Event::Symlink { target } => Owned::Symlink(target.into()),
        Event::End => Owned::End,
    };
    events.push(event);
}

pub fn write<W: std::io::Write>(tree: &Tree, writer: &mut Writer<W>) -> Result<(), NarError> {
    match tree {
        Tree::File {
            executable,
            contents,
        } => writer.regular(*executable, contents),
        Tree::Symlink(target) => writer.symlink(target),
        Tree::Directory(entries) => {
            writer.directory_start()?;
            for (name, node) in entries {
                writer.entry(name)?;
                write(node, writer)?;
            }
            writer.directory_end()
        }
    }
}

pub fn encode(tree: &Tree) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(tree, &mut writer).unwrap();
    writer.finish().unwrap()
}

/// All events of a reader, and its error if it fails.
pub fn read(nar: &[u8]) -> (Vec<Owned>, Option<NarError>) {
    let mut reader = Reader::new(nar);
    let mut events = Vec::new();
    loop {
        match reader.next_event() {
            Ok(Some(event)) => push(&mut events, event),
            Ok(None) => return (events, reader.finish().err()),
            Err(error) => return (events, Some(error)),
        }
    }
}

/// Like [`read`], with a parser that receives chunks of the lengths in `sizes`, in a cycle.
pub fn feed(nar: &[u8], sizes: &[usize]) -> (Vec<Owned>, Option<NarError>) {
    let mut parser = Parser::new();
    let mut events = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = nar;
    loop {
        let len = sizes.next().copied().unwrap_or(1).min(rest.len());
        let mut chunk = &rest[..len];
        loop {
            match parser.feed(chunk) {
                Ok(step) => {
                    let done = step.event.is_none();
                    if let Some(event) = step.event {
                        push(&mut events, event);
                    }
                    chunk = &chunk[step.consumed..];
                    if done {
                        break;
                    }
                }
                Err(error) => return (events, Some(error)),
            }
        }
        if parser.is_finished() {
            return (events, None);
        }
        assert!(chunk.is_empty(), "all is consumed, or an event is due");
        rest = &rest[len..];
        if rest.is_empty() {
            return (events, parser.finish().err());
        }
    }
}

/// Like [`read`], but contents are read through [`Reader::contents`].
pub fn read_views(nar: &[u8]) -> (Vec<Owned>, Option<NarError>) {
    let mut reader = Reader::buffered(nar);
    let mut events = Vec::new();
    loop {
        let file = match reader.next_event() {
            Ok(Some(event)) => {
                push(&mut events, event);
                matches!(event, Event::RegularStart { .. })
            }
            Ok(None) => return (events, reader.finish().err()),
            Err(error) => return (events, Some(error)),
        };
        if file {
            let mut contents = Vec::new();
            let result = reader.contents().read_to_end(&mut contents);
            if !contents.is_empty() {
                events.push(Owned::Contents(contents));
            }
            if let Err(error) = result {
                let error = error.into_inner().unwrap().downcast::<NarError>();
                return (events, Some(*error.unwrap()));
            }
        }
    }
}

pub fn decode(nar: &[u8]) -> Tree {
    let (events, error) = read(nar);
    assert!(error.is_none(), "{error:?}");
    let mut events = events.into_iter().peekable();
    let tree = node(&mut events);
    assert_eq!(events.next(), Some(Owned::End));
    assert_eq!(events.next(), None);
    tree
}

fn node(events: &mut std::iter::Peekable<impl Iterator<Item = Owned>>) -> Tree {
    match events.next().unwrap() {
        Owned::Symlink(target) => Tree::Symlink(target),
        Owned::RegularStart(executable, size) => {
            let contents = match events.next_if(|event| matches!(event, Owned::Contents(_))) {
                Some(Owned::Contents(bytes)) => bytes,
                _ => Vec::new(),
            };
            assert_eq!(contents.len() as u64, size);
            assert_eq!(events.next(), Some(Owned::RegularEnd));
            Tree::File {
                executable,
                contents,
            }
        }
        Owned::DirectoryStart => {
            let mut entries = BTreeMap::new();
            loop {
                match events.next().unwrap() {
                    Owned::DirectoryEnd => return Tree::Directory(entries),
                    Owned::Entry(name) => {
                        assert!(entries.insert(name, node(events)).is_none());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Any valid tree.
pub fn tree() -> impl Strategy<Value = Tree> {
    let name = prop_oneof![
        4 => "[a-c]{1,3}".prop_map(String::into_bytes),
        2 => "[a-zA-Z0-9._+-]{1,30}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(1..=255u8, 1..20),
    ]
    .prop_filter("not a name", |name| {
        !name.contains(&b'/') && name != b"." && name != b".."
    });
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        (any::<bool>(), bytes).prop_map(|(executable, contents)| Tree::File {
            executable,
            contents
        }),
        proptest::collection::vec(1..=255u8, 1..40).prop_map(|target| Tree::Symlink(target.into())),
    ];
    leaf.prop_recursive(5, 40, 6, move |node| {
        let name = name.clone().prop_map(BString::from);
        proptest::collection::btree_map(name, node, 0..6).prop_map(Tree::Directory)
    })
}

/// Builds an archive string by string, so that it can be malformed.
#[derive(Default, Clone)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    pub fn new() -> Self {
        Self::default().s("nix-archive-1")
    }

    pub fn s(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self = self.len(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    pub fn all(self, strings: &[&str]) -> Self {
        strings.iter().fold(self, |raw, string| raw.s(string))
    }

    pub fn len(mut self, len: u64) -> Self {
        self.0.extend_from_slice(&len.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn file(self) -> Self {
        self.all(&["(", "type", "regular", "contents", "x", ")"])
    }

    pub fn directory(self) -> Self {
        self.all(&["(", "type", "directory"])
    }

    pub fn entry(self, name: impl AsRef<[u8]>) -> Self {
        self.all(&["entry", "(", "name"]).s(name).s("node")
    }

    pub fn close(self) -> Self {
        self.s(")")
    }
}
