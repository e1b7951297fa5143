//! The tools as a model gets to see them.

use crate::contract::Tool;
use crate::tools::names::{RESTART, START, STOP};

/// The tools, always in the same order.
pub fn tools() -> Vec<Tool> {
    vec![
        Tool {
            name: STOP.into(),
            title: "Stop the workspace".into(),
            description: STOP_DESCRIPTION.into(),
            input_schema: schema(&[ONLY_IF]),
            output_schema: object(&[STOP_KEYS, VALIDATIONS]),
            read_only: false,
            destructive: true,
            idempotent: true,
            open_world: true,
        },
        Tool {
            name: START.into(),
            title: "Start the workspace".into(),
            description: START_DESCRIPTION.into(),
            input_schema: schema(&[PARAMETERS]),
            output_schema: object(&[START_KEYS, VALIDATIONS]),
            read_only: false,
            destructive: false,
            idempotent: true,
            open_world: true,
        },
        Tool {
            name: RESTART.into(),
            title: "Restart the workspace".into(),
            description: RESTART_DESCRIPTION.into(),
            input_schema: schema(&[ONLY_IF, PARAMETERS]),
            output_schema: object(&[STOP_ONLY_KEYS, RESTART_ONLY_KEYS, START_KEYS, VALIDATIONS]),
            read_only: false,
            destructive: true,
            idempotent: false,
            open_world: true,
        },
    ]
}

const STOP_DESCRIPTION: &str = "Stops this chat's workspace and waits until it is stopped. A build that is in progress \
is awaited first; a workspace that is stopped already is left as it is. Processes end, commands of other clients included, and unsaved memory is lost; files \
on the workspace's volumes stay, and nothing is deleted. Use it when the user asks for it, or when an error of another \
tool says so.";

const START_DESCRIPTION: &str = "Starts this chat's workspace and waits until its agent can be used. A build that is in \
progress is awaited first; a workspace that is started already is left as it is. If the result has `validations`, ask \
for the values and pass them as `parameters`.";

const RESTART_DESCRIPTION: &str = "Stops this chat's workspace, starts it again and waits until its agent can be used. \
What would refuse the start is looked at before anything is stopped. Processes end, commands of other clients included, and unsaved memory is lost; files on \
the workspace's volumes stay. Use it when the user asks for it, or when an error of another tool says so.";

const ONLY_IF: &str = r#""only_if_unreachable":{"type":"boolean","default":false,"description":"Stop only if a fresh look still shows the agent unreachable. To be set when an error of another tool says so."}"#;

/// A list, and not an object with free names: strict function calling has no such objects, and drops what it cannot
/// tell.
const PARAMETERS: &str = concat!(
    r#""parameters":{"type":"array","items":{"type":"object","properties":{"name":{"type":"string"},"value":{"type":"string"}},"#,
    r#""required":["name","value"],"additionalProperties":false},"description":"Values for parameters of the template."}"#,
);

const VALIDATIONS: &str = r#""validations":{"type":"array","items":{"type":"object","properties":{"detail":{"type":"string"},"field":{"type":"string"}}}}"#;

const STOP_KEYS: &str = concat!(
    r#""build_id":{"type":"string"},"canceled":{"type":"boolean"},"detail":{"type":"string"},"error":{"type":"string"},"#,
    r#""expired":{"type":"boolean"},"interrupted":{"type":"boolean"},"message":{"type":"string"},"#,
    r#""newest_build_id":{"type":"string"},"no_build":{"type":"boolean"},"reason":{"type":"string"},"#,
    r#""rebound":{"type":"boolean"},"#,
    r#""stopped":{"type":"boolean"},"template_id":{"type":"string"},"#,
    r#""workspace_name":{"type":"string"}"#,
);

const START_KEYS: &str = concat!(
    r#""agent_error":{"type":"string"},"#,
    r#""agent_status":{"type":"string","enum":["no_agent","not_ready","selection_error","unreadable"]},"#,
    r#""build_id":{"type":"string"},"canceled":{"type":"boolean"},"detail":{"type":"string"},"error":{"type":"string"},"#,
    r#""error_code":{"type":"string"},"expired":{"type":"boolean"},"interrupted":{"type":"boolean"},"#,
    r#""lifecycle_state":{"type":"string"},"message":{"type":"string"},"newest_build_id":{"type":"string"},"#,
    r#""next_steps":{"type":"array","items":{"type":"string"}},"no_build":{"type":"boolean"},"#,
    r#""quota":{"type":"object","properties":{"budget":{"type":"integer"},"credits_consumed":{"type":"integer"}}},"#,
    r#""rebound":{"type":"boolean"},"started":{"type":"boolean"},"startup_scripts":{"type":"string","#,
    r#""enum":["startup_scripts_failed","startup_scripts_timeout","startup_scripts_unknown"]},"#,
    r#""template_id":{"type":"string"},"title":{"type":"string"},"update_reason":{"type":"string"},"#,
    r#""updated_to_active_version":{"type":"boolean"},"#,
    r#""workspace_name":{"type":"string"}"#,
);

/// What a restart can say of its stop; the rest of a stop's keys are those of a start.
const STOP_ONLY_KEYS: &str = r#""reason":{"type":"string"},"stopped":{"type":"boolean"}"#;

const RESTART_ONLY_KEYS: &str =
    r#""restarted":{"type":"boolean"},"stop_build_id":{"type":"string"},"superseded":{"type":"boolean"}"#;

/// The schema of arguments.
fn schema(properties: &[&str]) -> String {
    let properties = properties.join(",");
    format!(r#"{{"type":"object","properties":{{{properties}}},"additionalProperties":false}}"#)
}

/// The schema of a result. It names the keys; which of them are there depends on how the call ended.
fn object(properties: &[&str]) -> String {
    let properties = properties.join(",");
    format!(r#"{{"type":"object","properties":{{{properties}}}}}"#)
}
