//! Errors as the API sends them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

/// What a JSON endpoint answers.
pub(super) type Answer = Result<Json<Value>, Problem>;

/// A refusal: a status and `{"message", "detail"?, "validations"?}`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    pub status: StatusCode,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validations: Vec<FieldProblem>,
}

/// What is wrong with one field.
#[derive(Debug, Serialize)]
pub(super) struct FieldProblem {
    pub field: String,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: None, validations: Vec::new() }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn field(mut self, field: &str, detail: impl Into<String>) -> Self {
        self.validations.push(FieldProblem { field: field.to_owned(), detail: detail.into() });
        self
    }

    /// Absent and hidden are the same to the outside.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "This does not exist, or you may not see it.")
    }

    pub fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "The request is not valid.").field(field, detail)
    }

    pub fn active_build() -> Self {
        let message = "Another build of this workspace is active.";
        Self::new(StatusCode::CONFLICT, message).detail(message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(&self)).into_response()
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The database failed.").detail(error.to_string())
    }
}

/// A well-formed id, as the database spells it.
pub(super) fn id(text: &str) -> Result<String, Problem> {
    uuid::Uuid::parse_str(text).map(|id| id.to_string()).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("\"{text}\" is not a UUID.")).detail(error.to_string())
    })
}

/// A JSON body. Fields that nobody knows are ignored.
pub(super) fn body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "The body is not the JSON that is expected.")
            .detail(error.to_string())
    })
}
