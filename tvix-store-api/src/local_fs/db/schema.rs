//! Nix's database schema, version 10, and that of realisations, version 3.
//!
//! Tables, columns, keys and triggers are what Nix 2 makes of a new store (read from the
//! database of one made by 2.8), as both must be able to work with it.

use rusqlite::Connection;

/// What every store has.
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
    create index if not exists IndexReferrer on Refs(referrer);
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

/// What a store has once it remembers realisations.
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

/// Makes the tables that are missing.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    in_transaction(connection, SCHEMA)
}

/// Makes the tables of realisations that are missing.
pub(super) fn create_realisations(connection: &Connection) -> rusqlite::Result<()> {
    in_transaction(connection, REALISATIONS_SCHEMA)
}

/// Whether there are tables of realisations.
pub(super) fn has_realisations(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select 1 from sqlite_master where type = 'table' and name = ?")?
        .exists(["Realisations"])
}

fn in_transaction(connection: &Connection, statements: &str) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(statements)?;
    transaction.commit()
}
