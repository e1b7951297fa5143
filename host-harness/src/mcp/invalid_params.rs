//! Requests that `rmcp` cannot read as what their method says: it takes them for those of a method that it does not
//! know, which would be told to the client as well.

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestMethod, CallToolRequestParams, CallToolResult, CancelTaskMethod, CancelTaskParams,
    ConstString, CustomRequest, CustomResult, ErrorCode, ErrorData, GetTaskMethod, GetTaskParams,
    InitializeRequestParams, InitializeResultMethod, ListToolsRequestMethod, PaginatedRequestParams,
    UpdateTaskMethod, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::tasks::object;
use super::{Server, is_stateless, results};

impl Server {
    /// What is wrong with a request. A model that gives arguments of no use can act on what it is told.
    pub(super) fn explain_invalid_params(
        &self,
        request: &CustomRequest,
        context: &RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method.as_str();
        let params = request.params.clone().unwrap_or_else(|| json!({}));
        let wrong = match method {
            // The newer revisions have no such method.
            InitializeResultMethod::VALUE if !is_stateless(context) => {
                wrong::<InitializeRequestParams>(&params)
            }
            ListToolsRequestMethod::VALUE => wrong::<PaginatedRequestParams>(&params),
            CallToolRequestMethod::VALUE => {
                if let Some(refused) = self.refused_arguments(&params) {
                    return Ok(CustomResult::new(Value::Object(object(&refused))));
                }
                wrong::<CallToolRequestParams>(&params)
            }
            GetTaskMethod::VALUE => wrong::<GetTaskParams>(&params),
            UpdateTaskMethod::VALUE => wrong::<UpdateTaskParams>(&params),
            CancelTaskMethod::VALUE => wrong::<CancelTaskParams>(&params),
            _ => {
                let unknown = format!("there is no method \"{method}\"");
                return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, unknown, None));
            }
        };
        Err(ErrorData::invalid_params(format!("{method}: {wrong}"), None))
    }

    /// What a model is told whose arguments are no object.
    fn refused_arguments(&self, params: &Value) -> Option<CallToolResult> {
        let tool = params["name"].as_str().filter(|tool| self.get_tool(tool).is_some())?;
        let no_object = !matches!(params["arguments"], Value::Null | Value::Object(_));
        no_object.then(|| results::error_result(format!("{tool}: the arguments have to be one JSON object")))
    }
}

fn wrong<P: DeserializeOwned>(params: &Value) -> String {
    match serde_path_to_error::deserialize::<_, P>(params) {
        Ok(_) => "the request cannot be read".to_owned(),
        Err(error) => error.to_string(),
    }
}
