//! The search of the workspace list, by words and `key:value` filters, and the pages of lists.

use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;
use crate::local::model::USER;

/// The filters that are known.
const KEYS: [&str; 6] = ["id", "name", "owner", "status", "template", "dormant"];
/// The values of `status`.
const STATUSES: [&str; 11] = [
    "pending",
    "starting",
    "running",
    "stopping",
    "stopped",
    "failed",
    "canceling",
    "canceled",
    "deleted",
    "deleting",
    "succeeded",
];

/// A parsed search.
#[derive(Debug, Default)]
pub(super) struct Search {
    filters: Vec<(String, String)>,
}

impl Search {
    /// Splits at spaces; a word without a key is part of a name.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let mut search = Self::default();
        for word in query.split_whitespace() {
            let (key, value) = word.split_once(':').unwrap_or(("name", word));
            let (key, value) = (key.to_lowercase(), value.trim_matches('"').to_lowercase());
            if !KEYS.contains(&key.as_str()) {
                return Err(Problem::invalid(&key, "is not a filter of this search"));
            }
            if search.filters.iter().any(|(other, _)| *other == key) {
                return Err(Problem::invalid(&key, "is given more than once"));
            }
            if key == "status" && !STATUSES.contains(&value.as_str()) {
                return Err(Problem::invalid(&key, format!("\"{value}\" is not a status")));
            }
            search.filters.push((key, value));
        }
        Ok(search)
    }

    /// Whether a workspace, as rendered, is among those wanted.
    pub fn matches(&self, workspace: &Value) -> bool {
        let text = |pointer: &str| {
            workspace.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_lowercase()
        };
        self.filters.iter().all(|(key, value)| match key.as_str() {
            "id" => text("/id") == *value,
            "name" => text("/name").contains(value),
            "owner" => value == "me" || value == USER,
            "status" => text("/latest_build/status") == *value,
            "template" => text("/template_name") == *value,
            _ => workspace["dormant_at"].is_string() == (value == "true"),
        })
    }
}

/// Which part of a list is wanted, as it came.
#[derive(Deserialize)]
pub(super) struct Page {
    limit: Option<String>,
    offset: Option<String>,
}

/// Which part of a list is wanted.
pub(super) struct CheckedPage {
    limit: usize,
    offset: usize,
}

impl Page {
    pub fn check(&self) -> Result<CheckedPage, Problem> {
        // A limit of 0 is none.
        let limit = match number("limit", self.limit.as_deref())? {
            0 => usize::MAX,
            limit => limit,
        };
        Ok(CheckedPage { limit, offset: number("offset", self.offset.as_deref())? })
    }
}

impl CheckedPage {
    pub fn of<T>(&self, list: Vec<T>) -> Vec<T> {
        list.into_iter().skip(self.offset).take(self.limit).collect()
    }
}

fn number(field: &str, value: Option<&str>) -> Result<usize, Problem> {
    let Some(value) = value else { return Ok(0) };
    value
        .parse::<u32>()
        .map(|number| number as usize)
        .map_err(|error| Problem::invalid(field, format!("\"{value}\" is not a number from 0 on: {error}")))
}
