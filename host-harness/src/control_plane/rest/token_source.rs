//! Where a token comes from.

use std::path::PathBuf;

/// Where a token comes from. It is asked for when a client is made, and again each time that the deployment does not
/// accept the token which it gave before: a client outlives its first token where its source gives a new one.
///
/// A `String` is a source, too: one that never gives another token.
pub trait TokenSource: Send + Sync {
    /// The token as it is now. Spaces and line ends around it do not count. It is asked for between requests, so it
    /// must not take longer than reading a small file.
    fn token(&self) -> Result<String, TokenError>;

    /// How a new token gets here, as the end of a sentence that says that the old one is not accepted.
    fn renewal(&self) -> String;
}

/// Why a source gives no token: a sentence, which must not have the token in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(pub String);

impl TokenSource for String {
    fn token(&self) -> Result<String, TokenError> {
        Ok(self.clone())
    }

    fn renewal(&self) -> String {
        "log in again and use a new one".to_owned()
    }
}

/// A token in a file, which may be written anew at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile(pub PathBuf);

impl TokenSource for TokenFile {
    fn token(&self) -> Result<String, TokenError> {
        let file = self.0.display();
        let text = std::fs::read_to_string(&self.0)
            .map_err(|error| TokenError(format!("cannot read the token from {file}: {error}")))?;
        match text.trim() {
            "" => Err(TokenError(format!("the token file {file} is empty"))),
            token => Ok(token.to_owned()),
        }
    }

    fn renewal(&self) -> String {
        format!("log in again and write the new one into {}, which is read again then", self.0.display())
    }
}
