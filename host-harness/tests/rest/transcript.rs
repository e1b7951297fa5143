//! The recordings, as answers that a server can give.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::replay::{Frame, Kind, Reply, What};

/// Headers that belong to the connection rather than to the answer.
const OF_THE_CONNECTION: [&str; 5] =
    ["connection", "upgrade", "sec-websocket-accept", "content-length", "content-type"];

/// A recording.
#[derive(Clone)]
pub struct Transcript {
    pub exchanges: Vec<Value>,
    /// The last whole body of each workspace, before each exchange.
    whole: HashMap<String, Vec<(usize, Value)>>,
}

impl Transcript {
    pub fn load(file: &str) -> Self {
        let path = format!("{}/tests/transcripts/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let recording: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let exchanges = recording["exchanges"].as_array().unwrap().clone();
        let mut whole: HashMap<String, Vec<_>> = HashMap::new();
        for (index, exchange) in exchanges.iter().enumerate() {
            let body = &exchange["response"]["body"];
            if is_workspace_read(exchange) && body["latest_build"].is_object() {
                whole.entry(path_of(exchange).to_owned()).or_default().push((index, body.clone()));
            }
        }
        Self { exchanges, whole }
    }

    /// The names of all recordings.
    pub fn names() -> Vec<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
        let files =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            files.filter_map(|file| file.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// When the request was made, in seconds.
    pub fn at(&self, index: usize) -> f64 {
        self.exchanges[index]["t"].as_f64().unwrap()
    }

    /// The answer in an exchange; of a terminal, the answer to its handshake and what then came.
    pub fn reply(&self, index: usize) -> Reply {
        let exchange = &self.exchanges[index];
        let answer = exchange.get("response").unwrap_or(&exchange["handshake"]);
        if answer.get("transport_error").is_some() {
            return Reply::hang_up();
        }
        let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap();
        let mut reply = Reply::json(status, answer["body"].clone());
        for (name, value) in answer["headers"].as_object().into_iter().flatten() {
            if !OF_THE_CONNECTION.contains(&name.to_lowercase().as_str()) {
                reply = reply.header(name, value.as_str().unwrap());
            }
        }
        if let Some(title) = answer["body_excerpt"]["title"].as_str() {
            reply.body = serde_json::json!({ "_text": format!("<!doctype html><title>{title}</title>") });
        } else if let Some(excerpt) = answer.get("body_excerpt") {
            reply.body = self.completed(index, excerpt);
        } else if let Some(excerpt) = answer.get("build_excerpt") {
            reply.body = excerpt.clone();
        } else if status == 101 {
            reply.kind = Kind::Socket(frames(exchange["frames"].as_array().unwrap_or(&Vec::new())));
        }
        reply
    }

    /// The whole body of a poll, of which the recording keeps the status fields: the last whole one before it (or the
    /// first one after it, or that of any workspace) with these fields.
    fn completed(&self, index: usize, excerpt: &Value) -> Value {
        let path = path_of(&self.exchanges[index]);
        let whole = self.whole.get(path).map(Vec::as_slice).unwrap_or_default();
        let before = whole.iter().rev().find(|(at, _)| *at < index);
        let mut body = match before.or(whole.first()) {
            Some((_, body)) => body.clone(),
            None => any_workspace(path),
        };
        let build = &mut body["latest_build"];
        build["id"] = excerpt["latest_build.id"].clone();
        build["status"] = excerpt["latest_build.status"].clone();
        build["transition"] = excerpt["latest_build.transition"].clone();
        build["job"]["status"] = excerpt["latest_build.job.status"].clone();
        let mut kept = agents(&body);
        let new: Vec<Value> =
            excerpt["agents"].as_array().unwrap().iter().map(|agent| complete(agent, &mut kept)).collect();
        let resources = body["latest_build"]["resources"].as_array_mut().unwrap();
        if resources.is_empty() && !new.is_empty() {
            resources.push(Value::Object(Map::new()));
        }
        let holder = resources.iter().position(|resource| resource["agents"].is_array()).unwrap_or(0);
        for (at, resource) in resources.iter_mut().enumerate() {
            resource.as_object_mut().unwrap().remove("agents");
            if at == holder && !new.is_empty() {
                resource["agents"] = Value::Array(new.clone());
            }
        }
        body["health"] = excerpt["health"].clone();
        body
    }
}

/// The answer in the exchange of that index in a recording.
pub fn recorded(file: &str, index: usize) -> Reply {
    Transcript::load(file).reply(index)
}

/// What a real server sent on the websocket that a workspace is watched by.
pub fn recorded_watch() -> Vec<What> {
    let sent = Transcript::load("11-watch-events").exchanges;
    let sent = sent.iter().filter(|exchange| exchange["event"] == "watch-ws: message");
    // Of most messages the recording keeps the kind only.
    let messages = sent.map(|sent| match &sent["message"] {
        Value::Null => serde_json::json!({ "type": sent["message_type"], "data": {} }),
        message => message.clone(),
    });
    messages.map(|message| What::Text(message.to_string())).collect()
}

pub fn path_of(exchange: &Value) -> &str {
    exchange["request"]["path"].as_str().unwrap_or_default()
}

/// A read of a workspace by its id.
pub fn is_workspace_read(exchange: &Value) -> bool {
    let path = path_of(exchange).strip_prefix("/api/v2/workspaces/").unwrap_or_default();
    exchange["request"]["method"] == "GET"
        && !path.is_empty()
        && !path.contains('/')
        && exchange["request"]["query"].is_null()
}

/// The agents in a workspace's JSON.
pub fn agents(workspace: &Value) -> Vec<Value> {
    let resources = workspace["latest_build"]["resources"].as_array().into_iter().flatten();
    resources.filter_map(|resource| resource["agents"].as_array()).flatten().cloned().collect()
}

/// A workspace that was read before everything else that was recorded.
fn any_workspace(path: &str) -> Value {
    let mut body = Transcript::load("01-setup-create-workspace").exchanges[21]["response"]["body"].clone();
    body["id"] = path.rsplit('/').next().into();
    body
}

/// An agent's status fields, with all else that is known of it.
fn complete(excerpt: &Value, known: &mut Vec<Value>) -> Value {
    let same = known.iter().position(|agent| agent["id"] == excerpt["id"]);
    let mut agent = match same {
        Some(at) => known.remove(at),
        None => serde_json::json!({ "parent_id": null, "created_at": "2026-11-23T04:42:00Z" }),
    };
    let fields = agent.as_object_mut().unwrap();
    // What is absent in the excerpt was absent.
    fields.retain(|key, _| !key.ends_with("_at") || key == "created_at" || key == "updated_at");
    fields.extend(excerpt.as_object().unwrap().clone());
    agent
}

/// What the server did on a terminal's websocket.
fn frames(recorded: &[Value]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut add = |at: &Value, what| {
        frames.push(Frame { at: Duration::from_secs_f64(at.as_f64().unwrap()), what });
    };
    let mut ended = false;
    for frame in recorded {
        let at = &frame["at"];
        if let Some(text) = frame["text"].as_str() {
            add(at, What::Binary(text.to_owned()));
        } else if frame.get("server_ping").is_some() {
            add(at, What::Ping);
        } else if let Some(close) = frame.get("server_close") {
            let code = u16::try_from(close["code"].as_u64().unwrap()).unwrap();
            add(at, What::Close(code, close["reason"].as_str().unwrap().to_owned()));
            ended = true;
        } else if frame.get("socket").is_some() {
            ended = true;
        }
    }
    if !ended {
        add(&Value::from(0), What::Nothing);
    }
    frames
}
