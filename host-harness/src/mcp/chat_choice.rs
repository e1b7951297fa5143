//! Which chat the clients of a server work in.

/// Which chat the clients of a server work in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chats {
    /// All of them in this one.
    One(String),
    /// All of them in one that is bound to this workspace (`name`, `owner/name` or an id) when it is first needed: a
    /// control plane that is away then is asked again at the next call.
    Of {
        /// The workspace.
        workspace: String,
        /// The chat. `None`: the one of those who work in the workspace and have not named a chat.
        chat: Option<String>,
    },
    /// Each chooses its workspace with `use_workspace`.
    Chosen,
}
