//! Agents and their logs.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::model::{AgentSpec, Lifecycle};
use super::super::server_file::new_token;
use super::builds::Build;
use super::{Micros, from_json, new_id, now, to_json};

#[derive(Debug, Clone)]
pub(in crate::local) struct Agent {
    pub id: String,
    pub build_id: String,
    pub workspace_id: String,
    pub token: String,
    pub spec: AgentSpec,
    pub created_at: Micros,
    pub updated_at: Micros,
    pub first_connected_at: Option<Micros>,
    pub last_connected_at: Option<Micros>,
    pub disconnected_at: Option<Micros>,
    pub lifecycle: Lifecycle,
    pub started_at: Option<Micros>,
    pub ready_at: Option<Micros>,
    pub log_source_id: String,
    /// Its workspace was stopped, or built again: it may not connect any more.
    pub retired: bool,
}

#[derive(Debug, Clone)]
pub(in crate::local) struct AgentLog {
    pub id: i64,
    pub created_at: Micros,
    pub level: String,
    pub output: String,
}

impl Agent {
    pub fn insert(db: &Connection, build: &Build, spec: &AgentSpec) -> rusqlite::Result<()> {
        db.execute(
            "INSERT INTO agents (id, build_id, workspace_id, name, token, spec, created_at, updated_at, lifecycle, log_source_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9)",
            params![
                new_id(),
                build.id,
                build.workspace_id,
                spec.name,
                new_token(),
                to_json(spec)?,
                now(),
                Lifecycle::Created,
                new_id()
            ],
        )?;
        Ok(())
    }

    pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM agents WHERE id = ?", [id], Self::read).optional()
    }

    pub fn find_by_token(db: &Connection, token: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM agents WHERE token = ?", [token], Self::read).optional()
    }

    /// In the order of the template.
    pub fn of_build(db: &Connection, build: &str) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM agents WHERE build_id = ? ORDER BY rowid")?
            .query_map([build], Self::read)?
            .collect()
    }

    /// The agents that a workspace has now, of whichever build.
    pub fn current(db: &Connection, workspace: &str) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM agents WHERE workspace_id = ? AND NOT retired ORDER BY rowid")?
            .query_map([workspace], Self::read)?
            .collect()
    }

    /// Those whose process was never started: the server died between the build and that. Agents that a deleted
    /// workspace got are on paper only.
    pub fn unspawned(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        db.prepare(
            "SELECT * FROM agents WHERE NOT spawned AND NOT retired
             AND workspace_id IN (SELECT id FROM workspaces WHERE NOT deleted)",
        )?
        .query_map([], Self::read)?
        .collect()
    }

    pub fn set_spawned(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("UPDATE agents SET spawned = 1 WHERE id = ?", [&self.id])?;
        Ok(())
    }

    pub fn retire(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute("UPDATE agents SET retired = 1 WHERE id = ?", [&self.id])?;
        Ok(())
    }

    /// It has connected. A disconnect that was recorded before stays until the first heartbeat.
    pub fn connected(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute(
            "UPDATE agents SET first_connected_at = coalesce(first_connected_at, ?1), last_connected_at = ?1, updated_at = ?1
             WHERE id = ?2",
            params![now(), self.id],
        )?;
        Ok(())
    }

    pub fn heartbeat(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute(
            "UPDATE agents SET last_connected_at = ?1, updated_at = ?1, disconnected_at = NULL WHERE id = ?2",
            params![now(), self.id],
        )?;
        Ok(())
    }

    /// Its connection has ended. Not recorded if the disconnect before it still is: that is how an agent which dies
    /// soon after it came back goes on reading as connected.
    pub fn disconnected(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute(
            "UPDATE agents SET disconnected_at = ?1, updated_at = ?1 WHERE id = ?2 AND disconnected_at IS NULL",
            params![now(), self.id],
        )?;
        Ok(())
    }

    pub fn report(&self, db: &Connection, state: Lifecycle) -> rusqlite::Result<()> {
        let starts = state == Lifecycle::Starting;
        let ends = matches!(state, Lifecycle::Ready | Lifecycle::StartError | Lifecycle::StartTimeout);
        db.execute(
            "UPDATE agents SET lifecycle = ?1, started_at = iif(?2, ?4, started_at),
                 ready_at = CASE WHEN ?2 THEN NULL WHEN ?3 THEN ?4 ELSE ready_at END
             WHERE id = ?5 AND lifecycle != ?1",
            params![state, starts, ends, now(), self.id],
        )?;
        Ok(())
    }

    pub fn log(&self, db: &Connection, level: &str, output: &str) -> rusqlite::Result<()> {
        db.execute(
            "INSERT INTO agent_logs (agent_id, created_at, level, output) VALUES (?, ?, ?, ?)",
            params![self.id, now(), level, output],
        )?;
        Ok(())
    }

    /// The log lines with an id above `after`.
    pub fn logs(db: &Connection, agent: &str, after: i64) -> rusqlite::Result<Vec<AgentLog>> {
        db.prepare("SELECT * FROM agent_logs WHERE agent_id = ? AND id > ? ORDER BY id")?
            .query_map(params![agent, after], |row| {
                Ok(AgentLog {
                    id: row.get("id")?,
                    created_at: row.get("created_at")?,
                    level: row.get("level")?,
                    output: row.get("output")?,
                })
            })?
            .collect()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            build_id: row.get("build_id")?,
            workspace_id: row.get("workspace_id")?,
            token: row.get("token")?,
            spec: from_json(row, "spec")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            first_connected_at: row.get("first_connected_at")?,
            last_connected_at: row.get("last_connected_at")?,
            disconnected_at: row.get("disconnected_at")?,
            lifecycle: row.get("lifecycle")?,
            started_at: row.get("started_at")?,
            ready_at: row.get("ready_at")?,
            log_source_id: row.get("log_source_id")?,
            retired: row.get("retired")?,
        })
    }
}
