//! Workspaces.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Micros, new_id, now};

#[derive(Debug, Clone)]
pub(in crate::local) struct Workspace {
    pub id: String,
    pub name: String,
    pub template_id: String,
    pub created_at: Micros,
    pub deleted: bool,
    pub dormant_at: Option<Micros>,
}

impl Workspace {
    pub fn insert(db: &Connection, name: &str, template: &str) -> rusqlite::Result<Self> {
        let workspace = Self {
            id: new_id(),
            name: name.to_owned(),
            template_id: template.to_owned(),
            created_at: now(),
            deleted: false,
            dormant_at: None,
        };
        db.execute(
            "INSERT INTO workspaces (id, name, template_id, created_at) VALUES (?, ?, ?, ?)",
            params![workspace.id, name, template, workspace.created_at],
        )?;
        Ok(workspace)
    }

    pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT * FROM workspaces WHERE id = ?", [id], Self::read).optional()
    }

    /// The living workspace of that name; with `deleted` else the newest deleted one.
    pub fn find_by_name(db: &Connection, name: &str, deleted: bool) -> rusqlite::Result<Option<Self>> {
        db.query_row(
            "SELECT * FROM workspaces WHERE name = ? AND (NOT deleted OR ?) ORDER BY deleted, created_at DESC",
            params![name, deleted],
            Self::read,
        )
        .optional()
    }

    /// Those that are not deleted, by name.
    pub fn all(db: &Connection) -> rusqlite::Result<Vec<Self>> {
        db.prepare("SELECT * FROM workspaces WHERE NOT deleted ORDER BY name")?
            .query_map([], Self::read)?
            .collect()
    }

    pub fn set_dormant(&self, db: &Connection, dormant: bool) -> rusqlite::Result<()> {
        db.execute("UPDATE workspaces SET dormant_at = ? WHERE id = ?", params![dormant.then(now), self.id])?;
        Ok(())
    }

    pub fn set_deleted(db: &Connection, id: &str) -> rusqlite::Result<()> {
        db.execute("UPDATE workspaces SET deleted = 1 WHERE id = ?", [id])?;
        Ok(())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            template_id: row.get("template_id")?,
            created_at: row.get("created_at")?,
            deleted: row.get("deleted")?,
            dormant_at: row.get("dormant_at")?,
        })
    }
}
