//! Nix's database schema, version 10, and the schemas of realisations.
//!
//! Tables, columns, keys and triggers are those of new stores of Nix 2.8, 2.34 (which adds an index
//! and a trigger to the tables of realisations) and 2.35 (which keeps realisations in another
//! table, and drops an index). Migrations that a version of Nix would apply to older stores are
//! recorded as done. Otherwise that version would wait for exclusive access to the store.

use rusqlite::{Connection, TransactionBehavior};

use super::distrust::is_sound_table;
use super::error::DbError;

/// The table of realisations by hash, of Nix up to 2.34.
pub(super) const REALISATIONS: &str = "Realisations";

/// The table of realisations by path, of Nix since 2.35.
pub(super) const BUILD_TRACE: &str = "BuildTraceV3";

/// The tables of every store.
const SCHEMA: &str = "
    create table if not exists ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer,
        sigs             text,
        ca               text
    );
    create table if not exists Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index if not exists IndexReference on Refs(reference);
    create trigger if not exists DeleteSelfRefs before delete on ValidPaths
    begin
        delete from Refs where referrer = old.id and reference = old.id;
    end;
    create table if not exists DerivationOutputs (
        drv  integer not null,
        id   text not null,
        path text not null,
        primary key (drv, id),
        foreign key (drv) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
";

/// The tables of realisations, as in Nix 2.8.
const REALISATIONS_SCHEMA: &str = "
    create table if not exists Realisations (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath integer not null,
        signatures text,
        foreign key (outputPath) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexRealisations on Realisations(drvPath, outputName);
    create table if not exists RealisationsRefs (
        referrer integer not null,
        realisationReference integer,
        foreign key (referrer) references Realisations(id) on delete cascade,
        foreign key (realisationReference) references Realisations(id) on delete restrict
    );
    create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer);
    create index if not exists IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
";

/// The additions of Nix 2.34 to the tables of realisations.
const REALISATIONS_ADDITIONS: &str = "
    create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths
    begin
        delete from RealisationsRefs where realisationReference in (
            select id from Realisations where outputPath = old.id
        );
    end;
    create index if not exists IndexRealisationsRefsRealisationReference
        on RealisationsRefs(realisationReference);
";

/// The table of realisations of Nix 2.35, and the record of that migration in the second table.
const BUILD_TRACE_SCHEMA: &str = "
    create table if not exists BuildTraceV3 (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath text not null,
        signatures text
    );
    create index if not exists IndexBuildTraceV3 on BuildTraceV3(drvPath, outputName);
    create table if not exists SchemaMigrations (migration text primary key not null);
    insert or ignore into SchemaMigrations values ('20251017-ca-derivations');
";

/// The migrations that a new store does not need.
const MIGRATIONS: &str = "
    insert or ignore into SchemaMigrations values
        ('20220326-ca-derivations'), ('20260309-drop-redundant-indexreferrer');
";

/// Creates the tables of a new store, including those of realisations in both forms.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    let parts = [
        SCHEMA,
        REALISATIONS_SCHEMA,
        REALISATIONS_ADDITIONS,
        BUILD_TRACE_SCHEMA,
        MIGRATIONS,
    ];
    in_transaction(connection, &parts.concat())
}

/// Creates missing tables of realisations by hash.
pub(super) fn create_realisations(connection: &Connection) -> rusqlite::Result<()> {
    in_transaction(connection, REALISATIONS_SCHEMA)
}

/// Creates the table of realisations by derivation path, if it is missing.
pub(super) fn create_build_trace(connection: &mut Connection) -> Result<(), DbError> {
    if is_sound_table(connection, BUILD_TRACE)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(BUILD_TRACE_SCHEMA)?;
    Ok(transaction.commit()?)
}

fn in_transaction(connection: &Connection, statements: &str) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(statements)?;
    transaction.commit()
}
