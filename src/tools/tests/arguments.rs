use super::*;
use crate::tools::arguments::{Arguments, ONLY_IF, PARAMETERS};

#[track_caller]
fn rejected(tool: &str, arguments: &str, part: &str) {
    match call(&Fake::new([]), tool, arguments, &policy()) {
        Err(CallError::InvalidArguments(text)) => assert!(text.contains(part), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// What a tool that takes all arguments is given: the condition, and the parameters as `name=value`.
#[track_caller]
fn read(arguments: &str) -> (bool, String) {
    let read = Arguments::parse(arguments, &[ONLY_IF, PARAMETERS]).unwrap();
    let parameters = read.parameters.iter().map(|given| format!("{}={}", given.name, given.value));
    (read.only_if_unreachable, parameters.collect::<Vec<_>>().join(" "))
}

#[test]
fn arguments_have_to_be_an_object() {
    for text in ["[]", "1", "{", "\"x\""] {
        rejected("stop_workspace", text, "JSON object");
    }
}

#[test]
fn an_argument_that_a_tool_does_not_take_is_named() {
    rejected("stop_workspace", r#"{"parameters":{}}"#, "`parameters`");
    rejected("stop_workspace", r#"{"only_if_unreachabel":null}"#, "`only_if_unreachabel`");
    rejected("start_workspace", r#"{"only_if_unreachable":true}"#, "`only_if_unreachable`");
    rejected("restart_workspace", r#"{"workspace_id":"w"}"#, "`workspace_id`");
}

#[test]
fn an_argument_of_the_wrong_type_is_named() {
    for value in [r#""yes""#, "1", "[]", r#""truefalse""#] {
        rejected(
            "restart_workspace",
            &format!(r#"{{"only_if_unreachable":{value}}}"#),
            "`only_if_unreachable`",
        );
    }
    for value in ["7", r#""cpu=2""#, "true", r#"["cpu"]"#, r#"[{"name":"cpu"}]"#, r#"[{"cpu":"2"}]"#] {
        rejected("start_workspace", &format!(r#"{{"parameters":{value}}}"#), "`name` and a `value`");
    }
    for value in [r#"{"cpu":[2]}"#, r#"{"cpu":{}}"#, r#"[{"name":"cpu","value":[2]}]"#] {
        rejected("start_workspace", &format!(r#"{{"parameters":{value}}}"#), "`cpu` has to be a string");
    }
    let twice = r#"{"parameters":[{"name":"cpu","value":"2"},{"name":"cpu","value":"4"}]}"#;
    rejected("start_workspace", twice, "`cpu` twice");
}

#[test]
fn an_optional_argument_without_a_value_is_left_out() {
    for text in ["", " ", "null", "{}"] {
        assert_eq!(read(text), (false, String::new()), "{text:?}");
    }
    for value in ["null", r#""""#, r#"" ""#] {
        let arguments = format!(r#"{{"only_if_unreachable":{value},"parameters":{value}}}"#);
        assert_eq!(read(&arguments), (false, String::new()), "{arguments}");
    }
    for parameters in ["{}", "[]", r#""{}""#, r#"{"cpu":null}"#, r#"[{"name":"cpu","value":null}]"#] {
        assert_eq!(read(&format!(r#"{{"parameters":{parameters}}}"#)).1, "", "{parameters}");
    }
}

#[test]
fn a_value_in_another_type_of_json_is_what_it_obviously_is() {
    for (value, flag) in [(r#""true""#, true), (r#""True ""#, true), (r#""false""#, false), ("true", true)] {
        assert_eq!(read(&format!(r#"{{"only_if_unreachable":{value}}}"#)).0, flag, "{value}");
    }
    for (value, text) in [("4", "4"), ("4.0", "4"), ("0.5", "0.5"), ("true", "true"), (r#""""#, "")] {
        let object = format!(r#"{{"zone":"eu","cpu":{value}}}"#);
        let list = format!(r#"[{{"name":"zone","value":"eu"}},{{"name":"cpu","value":{value}}}]"#);
        for written in [&object, &list, &Value::from(&*object).to_string(), &Value::from(&*list).to_string()]
        {
            let parameters = read(&format!(r#"{{"parameters":{written}}}"#)).1;
            assert_eq!(parameters, format!("cpu={text} zone=eu"), "{written}");
        }
    }
}
