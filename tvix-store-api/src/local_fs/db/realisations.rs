//! Realisations in the database. Nix up to 2.34 has the table `Realisations` with a hash as key;
//! Nix since 2.35 has `BuildTraceV3` with the path of a resolved derivation as key. A database may
//! have either, both or none.

use std::collections::{BTreeMap, HashSet};

use nix_compat::nixhash::NixHash;
use nix_compat::realisation::{DrvKey, DrvOutput, DrvOutputError, Realisation};
use nix_compat::store_path::StorePath;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::distrust::{Room, is_sound_table};
use super::error::DbError;
use super::rows::{Rows, invalid, joined, signatures, unreadable};
use super::schema::{BUILD_TRACE, REALISATIONS};

/// The key, as stored in the table of its form.
fn key_text(id: &DrvOutput) -> String {
    match &id.drv {
        DrvKey::HashModulo(hash) => NixHash::Sha256(*hash).base16(),
        DrvKey::Path(path) => path.to_string(),
    }
}

fn table_of(id: &DrvOutput) -> &'static str {
    match id.drv {
        DrvKey::HashModulo(_) => REALISATIONS,
        DrvKey::Path(_) => BUILD_TRACE,
    }
}

impl Rows {
    /// The realisation of an output under this key. The path need not be valid.
    pub fn realisation(
        &self,
        connection: &Connection,
        id: &DrvOutput,
    ) -> Result<Option<Realisation>, DbError> {
        if !is_sound_table(connection, table_of(id))? {
            return Ok(None);
        }
        let mut statement = connection.prepare_cached(match id.drv {
            DrvKey::HashModulo(_) => {
                "select path, signatures from Realisations join ValidPaths
                 on ValidPaths.id = outputPath where drvPath = ? and outputName = ? limit 1"
            }
            DrvKey::Path(_) => {
                "select outputPath, signatures from BuildTraceV3
                 where drvPath = ? and outputName = ? limit 1"
            }
        })?;
        let found: Option<(String, Option<String>)> = statement
            .query_row(params![key_text(id), id.output.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(|error| unreadable(&id.to_string(), error))?;
        let Some((path, texts)) = found else {
            return Ok(None);
        };
        let name = id.to_string();
        Ok(Some(Realisation {
            signatures: signatures(&name, texts)?,
            ..Realisation::new(id.clone(), self.parse(&name, "output path", &path)?)
        }))
    }

    /// The realisations with the output path `path`, by hash.
    pub fn realisations_of(
        &self,
        connection: &Connection,
        path: &StorePath,
    ) -> Result<Vec<Realisation>, DbError> {
        if !is_sound_table(connection, REALISATIONS)? {
            return Ok(Vec::new());
        }
        let of = self.text(path);
        let mut statement = connection.prepare_cached(
            "select drvPath, outputName, signatures from Realisations
             join ValidPaths on ValidPaths.id = outputPath where path = ?",
        )?;
        let mut rows = statement.query([&of])?;
        let (mut found, mut room) = (Vec::new(), Room::default());
        while let Some(row) = rows.next()? {
            let columns = || Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let columns: rusqlite::Result<(String, String, Option<String>)> = columns();
            let (hash, output, texts) = columns.map_err(|error| unreadable(&of, error))?;
            room.take(connection, hash.len() + output.len())?;
            let id = format!("{hash}!{output}");
            found.push(read(&of, &id, path.clone(), texts)?);
        }
        Ok(found)
    }

    /// The realisations with the output paths `paths`, by derivation path. There is no index on
    /// output paths, so one pass over the table finds all of them.
    pub fn traces_of(
        &self,
        connection: &Connection,
        paths: &[StorePath],
    ) -> Result<Vec<Realisation>, DbError> {
        if !is_sound_table(connection, BUILD_TRACE)? {
            return Ok(Vec::new());
        }
        let wanted: HashSet<&StorePath> = paths.iter().collect();
        let mut statement = connection.prepare_cached(
            "select drvPath, outputName, outputPath, signatures from BuildTraceV3",
        )?;
        let mut rows = statement.query([])?;
        let (mut room, mut new) = (Room::default(), BTreeMap::new());
        while let Some(row) = rows.next()? {
            let columns = || Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            let columns: rusqlite::Result<(String, String, String, Option<String>)> = columns();
            let (drv, output, path, texts) =
                columns.map_err(|error| unreadable(BUILD_TRACE, error))?;
            // Rows of other paths are skipped, malformed or not.
            let Ok(path) = self.parse(&drv, "output path", &path) else {
                continue;
            };
            if !wanted.contains(&path) {
                continue;
            }
            room.take(connection, drv.len() + output.len())?;
            let of = self.text(&path);
            let realisation = read(&of, &format!("{drv}^{output}"), path, texts)?;
            new.insert(realisation.id.clone(), realisation);
        }
        Ok(new.into_values().collect())
    }

    /// Stores a realisation, if the database has the table of its form. An existing realisation
    /// stays, unless its path is no longer valid. `output` is the id of the path's row.
    pub fn remember(
        &self,
        connection: &Connection,
        realisation: &Realisation,
        output: i64,
    ) -> Result<(), DbError> {
        let id = &realisation.id;
        if !is_sound_table(connection, table_of(id))? {
            return Ok(());
        }
        if let Some(known) = self.realisation(connection, id)? {
            if self.id(connection, &known.out_path)?.is_some() {
                return Ok(());
            }
            // Only a row of `BuildTraceV3` outlives its path.
            connection
                .prepare_cached("delete from BuildTraceV3 where drvPath = ? and outputName = ?")?
                .execute(params![key_text(id), id.output.as_str()])?;
        }
        let (key, name) = (key_text(id), id.output.as_str());
        let signatures = joined(&realisation.signatures);
        match &id.drv {
            DrvKey::HashModulo(_) => connection
                .prepare_cached(
                    "insert into Realisations (drvPath, outputName, outputPath, signatures)
                     values (?, ?, ?, ?)",
                )?
                .execute(params![key, name, output, signatures])?,
            DrvKey::Path(_) => connection
                .prepare_cached(
                    "insert into BuildTraceV3 (drvPath, outputName, outputPath, signatures)
                     values (?, ?, ?, ?)",
                )?
                .execute(params![
                    key,
                    name,
                    self.text(&realisation.out_path),
                    signatures
                ])?,
        };
        Ok(())
    }
}

fn read(
    of: &str,
    id: &str,
    out_path: StorePath,
    texts: Option<String>,
) -> Result<Realisation, DbError> {
    let parsed = id
        .parse()
        .map_err(|error: DrvOutputError| invalid(of, "realisation", id, error))?;
    Ok(Realisation {
        signatures: signatures(of, texts)?,
        ..Realisation::new(parsed, out_path)
    })
}
