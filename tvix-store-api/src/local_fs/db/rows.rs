//! Encoding and decoding of database rows.

use std::sync::Arc;

use nix_compat::derivation::OutputName;
use nix_compat::nixbase32;
use nix_compat::nixhash::NixHash;
use nix_compat::path_info::PathInfo;
use nix_compat::signature::{Signature, SignatureError};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::distrust::Room;
use super::error::DbError;
use crate::BoxError;

/// Length limit of a path, in bytes: the limit of file systems.
const LONGEST_PATH: usize = 4096;

/// Length limit of a malformed value in an error message, in characters.
const SHOWN: usize = 200;

/// Reads and writes the rows of paths in one store directory.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub store_dir: StoreDir,
}

/// A row of `ValidPaths`, as stored.
struct RawInfo {
    id: i64,
    hash: String,
    registration_time: i64,
    deriver: Option<String>,
    nar_size: Option<i64>,
    ultimate: Option<i64>,
    signatures: Option<String>,
    ca: Option<String>,
}

impl RawInfo {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            hash: row.get(1)?,
            registration_time: row.get(2)?,
            deriver: row.get(3)?,
            nar_size: row.get(4)?,
            ultimate: row.get(5)?,
            signatures: row.get(6)?,
            ca: row.get(7)?,
        })
    }
}

impl Rows {
    pub fn text(&self, path: &StorePath) -> String {
        self.store_dir.display(path).to_string()
    }

    pub fn parse(&self, of: &str, column: &'static str, text: &str) -> Result<StorePath, DbError> {
        if text.len() > LONGEST_PATH {
            return Err(invalid(of, column, text, "it is too long"));
        }
        self.store_dir
            .parse(text)
            .map_err(|error| invalid(of, column, text, error))
    }

    /// The id of a valid path's row.
    pub fn id(&self, connection: &Connection, path: &StorePath) -> Result<Option<i64>, DbError> {
        let mut statement =
            connection.prepare_cached("select id from ValidPaths where path = ?")?;
        Ok(statement
            .query_row([self.text(path)], |row| row.get(0))
            .optional()?)
    }

    /// The valid path with this hash part, found through the index on paths.
    pub fn find(
        &self,
        connection: &Connection,
        digest: &[u8; 20],
    ) -> Result<Option<StorePath>, DbError> {
        let from = format!("{}/{}-", self.store_dir, nixbase32::encode(digest));
        let mut statement = connection
            .prepare_cached("select path from ValidPaths where path >= ? order by path limit 1")?;
        let found = statement.query_row([&from], |row| row.get::<_, String>(0));
        match found.optional()?.filter(|path| path.starts_with(&from)) {
            Some(path) => Ok(Some(self.parse(&path, "path", &path)?)),
            None => Ok(None),
        }
    }

    pub fn info(
        &self,
        connection: &Connection,
        path: &StorePath,
    ) -> Result<Option<Arc<PathInfo>>, DbError> {
        let text = self.text(path);
        let mut statement = connection.prepare_cached(
            "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca
             from ValidPaths where path = ?",
        )?;
        let found = statement.query_row([&text], RawInfo::from_row).optional();
        let Some(raw) = found.map_err(|error| unreadable(&text, error))? else {
            return Ok(None);
        };
        let hash = NixHash::parse_prefixed(&raw.hash);
        let nar_hash = match hash.map_err(|error| invalid(&text, "hash", &raw.hash, error))? {
            NixHash::Sha256(hash) => hash,
            _ => return Err(invalid(&text, "hash", &raw.hash, "it is not SHA-256")),
        };
        // Old versions of Nix left the size out.
        let mut info = PathInfo::new(path.clone(), nar_hash, unsigned(raw.nar_size));
        info.registration_time = Some(unsigned(Some(raw.registration_time)));
        info.deriver = match raw.deriver.filter(|deriver| !deriver.is_empty()) {
            None => None,
            Some(deriver) => Some(self.parse(&text, "deriver", &deriver)?),
        };
        info.ultimate = raw.ultimate == Some(1);
        info.signatures = signatures(&text, raw.signatures)?;
        info.ca = match raw.ca.filter(|ca| !ca.is_empty()) {
            None => None,
            Some(ca) => Some(
                ca.parse()
                    .map_err(|error| invalid(&text, "content address", &ca, error))?,
            ),
        };
        info.references = self.references(connection, &text, raw.id)?;
        Ok(Some(Arc::new(info)))
    }

    fn references(
        &self,
        connection: &Connection,
        of: &str,
        id: i64,
    ) -> Result<SortedSet<StorePath>, DbError> {
        let mut statement = connection.prepare_cached(
            "select path from Refs join ValidPaths on reference = id where referrer = ?",
        )?;
        let mut rows = statement.query([id])?;
        let (mut references, mut room) = (Vec::new(), Room::default());
        while let Some(row) = rows.next()? {
            let text = row.get_ref(0)?.as_str();
            let text = text.map_err(|error| invalid(of, "reference", "", error))?;
            room.take(connection, text.len())?;
            references.push(self.parse(of, "reference", text)?);
        }
        Ok(references.into_iter().collect())
    }

    /// Inserts a path without its references, and returns its id; `None` if the row exists.
    pub fn insert(&self, connection: &Connection, info: &PathInfo) -> Result<Option<i64>, DbError> {
        let mut statement = connection.prepare_cached(
            "insert into ValidPaths
             (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
             values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (path) do nothing",
        )?;
        let signatures = (!info.signatures.is_empty()).then(|| joined(&info.signatures));
        let inserted = statement.execute(params![
            self.text(&info.path),
            info.nix_hash().base16(),
            signed(info.registration_time.unwrap_or_default()),
            info.deriver.as_ref().map(|deriver| self.text(deriver)),
            signed(info.nar_size),
            info.ultimate.then_some(1),
            signatures,
            info.ca.as_ref().map(ToString::to_string),
        ])?;
        Ok((inserted > 0).then(|| connection.last_insert_rowid()))
    }

    pub fn insert_reference(
        &self,
        connection: &Connection,
        referrer: i64,
        reference: i64,
    ) -> Result<(), DbError> {
        connection
            .prepare_cached("insert or ignore into Refs (referrer, reference) values (?, ?)")?
            .execute([referrer, reference])?;
        Ok(())
    }

    pub fn insert_output(
        &self,
        connection: &Connection,
        derivation: i64,
        output: &OutputName,
        path: &StorePath,
    ) -> Result<(), DbError> {
        connection
            .prepare_cached(
                "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)",
            )?
            .execute(params![derivation, output.as_str(), self.text(path)])?;
        Ok(())
    }

    /// Adds signatures that are not present yet. Returns false if the path is not valid.
    pub fn add_signatures(
        &self,
        connection: &Connection,
        path: &StorePath,
        new: &[Signature],
    ) -> Result<bool, DbError> {
        let Some(info) = self.info(connection, path)? else {
            return Ok(false);
        };
        let mut all = info.signatures.clone();
        let unknown = new.iter().filter(|it| !info.signatures.contains(it));
        all.extend(unknown.cloned());
        connection
            .prepare_cached("update ValidPaths set sigs = ? where path = ?")?
            .execute(params![joined(&all), self.text(path)])?;
        Ok(true)
    }
}

pub(super) fn signatures(of: &str, texts: Option<String>) -> Result<Vec<Signature>, DbError> {
    let texts = texts.unwrap_or_default();
    let parsed = texts.split_ascii_whitespace().map(|text| {
        text.parse()
            .map_err(|error: SignatureError| invalid(of, "signature", text, error))
    });
    parsed.collect()
}

pub(super) fn joined(signatures: &[Signature]) -> String {
    let texts: Vec<String> = signatures.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

pub(super) fn invalid(
    path: &str,
    column: &'static str,
    value: &str,
    source: impl Into<BoxError>,
) -> DbError {
    DbError::InvalidRow {
        path: shown(path),
        column,
        value: shown(value),
        source: source.into(),
    }
}

/// The beginning of a text from a row, without control characters, for messages.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn plain(character: char) -> char {
    match character.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    }
}

/// Adds the path to an error that is about its row.
pub(super) fn unreadable(path: &str, error: rusqlite::Error) -> DbError {
    match error {
        source @ (rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..)) => DbError::UnreadableRow {
            path: path.to_owned(),
            source,
        },
        other => other.into(),
    }
}

/// SQLite has no unsigned integers. No stored number comes near the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: Option<i64>) -> u64 {
    number.map_or(0, |number| u64::try_from(number).unwrap_or(0))
}
