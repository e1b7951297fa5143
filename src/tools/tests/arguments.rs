use super::*;

#[track_caller]
fn rejected(tool: &str, arguments: &str, part: &str) {
    match call(&Fake::new([]), tool, arguments, &policy()) {
        Err(CallError::InvalidArguments(text)) => assert!(text.contains(part), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_have_to_be_an_object() {
    for text in ["[]", "1", "null", "{", "\"x\""] {
        rejected("stop_workspace", text, "JSON object");
    }
}

#[test]
fn an_argument_that_a_tool_does_not_take_is_named() {
    rejected("stop_workspace", r#"{"parameters":{}}"#, "`parameters`");
    rejected("start_workspace", r#"{"only_if_unreachable":true}"#, "`only_if_unreachable`");
    rejected("restart_workspace", r#"{"workspace_id":"w"}"#, "`workspace_id`");
}

#[test]
fn an_argument_of_the_wrong_type_is_named() {
    rejected("restart_workspace", r#"{"only_if_unreachable":"yes"}"#, "`only_if_unreachable`");
    rejected("start_workspace", r#"{"parameters":[]}"#, "`parameters`");
    rejected("start_workspace", r#"{"parameters":{"cpu":2}}"#, "`parameters.cpu`");
}
