//! What outlives the process: a small SQLite file of records by key, in a data directory that one process owns.
//!
//! [`Store::put`] returns when what it was given is durable. Everything that is read is checked: a file that SQLite finds
//! damaged, or a record whose digest does not fit, is named in an error and nothing is guessed around it, for a node that
//! has lost its newest trusted header must not silently begin anew from an older one.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, config::DbConfig, params};
use sha2::{Digest as _, Sha256};

/// Name of the file inside the data directory.
const FILE: &str = "downbeat.sqlite";

/// Marks the file as Downbeat's ("Dnbt").
const APPLICATION_ID: i32 = 0x446e_6274;

/// Version of the tables below. A program that knows only an older one leaves the file alone.
const SCHEMA: i64 = 1;

/// One record may have so many bytes: several commits of 200 validators.
pub const VALUE_MAX: usize = 4 << 20;

/// So many records are read at most.
const RECORDS_MAX: usize = 1 << 16;

/// One thing that is kept: a later one with the same key replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub key: String,
    pub value: Vec<u8>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: another process uses this data directory; give each its own", path = .0.display())]
    InUse(PathBuf),
    #[error(
        "{path} is damaged: {what}; move it away to begin again, from a trusted root that you have checked",
        path = .path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error("{path} is no data of Downbeat's; name another data directory", path = .0.display())]
    Foreign(PathBuf),
    #[error("{path} was written by a newer version: schema {found}, this one knows {SCHEMA}", path = .path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("a record {key:?} of {size} bytes is too large to keep: at most {VALUE_MAX}")]
    TooLarge { key: String, size: usize },
    #[error("{path}: no room left on the device", path = .0.display())]
    Full(PathBuf),
    #[error("{path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = .path.display())]
    Sqlite { path: PathBuf, error: rusqlite::Error },
}

/// An open data directory. Nobody else can open it as long as this lives.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Locked as long as this lives, and let go of by the system however the process ends.
    _lock: File,
}

impl Store {
    /// Opens the data directory, which is made if need be, and checks the whole file.
    ///
    /// # Errors
    /// If another process uses it, it is damaged, foreign or newer, or the disk refuses.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io { path: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join("downbeat.lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let path = directory.join(FILE);
        let connection = Connection::open(&path).map_err(|error| sqlite(&path, error))?;
        let store = Self { connection, path, _lock: lock };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let sql = |error| sqlite(&self.path, error);
        self.connection.busy_timeout(Duration::ZERO).map_err(sql)?;
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(sql)?;
        let number = |pragma: &str| -> Result<i64, StoreError> {
            self.connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).map_err(sql)
        };
        let (application, schema) = (number("application_id")?, number("user_version")?);
        let tables = self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
        let is_new = application == 0 && schema == 0 && tables.map_err(sql)? == 0;
        if !is_new && application != i64::from(APPLICATION_ID) {
            return Err(StoreError::Foreign(self.path.clone()));
        }
        if schema > SCHEMA {
            return Err(StoreError::Newer { path: self.path.clone(), found: schema });
        }
        let problem = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        let problem = problem.map_err(sql)?;
        if problem != "ok" {
            return Err(StoreError::Damaged { path: self.path.clone(), what: problem });
        }
        // FULL: what `put` has returned from survives a loss of power.
        self.connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")
            .map_err(sql)?;
        if is_new {
            self.connection
                .execute_batch(&format!(
                    "BEGIN;
                     CREATE TABLE record (key TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL) STRICT;
                     PRAGMA application_id = {APPLICATION_ID};
                     PRAGMA user_version = {SCHEMA};
                     COMMIT;"
                ))
                .map_err(sql)?;
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is kept, by key.
    ///
    /// # Errors
    /// If a record is not what was written, or the disk refuses.
    pub fn load(&self) -> Result<Vec<Kept>, StoreError> {
        let sql = |error| sqlite(&self.path, error);
        let mut statement =
            self.connection.prepare("SELECT key, value, digest FROM record ORDER BY key").map_err(sql)?;
        let mut rows = statement.query([]).map_err(sql)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(sql)? {
            let kept = Kept { key: row.get(0).map_err(sql)?, value: row.get(1).map_err(sql)? };
            let written: Vec<u8> = row.get(2).map_err(sql)?;
            let damaged = |what| StoreError::Damaged { path: self.path.clone(), what };
            if written != digest(&kept) {
                return Err(damaged(format!("record {:?} is not what was written", kept.key)));
            }
            if all.len() >= RECORDS_MAX {
                return Err(damaged(format!("more than {RECORDS_MAX} records")));
            }
            all.push(kept);
        }
        Ok(all)
    }

    /// Keeps all of these, or none if it fails. Durable when it returns.
    ///
    /// # Errors
    /// If one is too large, or the disk refuses.
    pub fn put(&mut self, records: &[Kept]) -> Result<(), StoreError> {
        if let Some(record) = records.iter().find(|record| record.value.len() > VALUE_MAX) {
            return Err(StoreError::TooLarge { key: record.key.clone(), size: record.value.len() });
        }
        self.write(records).map_err(|error| sqlite(&self.path, error))
    }

    fn write(&mut self, records: &[Kept]) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert =
                transaction.prepare("INSERT OR REPLACE INTO record (key, value, digest) VALUES (?1, ?2, ?3)")?;
            for record in records {
                insert.execute(params![record.key, record.value, digest(record).as_slice()])?;
            }
        }
        transaction.commit()
    }

    /// One record.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = |error| sqlite(&self.path, error);
        let found = self
            .connection
            .query_row("SELECT value, digest FROM record WHERE key = ?1", [key], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .optional()
            .map_err(sql)?;
        let Some((value, written)) = found else { return Ok(None) };
        let kept = Kept { key: key.to_owned(), value };
        if written != digest(&kept) {
            let what = format!("record {key:?} is not what was written");
            return Err(StoreError::Damaged { path: self.path.clone(), what });
        }
        Ok(Some(kept.value))
    }
}

/// SQLite checks its structure and not what is in it.
fn digest(record: &Kept) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(record.key.len().to_le_bytes());
    hash.update(&record.key);
    hash.update(&record.value);
    hash.finalize().into()
}

fn sqlite(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, what: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full(path),
        _ => match error {
            // A value of another type than the tables have: not written by `put`.
            rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
                StoreError::Damaged { path, what: error.to_string() }
            }
            error => StoreError::Sqlite { path, error },
        },
    }
}
