//! A model that does nothing but follow the messages: it knows the tools' names from their list, and nothing else.

use serde_json::{Value, json};

use crate::agent::{Agent, data, is_error, text};

/// No recovery takes more steps: whoever needs more goes in circles.
const MOST_STEPS: usize = 12;

/// What came of following the messages.
#[derive(Debug)]
pub struct Followed {
    /// The tools that were called, in order.
    pub called: Vec<String>,
    /// What was read last.
    pub last: String,
    /// The command ran.
    pub ran: bool,
}

/// Runs a command, and does what the errors say until it has run, or until the message is for the user.
pub async fn follow(agent: &Agent, command: &str) -> Followed {
    let tools = agent.peer().list_all_tools().await.unwrap();
    let tools: Vec<_> = tools.into_iter().map(|tool| tool.name.into_owned()).collect();
    let mut called = Vec::new();
    for _ in 0..MOST_STEPS {
        called.push("execute".to_owned());
        let result = agent.call("execute", json!({ "command": command })).await;
        let last = text(&result);
        if !is_error(&result) {
            return Followed { called, last, ran: true };
        }
        let named = named(&last, &tools);
        if let Some(verdict) = data(&result).get("verdict") {
            assert_eq!(verdict["tools"], json!(named), "{last}");
        }
        for tool in named {
            let result = agent.call(&tool, arguments(&last)).await;
            assert!(!is_error(&result), "{tool}: {}", text(&result));
            called.push(tool);
            if data(&result).get("error").is_some() {
                // It did not work out: that is for the user.
                return Followed { called, last: text(&result), ran: false };
            }
        }
        if !last.contains("the same call") {
            return Followed { called, last, ran: false };
        }
    }
    panic!("it goes in circles: {called:?}");
}

/// The tools that a text names, in the order in which it names them. It names none that there is not.
fn named(text: &str, tools: &[String]) -> Vec<String> {
    // What is in backquotes are arguments.
    let words = text.split('`').step_by(2);
    let words = words.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let mut named: Vec<String> = Vec::new();
    for word in words {
        let is_tool = tools.iter().any(|tool| tool == word);
        assert!(is_tool || !word.contains('_'), "there is no tool {word}: {text}");
        if is_tool && !named.iter().any(|tool| tool == word) {
            named.push(word.to_owned());
        }
    }
    named
}

/// The arguments that a text gives: `name: true` in backquotes.
fn arguments(text: &str) -> Value {
    let given = text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once(": "));
    let given =
        given.filter_map(|(name, value)| Some((name.to_owned(), serde_json::from_str::<Value>(value).ok()?)));
    Value::Object(given.collect())
}
