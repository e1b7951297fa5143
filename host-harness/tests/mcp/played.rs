//! What the tests of the decision table's rows share: a workspace, and an agent that does what the messages say.

use serde_json::{Value, json};
use workspace_recovery::bindings::Transition;
use workspace_recovery::local::{AgentSpec, VersionSpec};

use crate::agent::{Agent, data, is_error};
use crate::follower::{Followed, follow};
use crate::world::World;

/// Ends every message that is for the user, where no tool asks.
pub const ASKS: &str = "ask what to do";

/// A workspace, and an agent that works in it.
pub struct Played {
    pub world: World,
    pub agent: Agent,
}

impl Played {
    pub async fn new(version: VersionSpec) -> Self {
        Self::in_world(World::with_a_workspace_of(version).await).await
    }

    pub async fn with_agents(agents: Vec<AgentSpec>) -> Self {
        Self::new(VersionSpec { agents, ..VersionSpec::default() }).await
    }

    pub async fn in_world(world: World) -> Self {
        let agent = Agent::start(&world, &["--workspace", "dev"]).await;
        // Binds the chat: the requests after this are those of the dials and the verdicts.
        assert!(!is_error(&agent.call("workspace_status", json!({})).await));
        Self { world, agent }
    }

    /// Follows the messages to a command that has run.
    pub async fn brought_back_by(self, called: &[&str], transitions: &[Transition]) {
        let followed = follow(&self.agent, "echo back").await;
        assert!(followed.ran && followed.last == "back\n", "{followed:?}");
        assert_eq!(followed.called, called);
        assert_eq!(self.world.transitions().await, transitions);
        self.end().await;
    }

    /// Follows the messages to one that is for the user, and says so; nothing was started or stopped.
    pub async fn left_to_the_user_after(self, calls: usize, says: &[&str]) {
        self.gives_up_after(calls, says).await;
        self.end().await;
    }

    /// Follows the messages to one that says so and names nothing more to do; nothing was started or stopped.
    pub async fn gives_up_after(&self, calls: usize, says: &[&str]) {
        let before = self.world.transitions().await;
        let followed = follow(&self.agent, "true").await;
        let Followed { called, last, ran } = &followed;
        assert!(!ran && called.len() == calls && called.iter().all(|tool| tool == "execute"), "{followed:?}");
        for part in says {
            assert!(last.contains(part), "{part}: {last}");
        }
        assert_eq!(self.world.transitions().await, before);
    }

    /// The verdict on the next command.
    pub async fn verdict(&self) -> Value {
        let result = self.agent.call("execute", json!({ "command": "true" })).await;
        assert!(is_error(&result), "{result:?}");
        data(&result)["verdict"].clone()
    }

    pub async fn end(self) {
        assert_eq!(self.agent.close().await, Some(0));
        self.world.end().await;
    }
}

pub fn agent(name: &str) -> AgentSpec {
    AgentSpec { name: name.to_owned(), ..AgentSpec::default() }
}
