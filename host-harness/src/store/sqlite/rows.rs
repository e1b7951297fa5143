//! Rows as SQLite keeps them.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde::Serialize;

use super::error::of_sqlite;
use crate::journal::record::{CallId, CallRecord, FORMAT, Open, Outcome, Pinned};
use crate::journal::{Asked, EffectClass, Entry, Request};
use crate::store::chat_record::{ChatRecord, Failures};
use crate::store::error::StoreError;
use crate::store::transaction::{CallRow, CallState, HostId, HostRow, Listing, ReadTransaction, Transaction};

const CHAT: &str =
    "name, workspace, build, agent, timeouts, failed_build, away, last_failure_ms, last_away_ms";
/// A query for rows of calls.
macro_rules! calls {
    ($rest:literal) => {
        concat!(
            "SELECT call.id, tool, arguments, chat, deployment, user, workspace, component, state, owner, interrupted, ",
            "sent, created_ms, touched_ms, note, detached FROM call ",
            $rest
        )
    };
}

const CALL_BY_ID: &str = calls!("WHERE id = ?1");
const CALL_BY_KEY: &str = "SELECT id FROM call WHERE chat = ?1 AND request_key = ?2";
const QUEUE: &str = calls!("WHERE workspace = ?1 AND deployment = ?2 AND state < 2 ORDER BY id");
const OWNED: &str = calls!("WHERE owner IS ?1 AND state < 2 ORDER BY id");
const NEEDING_ATTENTION: &str =
    calls!("WHERE owner = ?1 AND state < 2 AND (state = 0 OR interrupted = 1) ORDER BY id");
const UNENDED: &str = calls!("WHERE state < 2 ORDER BY id DESC LIMIT ?1");
const ALL: &str = calls!("ORDER BY id DESC LIMIT ?1");
const ENDED: &str = "SELECT id FROM call WHERE state = 2 AND ended_ms < ?1 ORDER BY ended_ms LIMIT ?2";
const REASSIGN: &str =
    "UPDATE call SET owner = ?2 WHERE owner IS ?1 AND state < 2 AND deployment = ?3 AND user = ?4";
const WAITING: &str = "SELECT call.id, tool, arguments, chat, deployment, user, workspace, component, state, owner, \
     interrupted, sent, created_ms, touched_ms, note, detached, entry.request, entry.intent, entry.asked_ms \
     FROM call JOIN entry ON entry.call = call.id \
     WHERE owner = ?1 AND state < 2 AND entry.class = 'wait' AND entry.answer IS NULL ORDER BY call.id";
const UNNAMED: &str = "DELETE FROM component WHERE NOT EXISTS (SELECT 1 FROM call WHERE component = hash)";

/// What a running host asks, with the index that answers it: none of them reads through the history.
#[cfg(test)]
pub(super) const QUERIES: [(&str, &str); 8] = [
    (CALL_BY_ID, "PRIMARY KEY"),
    (CALL_BY_KEY, "call_key"),
    (QUEUE, "call_lane"),
    (OWNED, "call_owner"),
    (NEEDING_ATTENTION, "call_"),
    (ENDED, "call_ended"),
    (WAITING, "call_owner"),
    (UNNAMED, "call_component"),
];

const HOST: &str = "id, deployment, user, lease_until_ms";

/// The rows within a transaction.
pub(super) struct Rows<'a> {
    pub(super) connection: &'a Connection,
    pub(super) path: &'a str,
}

impl Rows<'_> {
    fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.execute(parameters);
        run().map_err(|error| of_sqlite(self.path, &error))
    }

    fn one<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.query_row(parameters, read).optional();
        run().map_err(|error| of_sqlite(self.path, &error))
    }

    fn all<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let run = || {
            self.connection.prepare_cached(sql)?.query_map(parameters, read)?.collect::<rusqlite::Result<_>>()
        };
        run().map_err(|error| of_sqlite(self.path, &error))
    }
}

impl ReadTransaction for Rows<'_> {
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError> {
        self.one(&format!("SELECT {CHAT} FROM chat WHERE name = ?1"), [name], chat)
    }

    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError> {
        self.all(&format!("SELECT {CHAT} FROM chat ORDER BY name"), [], chat)
    }

    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError> {
        let count = "SELECT count(*) FROM restart_verdict WHERE workspace = ?1 AND at_ms >= ?2";
        let found = self.one(count, params![workspace, signed(since_ms)], |row| row.get(0))?;
        Ok(found.unwrap_or_default())
    }

    fn is_own_build(&self, build: &str) -> Result<bool, StoreError> {
        Ok(self.one("SELECT 1 FROM own_build WHERE id = ?1", [build], |_| Ok(()))?.is_some())
    }

    fn host(&self, id: HostId) -> Result<Option<HostRow>, StoreError> {
        self.one(&format!("SELECT {HOST} FROM host WHERE id = ?1"), [signed(id)], host)
    }

    fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        self.all(&format!("SELECT {HOST} FROM host ORDER BY id"), [], host)
    }

    fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
        self.one(CALL_BY_ID, [signed(id)], call)
    }

    fn record(&self, id: CallId) -> Result<Option<CallRecord>, StoreError> {
        let found =
            self.one("SELECT record FROM call WHERE id = ?1", [signed(id)], |row| row.get::<_, String>(0))?;
        found.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(id, &error))).transpose()
    }

    fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError> {
        let select = "SELECT outcome, ended_ms FROM call WHERE id = ?1 AND state = 2";
        let found = self.one(select, [signed(id)], |row| Ok((row.get::<_, String>(0)?, time(row, 1)?)))?;
        found
            .map(|(text, at)| Ok((serde_json::from_str(&text).map_err(|error| unreadable(id, &error))?, at)))
            .transpose()
    }

    fn call_by_key(&self, chat: &str, key: &str) -> Result<Option<CallId>, StoreError> {
        self.one(CALL_BY_KEY, [chat, key], |row| time(row, 0))
    }

    fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError> {
        self.all(QUEUE, [workspace, deployment], call)
    }

    fn owned_by(&self, owner: Option<HostId>) -> Result<Vec<CallRow>, StoreError> {
        self.all(OWNED, [owner.map(signed)], call)
    }

    fn waiting(&self, owner: HostId) -> Result<Vec<(CallRow, Open)>, StoreError> {
        let rows = self.all(WAITING, [signed(owner)], |row| {
            Ok((call(row)?, row.get::<_, String>(16)?, row.get::<_, Option<String>>(17)?, time(row, 18)?))
        })?;
        let open = |(row, request, intent, asked_ms): (CallRow, String, Option<String>, u64)| {
            let read = |error: serde_json::Error| unreadable(row.id, &error);
            let request = serde_json::from_str(&request).map_err(read)?;
            let intent = serde_json::from_str(&intent.unwrap_or_default()).map_err(read)?;
            Ok((row, Open { request, intent, asked_ms }))
        };
        rows.into_iter().map(open).collect()
    }

    fn needing_attention(&self, owner: HostId) -> Result<Vec<CallRow>, StoreError> {
        self.all(NEEDING_ATTENTION, [signed(owner)], call)
    }

    fn calls(&self, listing: Listing, limit: usize) -> Result<Vec<CallRow>, StoreError> {
        let select = match listing {
            Listing::Unended => UNENDED,
            Listing::All => ALL,
        };
        self.all(select, [i64::try_from(limit).unwrap_or(i64::MAX)], call)
    }

    fn ended_before(&self, at_ms: u64, limit: usize) -> Result<Vec<CallId>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.all(ENDED, [signed(at_ms), limit], |row| time(row, 0))
    }

    fn journal(&self, id: CallId) -> Result<(Vec<Entry>, Option<Open>), StoreError> {
        let select = "SELECT request, intent, asked_ms, answer, observed_ms, answered_ms, format FROM entry \
             WHERE call = ?1 ORDER BY idx";
        let rows = self.all(select, [signed(id)], StoredEntry::read)?;
        let (mut entries, mut open) = (Vec::with_capacity(rows.len()), None);
        for row in rows {
            row.put(&mut entries, &mut open).map_err(|error| unreadable(id, &error))?;
        }
        Ok((entries, open))
    }

    fn component(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.one("SELECT bytes FROM component WHERE hash = ?1", [hash], |row| row.get(0))
    }

    fn has_component(&self, hash: &str) -> Result<bool, StoreError> {
        Ok(self.one("SELECT 1 FROM component WHERE hash = ?1", [hash], |_| Ok(()))?.is_some())
    }
}

impl Transaction for Rows<'_> {
    fn put_chat(&mut self, chat: &ChatRecord) -> Result<(), StoreError> {
        let Failures { timeouts, build, away, last_ms, last_away_ms } = &chat.failures;
        let values = params![
            chat.name,
            chat.workspace,
            chat.build,
            chat.agent,
            timeouts,
            build,
            away,
            last_ms.map(signed),
            last_away_ms.map(signed),
        ];
        let replace = format!("REPLACE INTO chat ({CHAT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
        self.execute(&replace, values).map(drop)
    }

    fn add_restart(&mut self, workspace: &str, at_ms: u64) -> Result<(), StoreError> {
        let insert = "INSERT INTO restart_verdict (workspace, at_ms) VALUES (?1, ?2)";
        self.execute(insert, params![workspace, signed(at_ms)]).map(drop)
    }

    fn add_own_build(&mut self, build: &str, at_ms: u64) -> Result<(), StoreError> {
        let insert = "INSERT OR IGNORE INTO own_build (id, at_ms) VALUES (?1, ?2)";
        self.execute(insert, params![build, signed(at_ms)]).map(drop)
    }

    fn add_host(&mut self, host: &HostRow) -> Result<HostId, StoreError> {
        let insert = "INSERT INTO host (deployment, user, lease_until_ms) VALUES (?1, ?2, ?3)";
        self.execute(insert, params![host.deployment, host.user, signed(host.lease_until_ms)])?;
        Ok(self.connection.last_insert_rowid().unsigned_abs())
    }

    fn put_host(&mut self, host: &HostRow) -> Result<(), StoreError> {
        let update = "UPDATE host SET user = ?2, lease_until_ms = ?3 WHERE id = ?1";
        self.execute(update, params![signed(host.id), host.user, signed(host.lease_until_ms)]).map(drop)
    }

    fn remove_host(&mut self, id: HostId) -> Result<(), StoreError> {
        self.execute("UPDATE call SET owner = NULL WHERE owner = ?1 AND state < 2", [signed(id)])?;
        self.execute("DELETE FROM host WHERE id = ?1", [signed(id)]).map(drop)
    }

    fn add_call(&mut self, record: &CallRecord, row: &CallRow) -> Result<CallId, StoreError> {
        let insert = "INSERT INTO call (chat, request_key, tool, arguments, deployment, user, workspace, component, \
             record, state, owner, interrupted, sent, created_ms, touched_ms, detached) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
        let values = params![
            row.chat,
            record.key,
            row.tool,
            row.arguments,
            row.pinned.deployment,
            row.pinned.user,
            row.pinned.workspace,
            row.component,
            json(self.path, record)?,
            state_number(row.state),
            row.owner.map(signed),
            row.interrupted,
            row.sent,
            signed(row.created_ms),
            signed(row.touched_ms),
            row.detached,
        ];
        self.execute(insert, values)?;
        Ok(self.connection.last_insert_rowid().unsigned_abs())
    }

    fn put_call(&mut self, row: &CallRow) -> Result<(), StoreError> {
        let update = "UPDATE call SET user = ?2, state = ?3, owner = ?4, interrupted = ?5, sent = ?6, touched_ms = ?7, \
             note = ?8, detached = ?9 WHERE id = ?1";
        let values = params![
            signed(row.id),
            row.pinned.user,
            state_number(row.state),
            row.owner.map(signed),
            row.interrupted,
            row.sent,
            signed(row.touched_ms),
            row.note,
            row.detached,
        ];
        self.execute(update, values).map(drop)
    }

    fn put_progress(&mut self, row: &CallRow) -> Result<(), StoreError> {
        // A column that is set is written in all its indices, changed or not.
        let update = "UPDATE call SET user = ?2, sent = ?3, touched_ms = ?4 WHERE id = ?1";
        self.execute(update, params![signed(row.id), row.pinned.user, row.sent, signed(row.touched_ms)])
            .map(drop)
    }

    fn end_call(&mut self, id: CallId, outcome: &Outcome, at_ms: u64) -> Result<(), StoreError> {
        let update = "UPDATE call SET state = 2, owner = NULL, outcome = ?2, ended_ms = ?3, touched_ms = ?3 WHERE id = ?1";
        self.execute(update, params![signed(id), json(self.path, outcome)?, signed(at_ms)]).map(drop)
    }

    fn reassign_calls(&mut self, from: Option<HostId>, to: &HostRow) -> Result<usize, StoreError> {
        self.execute(REASSIGN, params![from.map(signed), signed(to.id), to.deployment, to.user])
    }

    fn remove_call(&mut self, id: CallId) -> Result<(), StoreError> {
        self.execute("DELETE FROM entry WHERE call = ?1", [signed(id)])?;
        self.execute("DELETE FROM call WHERE id = ?1", [signed(id)]).map(drop)
    }

    fn remove_unneeded(&mut self, before_ms: u64) -> Result<(), StoreError> {
        self.execute("DELETE FROM own_build WHERE at_ms < ?1", [signed(before_ms)])?;
        self.execute("DELETE FROM restart_verdict WHERE at_ms < ?1", [signed(before_ms)])?;
        self.execute(UNNAMED, []).map(drop)
    }

    fn put_entry(&mut self, call: CallId, index: usize, entry: &Entry) -> Result<(), StoreError> {
        let Entry { request, answer, observed, asked: Asked { asked_ms, intent }, answered_ms } = entry;
        let intent = intent.as_ref().map(|intent| json(self.path, intent)).transpose()?;
        let insert = "REPLACE INTO entry (call, idx, format, function, class, request, intent, asked_ms, answer, \
             observed_ms, answered_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let values = params![
            signed(call),
            position(index),
            FORMAT,
            request.function(),
            class_name(request),
            json(self.path, request)?,
            intent,
            signed(*asked_ms),
            json(self.path, answer)?,
            observed.map(signed),
            signed(*answered_ms),
        ];
        self.execute(insert, values).map(drop)
    }

    fn put_open(&mut self, call: CallId, index: usize, open: &Open) -> Result<(), StoreError> {
        let Open { request, intent, asked_ms } = open;
        let insert = "REPLACE INTO entry (call, idx, format, function, class, request, intent, asked_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let values = params![
            signed(call),
            position(index),
            FORMAT,
            request.function(),
            class_name(request),
            json(self.path, request)?,
            json(self.path, intent)?,
            signed(*asked_ms),
        ];
        self.execute(insert, values).map(drop)
    }

    fn truncate(&mut self, call: CallId, from: usize) -> Result<(), StoreError> {
        let delete = "DELETE FROM entry WHERE call = ?1 AND idx >= ?2";
        self.execute(delete, params![signed(call), position(from)]).map(drop)
    }

    fn put_component(&mut self, hash: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let replace = "REPLACE INTO component (hash, bytes) VALUES (?1, ?2)";
        self.execute(replace, params![hash, bytes]).map(drop)
    }
}

/// An entry as it lies in the file.
struct StoredEntry {
    request: String,
    intent: Option<String>,
    asked_ms: u64,
    answer: Option<String>,
    observed: Option<u64>,
    answered_ms: u64,
    format: u32,
}

impl StoredEntry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            request: row.get(0)?,
            intent: row.get(1)?,
            asked_ms: time(row, 2)?,
            answer: row.get(3)?,
            observed: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
            answered_ms: row.get::<_, Option<i64>>(5)?.unwrap_or_default().unsigned_abs(),
            format: row.get(6)?,
        })
    }

    fn put(self, entries: &mut Vec<Entry>, open: &mut Option<Open>) -> serde_json::Result<()> {
        if self.format > FORMAT {
            let text = format!("it has format {}, this program reads formats up to {FORMAT}", self.format);
            return Err(serde::de::Error::custom(text));
        }
        let request = serde_json::from_str(&self.request)?;
        let intent = self.intent.map(|intent| serde_json::from_str(&intent)).transpose()?;
        match (self.answer, intent) {
            (Some(answer), intent) => entries.push(Entry {
                request,
                answer: serde_json::from_str(&answer)?,
                observed: self.observed,
                asked: Asked { asked_ms: self.asked_ms, intent },
                answered_ms: self.answered_ms,
            }),
            (None, Some(intent)) => *open = Some(Open { request, intent, asked_ms: self.asked_ms }),
            (None, None) => return Err(serde::de::Error::custom("an entry has neither answer nor intent")),
        }
        Ok(())
    }
}

fn chat(row: &Row<'_>) -> rusqlite::Result<ChatRecord> {
    let time = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(i64::unsigned_abs));
    Ok(ChatRecord {
        name: row.get(0)?,
        workspace: row.get(1)?,
        build: row.get(2)?,
        agent: row.get(3)?,
        failures: Failures {
            timeouts: row.get(4)?,
            build: row.get(5)?,
            away: row.get(6)?,
            last_ms: time(7)?,
            last_away_ms: time(8)?,
        },
    })
}

fn host(row: &Row<'_>) -> rusqlite::Result<HostRow> {
    Ok(HostRow {
        id: time(row, 0)?,
        deployment: row.get(1)?,
        user: row.get(2)?,
        lease_until_ms: time(row, 3)?,
    })
}

fn call(row: &Row<'_>) -> rusqlite::Result<CallRow> {
    Ok(CallRow {
        id: time(row, 0)?,
        tool: row.get(1)?,
        arguments: row.get(2)?,
        chat: row.get(3)?,
        pinned: Pinned { deployment: row.get(4)?, user: row.get(5)?, workspace: row.get(6)? },
        component: row.get(7)?,
        state: match row.get(8)? {
            0 => CallState::Queued,
            1 => CallState::Active,
            2 => CallState::Ended,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(8, other)),
        },
        owner: row.get::<_, Option<i64>>(9)?.map(i64::unsigned_abs),
        interrupted: row.get(10)?,
        sent: row.get(11)?,
        created_ms: time(row, 12)?,
        touched_ms: time(row, 13)?,
        note: row.get(14)?,
        detached: row.get(15)?,
    })
}

fn state_number(state: CallState) -> i64 {
    match state {
        CallState::Queued => 0,
        CallState::Active => 1,
        CallState::Ended => 2,
    }
}

fn class_name(request: &Request) -> &'static str {
    match request.effect_class() {
        EffectClass::Read => "read",
        EffectClass::Wait => "wait",
        EffectClass::IdempotentWrite => "idempotent-write",
        EffectClass::Effect => "effect",
    }
}

/// SQLite has no unsigned numbers; times reach the limit in the year 292 million.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn position(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}

fn json(path: &str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Unusable { path: path.to_owned(), reason: error.to_string() })
}

fn unreadable(call: CallId, error: &serde_json::Error) -> StoreError {
    StoreError::Unreadable { call, reason: error.to_string() }
}
