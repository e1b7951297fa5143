//! The database: one SQLite file, one connection. Times are microseconds since 1970.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::model::{TemplateSpec, VersionSpec};

pub(super) mod agents;
pub(super) mod builds;
pub(super) mod workspaces;

/// A point in time, in microseconds since 1970.
pub(super) type Micros = i64;

/// The connection, one user at a time. Calls take microseconds, so they are made where they are needed.
#[derive(Debug)]
pub(super) struct Db {
    connection: Mutex<Connection>,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS identity (
    deployment_id TEXT NOT NULL, user_id TEXT NOT NULL, organization_id TEXT NOT NULL, created_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS templates (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, active_version_id TEXT NOT NULL,
    require_active_version INTEGER NOT NULL, classic_parameters INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS versions (
    id TEXT PRIMARY KEY, template_id TEXT NOT NULL, name TEXT NOT NULL, created_at INTEGER NOT NULL,
    spec TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS workspaces (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, template_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0, dormant_at INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS workspace_names ON workspaces (name) WHERE NOT deleted;
CREATE TABLE IF NOT EXISTS builds (
    id TEXT PRIMARY KEY, workspace_id TEXT NOT NULL, number INTEGER NOT NULL, transition TEXT NOT NULL,
    version_id TEXT NOT NULL, reason TEXT NOT NULL, parameters TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    job_id TEXT NOT NULL, container_id TEXT NOT NULL, volume_id TEXT NOT NULL, worker_id TEXT,
    started_at INTEGER, completed_at INTEGER, canceled_at INTEGER, error TEXT, error_code TEXT,
    provisioned INTEGER NOT NULL DEFAULT 0,
    UNIQUE (workspace_id, number)
);
CREATE TABLE IF NOT EXISTS build_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, build_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    source TEXT NOT NULL, level TEXT NOT NULL, stage TEXT NOT NULL, output TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS logs_of_build ON build_logs (build_id);
CREATE TABLE IF NOT EXISTS agents (
    id TEXT PRIMARY KEY, build_id TEXT NOT NULL, workspace_id TEXT NOT NULL, name TEXT NOT NULL, token TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    first_connected_at INTEGER, last_connected_at INTEGER, disconnected_at INTEGER,
    lifecycle TEXT NOT NULL, started_at INTEGER, ready_at INTEGER, log_source_id TEXT NOT NULL,
    spawned INTEGER NOT NULL DEFAULT 0, retired INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS agents_of_build ON agents (build_id);
CREATE TABLE IF NOT EXISTS agent_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, agent_id TEXT NOT NULL, created_at INTEGER NOT NULL,
    level TEXT NOT NULL, output TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS logs_of_agent ON agent_logs (agent_id);
";

impl Db {
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    pub fn get(&self) -> MutexGuard<'_, Connection> {
        // After a panic elsewhere the database is as good as after a crash: consistent.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

pub(super) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Who this control plane is, and its only user and organization. Made once per database.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub deployment_id: String,
    pub user_id: String,
    pub organization_id: String,
    pub created_at: Micros,
}

impl Identity {
    pub fn find_or_make(db: &Connection) -> rusqlite::Result<Self> {
        let found = db
            .query_row(
                "SELECT deployment_id, user_id, organization_id, created_at FROM identity",
                [],
                |row| {
                    Ok(Self {
                        deployment_id: row.get(0)?,
                        user_id: row.get(1)?,
                        organization_id: row.get(2)?,
                        created_at: row.get(3)?,
                    })
                },
            )
            .optional()?;
        if let Some(found) = found {
            return Ok(found);
        }
        let made =
            Self { deployment_id: new_id(), user_id: new_id(), organization_id: new_id(), created_at: now() };
        db.execute(
            "INSERT INTO identity VALUES (?, ?, ?, ?)",
            params![made.deployment_id, made.user_id, made.organization_id, made.created_at],
        )?;
        Ok(made)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Template {
    pub id: String,
    pub name: String,
    pub created_at: Micros,
    pub active_version_id: String,
    pub require_active_version: bool,
    pub classic_parameters: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Version {
    pub id: String,
    pub template_id: String,
    pub name: String,
    pub created_at: Micros,
    pub spec: VersionSpec,
}

impl Template {
    /// None: the name is taken.
    pub fn insert(db: &mut Connection, spec: &TemplateSpec) -> rusqlite::Result<Option<Self>> {
        if Self::find(db, &spec.name)?.is_some() {
            return Ok(None);
        }
        let transaction = db.transaction()?;
        let id = new_id();
        let version = Version::insert(&transaction, &id, &spec.version)?;
        transaction.execute(
            "INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?)",
            params![id, spec.name, now(), version, spec.require_active_version, spec.classic_parameters],
        )?;
        let inserted = Self::find(&transaction, &id)?;
        transaction.commit()?;
        Ok(inserted)
    }

    /// By id or by name.
    pub fn find(db: &Connection, key: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM templates WHERE id = ?1 OR name = ?1", [key], Self::read).optional()
    }

    pub fn all(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM templates ORDER BY name")?.query_map([], Self::read)?.collect()
    }

    pub fn activate(&self, db: &Connection, version: &str) -> rusqlite::Result<()> {
        db.execute("UPDATE templates SET active_version_id = ? WHERE id = ?", [version, &self.id])?;
        Ok(())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            created_at: row.get("created_at")?,
            active_version_id: row.get("active_version_id")?,
            require_active_version: row.get("require_active_version")?,
            classic_parameters: row.get("classic_parameters")?,
        })
    }
}

impl Version {
    /// Gives the new version's id.
    pub fn insert(db: &Connection, template: &str, spec: &VersionSpec) -> rusqlite::Result<String> {
        let id = new_id();
        let number: i64 =
            db.query_row("SELECT count(*) + 1 FROM versions WHERE template_id = ?", [template], |row| {
                row.get(0)
            })?;
        let name = if spec.name.is_empty() { format!("v{number}") } else { spec.name.clone() };
        db.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?)",
            params![id, template, name, now(), to_json(spec)?],
        )?;
        Ok(id)
    }

    pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM versions WHERE id = ?", [id], |row| {
            Ok(Self {
                id: row.get("id")?,
                template_id: row.get("template_id")?,
                name: row.get("name")?,
                created_at: row.get("created_at")?,
                spec: from_json(row, "spec")?,
            })
        })
        .optional()
    }
}

/// For a column of JSON.
pub(super) fn to_json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// From a column of JSON.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}
