//! Builds with their jobs, and the jobs' logs.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::super::model::{JobStatus, Transition};
use super::{Micros, from_json, new_id, now, to_json};

#[derive(Debug, Clone)]
pub(in crate::local) struct Build {
    pub id: String,
    pub workspace_id: String,
    pub number: i64,
    pub transition: Transition,
    pub version_id: String,
    pub reason: String,
    pub parameters: Vec<ParameterValue>,
    pub created_at: Micros,
    pub updated_at: Micros,
    pub job_id: String,
    pub container_id: String,
    pub volume_id: String,
    pub worker_id: Option<String>,
    pub started_at: Option<Micros>,
    pub completed_at: Option<Micros>,
    pub canceled_at: Option<Micros>,
    pub error: Option<String>,
    pub error_code: Option<String>,
    /// Whether its work was done: only then does it have resources and agents.
    pub provisioned: bool,
}

/// A parameter of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) struct ParameterValue {
    pub name: String,
    pub value: String,
}

/// What a new build is made of.
pub(in crate::local) struct NewBuild<'a> {
    pub workspace: &'a str,
    pub transition: Transition,
    pub version: &'a str,
    pub reason: &'a str,
    pub parameters: &'a [ParameterValue],
}

/// How a job ended.
#[derive(Debug, Default)]
pub(in crate::local) struct JobEnd {
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub provisioned: bool,
}

#[derive(Debug, Clone)]
pub(in crate::local) struct LogLine {
    pub id: i64,
    pub created_at: Micros,
    pub source: String,
    pub level: String,
    pub stage: String,
    pub output: String,
}

impl Build {
    /// Derived as the control plane it stands for does it: an error outweighs a cancel, a cancel outweighs success.
    pub fn status(&self) -> JobStatus {
        match (self.completed_at.is_some(), &self.error, self.canceled_at.is_some()) {
            (_, Some(_), _) => JobStatus::Failed,
            (true, None, true) => JobStatus::Canceled,
            (true, None, false) => JobStatus::Succeeded,
            (false, None, true) => JobStatus::Canceling,
            (false, None, false) if self.started_at.is_none() => JobStatus::Pending,
            (false, None, false) => JobStatus::Running,
        }
    }

    pub fn insert(db: &Connection, new: &NewBuild<'_>) -> rusqlite::Result<Self> {
        let id = new_id();
        let now = now();
        db.execute(
            "INSERT INTO builds (id, workspace_id, number, transition, version_id, reason, parameters, created_at, updated_at,
                 job_id, container_id, volume_id)
             SELECT ?1, ?2, coalesce(max(number), 0) + 1, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10
             FROM builds WHERE workspace_id = ?2",
            params![
                id,
                new.workspace,
                new.transition,
                new.version,
                new.reason,
                to_json(&new.parameters)?,
                now,
                new_id(),
                new_id(),
                new_id()
            ],
        )?;
        Self::find(db, &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM builds WHERE id = ?", [id], Self::read).optional()
    }

    pub fn find_by_number(db: &Connection, workspace: &str, number: i64) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT * FROM builds WHERE workspace_id = ? AND number = ?";
        db.query_row(sql, params![workspace, number], Self::read).optional()
    }

    /// The newest build. Every workspace has one, from the transaction that made it.
    pub fn latest(db: &Connection, workspace: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT * FROM builds WHERE workspace_id = ? ORDER BY number DESC LIMIT 1";
        db.query_row(sql, [workspace], Self::read)
    }

    /// Newest first.
    pub fn of_workspace(db: &Connection, workspace: &str) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM builds WHERE workspace_id = ? ORDER BY number DESC")?
            .query_map([workspace], Self::read)?
            .collect()
    }

    /// Those that wait for a provisioner, in their order.
    pub fn pending(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        db.prepare(
            "SELECT * FROM builds WHERE started_at IS NULL AND completed_at IS NULL ORDER BY created_at, rowid",
        )?
        .query_map([], Self::read)?
        .collect()
    }

    /// Those that a server which has died was carrying out.
    pub fn orphaned(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM builds WHERE started_at IS NOT NULL AND completed_at IS NULL")?
            .query_map([], Self::read)?
            .collect()
    }

    /// A provisioner takes it.
    pub fn start(&self, db: &Connection, worker: &str) -> rusqlite::Result<()> {
        let sql = "UPDATE builds SET started_at = ?1, updated_at = ?1, worker_id = ?2 WHERE id = ?3";
        db.execute(sql, params![now(), worker, self.id])?;
        Ok(())
    }

    /// Marks it as canceled; a pending one has ended with that.
    pub fn cancel(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute(
            "UPDATE builds SET canceled_at = ?1, updated_at = ?1, completed_at = iif(started_at IS NULL, ?1, NULL) WHERE id = ?2",
            params![now(), self.id],
        )?;
        Ok(())
    }

    pub fn complete(&self, db: &Connection, end: &JobEnd) -> rusqlite::Result<()> {
        db.execute(
            "UPDATE builds SET completed_at = ?1, updated_at = ?1, error = ?2, error_code = ?3, provisioned = ?4 WHERE id = ?5",
            params![now(), end.error, end.error_code, end.provisioned, self.id],
        )?;
        Ok(())
    }

    pub fn log(
        &self,
        db: &Connection,
        source: &str,
        level: &str,
        stage: &str,
        output: &str,
    ) -> rusqlite::Result<()> {
        db.execute(
            "INSERT INTO build_logs (build_id, created_at, source, level, stage, output) VALUES (?, ?, ?, ?, ?, ?)",
            params![self.id, now(), source, level, stage, output],
        )?;
        Ok(())
    }

    /// The log lines with an id above `after`.
    pub fn logs(db: &Connection, build: &str, after: i64) -> rusqlite::Result<Vec<LogLine>> {
        db.prepare("SELECT * FROM build_logs WHERE build_id = ? AND id > ? ORDER BY id")?
            .query_map(params![build, after], |row| {
                Ok(LogLine {
                    id: row.get("id")?,
                    created_at: row.get("created_at")?,
                    source: row.get("source")?,
                    level: row.get("level")?,
                    stage: row.get("stage")?,
                    output: row.get("output")?,
                })
            })?
            .collect()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            workspace_id: row.get("workspace_id")?,
            number: row.get("number")?,
            transition: row.get("transition")?,
            version_id: row.get("version_id")?,
            reason: row.get("reason")?,
            parameters: from_json(row, "parameters")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
            job_id: row.get("job_id")?,
            container_id: row.get("container_id")?,
            volume_id: row.get("volume_id")?,
            worker_id: row.get("worker_id")?,
            started_at: row.get("started_at")?,
            completed_at: row.get("completed_at")?,
            canceled_at: row.get("canceled_at")?,
            error: row.get("error")?,
            error_code: row.get("error_code")?,
            provisioned: row.get("provisioned")?,
        })
    }
}
