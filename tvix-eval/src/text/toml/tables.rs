//! The tables of a document during parsing, and the rules for extending them.

use super::{TomlErrorKind, TomlTable, TomlValue};
use std::collections::BTreeMap;

/// The origin of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableOrigin {
    /// By the header of a table inside it.
    Within,
    /// By its own header, or as an element of an array of tables.
    Header,
    /// By dotted keys.
    Dotted,
}

enum Node {
    Value(TomlValue),
    Table(Table),
    Tables(Vec<Table>),
}

pub(super) struct Table {
    made: TableOrigin,
    entries: BTreeMap<String, Node>,
}

type Put<T> = Result<T, TomlErrorKind>;

fn defined<T>(key: &str) -> Put<T> {
    Err(TomlErrorKind::Defined(key.to_owned()))
}

impl Table {
    fn new(made: TableOrigin) -> Self {
        Self {
            made,
            entries: BTreeMap::new(),
        }
    }

    pub(super) fn root() -> Self {
        Self::new(TableOrigin::Header)
    }

    /// The table of a header, created if it does not exist.
    pub(super) fn header(&mut self, path: &[String], array: bool) -> Put<&mut Self> {
        let Some((last, before)) = path.split_last() else {
            return Ok(self);
        };
        let mut table = self;
        for key in before {
            let node = table
                .entries
                .entry(key.clone())
                .or_insert_with(|| Node::Table(Self::new(TableOrigin::Within)));
            table = match node {
                Node::Table(inner) => inner,
                Node::Tables(tables) => match tables.last_mut() {
                    Some(inner) => inner,
                    None => return defined(key),
                },
                Node::Value(_) => return defined(key),
            };
        }
        let node = table.entries.entry(last.clone());
        if array {
            let node = node.or_insert_with(|| Node::Tables(Vec::new()));
            let Node::Tables(tables) = node else {
                return defined(last);
            };
            tables.push(Self::new(TableOrigin::Header));
            match tables.last_mut() {
                Some(inner) => Ok(inner),
                None => defined(last),
            }
        } else {
            match node.or_insert_with(|| Node::Table(Self::new(TableOrigin::Within))) {
                Node::Table(inner) if inner.made == TableOrigin::Within => {
                    inner.made = TableOrigin::Header;
                    Ok(inner)
                }
                _ => defined(last),
            }
        }
    }

    /// Adds a value under a key, which may be dotted.
    pub(super) fn insert(&mut self, path: &[String], value: TomlValue) -> Put<()> {
        let Some((last, before)) = path.split_last() else {
            return Ok(());
        };
        let mut table = self;
        for key in before {
            let node = table
                .entries
                .entry(key.clone())
                .or_insert_with(|| Node::Table(Self::new(TableOrigin::Dotted)));
            table = match node {
                Node::Table(inner) if inner.made == TableOrigin::Dotted => inner,
                _ => return defined(key),
            };
        }
        if table.entries.contains_key(last) {
            return defined(last);
        }
        table.entries.insert(last.clone(), Node::Value(value));
        Ok(())
    }

    /// The finished table.
    pub(super) fn finish(self) -> TomlTable {
        let value = |(key, node)| {
            let value = match node {
                Node::Value(value) => value,
                Node::Table(table) => TomlValue::Table(table.finish()),
                Node::Tables(tables) => {
                    let tables = tables.into_iter().map(|t| TomlValue::Table(t.finish()));
                    TomlValue::Array(tables.collect())
                }
            };
            (key, value)
        };
        self.entries.into_iter().map(value).collect()
    }
}
