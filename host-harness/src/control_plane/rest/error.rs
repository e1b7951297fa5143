//! Why a client could not be made.

use std::path::PathBuf;

use super::token_source::TokenError;

/// Why a client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Not a URL of a web server.
    #[error("\"{0}\" is not the URL of a deployment: it should look like https://coder.example.com")]
    Url(String),
    /// The URL has a name or a password in it. It is not shown.
    #[error("the URL has a user name or a password in it: leave them out, the token says who you are")]
    UserInUrl,
    /// Would show the token to everybody on the way.
    #[error(
        "\"{0}\" is not encrypted, and the token would be readable on the way: use https, or allow plain http \
         explicitly"
    )]
    Plain(String),
    /// The token's source gives none.
    #[error(transparent)]
    NoToken(TokenError),
    /// Cannot be sent in a header.
    #[error("the token is empty or has characters that no token has: copy it again")]
    Token,
    /// An additional header cannot be sent. Its value is not shown.
    #[error("the additional header \"{name}\" cannot be sent: {why}")]
    Header {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The file of certificates cannot be read.
    #[error("the file of certificates {} cannot be read: {why}", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The file of certificates holds none.
    #[error("the file {} has no certificate in it: it should be in the PEM format", .0.display())]
    NoCertificate(PathBuf),
    /// The system has no certificates of authorities.
    #[error(
        "this machine has no certificates of authorities, without which no encrypted connection can be trusted: install \
         them (the package is often called ca-certificates), or give a CA file"
    )]
    NoAuthorities,
    /// The system's certificates or sockets cannot be used.
    #[error("cannot make a web client: {0}")]
    Client(String),
}
