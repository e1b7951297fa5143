//! A client for what only the local control plane can do, and for making workspaces on it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::endpoint::Endpoint;
use super::model::{TemplateSpec, VersionSpec};

/// Talks to a local control plane, in this process or another.
#[derive(Clone, Debug)]
pub struct LocalAdmin {
    url: String,
    token: String,
    http: reqwest::Client,
}

/// A signal for an agent process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AgentSignal {
    /// SIGKILL: the agent is gone at once, as if the system had run out of memory.
    Kill,
    /// SIGSTOP: the agent hangs.
    Stop,
    /// SIGCONT: a hung agent goes on.
    Cont,
}

/// The agent that a signal was sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalledAgent {
    /// The agent's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// A template that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTemplate {
    /// Its id.
    pub id: String,
    /// Its first version.
    pub active_version_id: String,
}

/// A workspace that was made, and its first build, which may still run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedWorkspace {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its first build.
    pub build_id: String,
}

/// Why an operation of [`LocalAdmin`] was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The control plane gave no answer that can be understood.
    #[error("the local control plane at {url} did not answer: {error}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What went wrong.
        error: reqwest::Error,
    },
    /// It answered that this cannot be done.
    #[error("{}", with_detail(message, detail.as_deref()))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// One sentence.
        message: String,
        /// More, if there is more.
        detail: Option<String>,
    },
}

fn with_detail(message: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{}: {detail}", message.trim_end_matches('.')),
        None => message.to_owned(),
    }
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
    detail: Option<String>,
    #[serde(default)]
    validations: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    field: String,
    detail: String,
}

#[derive(Deserialize)]
struct WithId {
    id: String,
}

impl LocalAdmin {
    /// A client of the control plane at `endpoint`.
    ///
    /// # Panics
    ///
    /// The HTTP client cannot be set up, which depends on nothing but this program.
    pub fn new(endpoint: &Endpoint) -> Self {
        // Loopback speaks plain HTTP: TLS is configured only because the client insists on a provider.
        let tls =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring supports the default protocol versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(tls)
            .build()
            .expect("an HTTP client with given TLS settings");
        Self { url: endpoint.url.clone(), token: endpoint.token.clone(), http }
    }

    /// Makes a template with its first version.
    ///
    /// # Errors
    ///
    /// The name is taken or empty; or no answer.
    pub async fn create_template(&self, template: &TemplateSpec) -> Result<CreatedTemplate, AdminError> {
        self.send(self.http.post(self.at("/api/local/templates")).json(template)).await
    }

    /// Adds a version to a template, by the template's name or id, and gives the version's id. With `activate` it
    /// becomes the active version.
    ///
    /// # Errors
    ///
    /// No such template; or no answer.
    pub async fn add_version(
        &self,
        template: &str,
        version: &VersionSpec,
        activate: bool,
    ) -> Result<String, AdminError> {
        let path = format!("/api/local/templates/{template}/versions?activate={activate}");
        let added: WithId = self.send(self.http.post(self.at(&path)).json(version)).await?;
        Ok(added.id)
    }

    /// Makes a workspace from a template, by the template's name or id, and begins its first start. Does not wait.
    ///
    /// # Errors
    ///
    /// The name is taken or no good, no such template, a parameter is missing; or no answer.
    pub async fn create_workspace(
        &self,
        name: &str,
        template: &str,
        parameters: &[(String, String)],
    ) -> Result<CreatedWorkspace, AdminError> {
        #[derive(Deserialize)]
        struct Created {
            id: String,
            name: String,
            latest_build: WithId,
        }
        let template: WithId =
            self.send(self.http.get(self.at(&format!("/api/local/templates/{template}")))).await?;
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let body = json!({"name": name, "template_id": template.id, "rich_parameter_values": parameters});
        let created: Created =
            self.send(self.http.post(self.at("/api/v2/users/me/workspaces")).json(&body)).await?;
        Ok(CreatedWorkspace { id: created.id, name: created.name, build_id: created.latest_build.id })
    }

    /// Sends a signal to the agent process of a workspace, by the workspace's name or id. `agent` names one of several
    /// agents; None takes the only one.
    ///
    /// # Errors
    ///
    /// No such workspace or agent, several agents and no name, no process that lives; or no answer.
    pub async fn signal_agent(
        &self,
        workspace: &str,
        agent: Option<&str>,
        signal: AgentSignal,
    ) -> Result<SignalledAgent, AdminError> {
        let path = format!("/api/local/workspaces/{workspace}/signal");
        self.send(self.http.post(self.at(&path)).json(&json!({"signal": signal, "agent": agent}))).await
    }

    /// Sets a workspace aside for want of use, or takes that back. A dormant workspace can be stopped, not started.
    ///
    /// # Errors
    ///
    /// No such workspace (by name or id); or no answer.
    pub async fn set_dormant(&self, workspace: &str, dormant: bool) -> Result<(), AdminError> {
        let path = format!("/api/local/workspaces/{workspace}/dormant");
        self.send::<serde_json::Value>(self.http.put(self.at(&path)).json(&json!({"dormant": dormant})))
            .await?;
        Ok(())
    }

    /// Sets how many builds can run at a time; 0: none. Builds that run go on.
    ///
    /// # Errors
    ///
    /// No answer.
    pub async fn set_provisioners(&self, count: usize) -> Result<(), AdminError> {
        let request = self.http.put(self.at("/api/local/provisioners")).json(&json!({"count": count}));
        self.send::<serde_json::Value>(request).await?;
        Ok(())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, AdminError> {
        let unreachable = |error| AdminError::Unreachable { url: self.url.clone(), error };
        let response =
            request.header("Coder-Session-Token", &self.token).send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map_err(unreachable);
        }
        let Refusal { message, detail, validations } = response.json().await.map_err(unreachable)?;
        let problems = validations.into_iter().map(|Problem { field, detail }| format!("{field}: {detail}"));
        let details: Vec<_> = detail.into_iter().chain(problems).collect();
        let detail = (!details.is_empty()).then(|| details.join("; "));
        Err(AdminError::Refused { status: status.as_u16(), message, detail })
    }
}
