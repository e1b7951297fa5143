//! Why a server could not be made or could not go on.

use crate::chat::BindError;
use crate::driver::DriveError;
use crate::engine::PluginError;

/// Why a server could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The plugin could not be compiled.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The workspace that it was started for could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The plugin's tools could not be listed.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// A tool of the plugin cannot be told to a client.
    #[error("the plugin's tool {tool} has a schema that no client can be told: {reason}")]
    Schema {
        /// Its name.
        tool: String,
        /// What is wrong.
        reason: String,
    },
    /// The plugin has a tool of a name that the host's own tools have.
    #[error("the plugin's tool {0} has the name of one of the host's own tools")]
    NameTaken(String),
    /// The transport failed.
    #[error("the connection to the client failed: {0}")]
    Transport(String),
}
