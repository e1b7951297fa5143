//! The Coder deployment that a command works on, if it is not the local control plane: its address, whom to trust, and
//! the user's token.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;

use super::paths::absolute;
use crate::control_plane::rest::{RestClient, RestError, RestOptions, TokenError, TokenFile, TokenSource};

mod headers;

/// The variable that the Coder command line reads its token from, too.
const TOKEN_VARIABLE: &str = "CODER_SESSION_TOKEN";
/// The folder in which the Coder command line keeps what `coder login` got, if it is not in its usual place.
const CONFIG_VARIABLE: &str = "CODER_CONFIG_DIR";

/// The variables that the Coder command line reads additional headers from, too.
const HEADER_VARIABLE: &str = "CODER_HEADER";
const HEADER_COMMAND_VARIABLE: &str = "CODER_HEADER_COMMAND";

/// Which deployment, and how it is reached.
#[derive(Clone, Debug, Args)]
pub struct DeploymentArgs {
    /// Work on this Coder deployment instead of the local control plane.
    ///
    /// The token comes from --coder-token-file, else from the variable CODER_SESSION_TOKEN, else from what `coder
    /// login` has kept for this deployment. The chats and calls of each deployment are kept apart.
    #[arg(long, global = true, env = "CODER_URL", value_name = "URL")]
    pub coder_url: Option<String>,

    /// Read the token from this file.
    #[arg(long, global = true, value_name = "FILE")]
    pub coder_token_file: Option<PathBuf>,

    /// Trust the authorities in this PEM file as well as those of the system.
    #[arg(long, global = true, value_name = "FILE")]
    pub coder_ca_file: Option<PathBuf>,

    /// Send this header with each request, for what stands in front of the deployment; may be given several times.
    ///
    /// The variable CODER_HEADER has more of them, separated by commas, and quoted ("...") where one has a comma
    /// itself. Others on this machine can read a command line: the variable and --coder-header-command keep a secret
    /// better.
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    pub coder_header: Vec<Secret>,

    /// Run this command with `sh` for such headers; it prints a line NAME=VALUE for each. Else the variable
    /// CODER_HEADER_COMMAND.
    #[arg(long, global = true, value_name = "COMMAND")]
    pub coder_header_command: Option<Secret>,

    /// Let the token go unencrypted over the network, if the URL begins with http. Everybody on the way can read it.
    #[arg(long, global = true)]
    pub coder_allow_http: bool,
}

/// Something that was typed and is shown nowhere.
#[derive(Clone)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A deployment that was named.
#[derive(Clone)]
pub struct Deployment {
    pub url: String,
    args: DeploymentArgs,
}

impl DeploymentArgs {
    /// The deployment, if one was named.
    pub fn deployment(self) -> Option<Deployment> {
        // An empty variable is as good as none.
        let url = self.coder_url.clone().filter(|url| !url.is_empty())?;
        Some(Deployment { url, args: self })
    }
}

impl Deployment {
    /// A client with the user's token.
    pub fn connect(&self) -> anyhow::Result<RestClient> {
        let options = RestOptions {
            ca_file: self.args.coder_ca_file.clone(),
            allow_plain_http: self.args.coder_allow_http,
            headers: headers::pairs(&self.headers()?)?,
            header_command: self.header_command(),
            ..RestOptions::with_token_of(&self.url, self.token_source())
        };
        RestClient::with_options(&options).map_err(|error| match error {
            RestError::Plain(_) => anyhow!("{error} with --coder-allow-http"),
            error => error.into(),
        })
    }

    /// The name of the folder for what is kept of it: its host, port and path, in characters that every file system
    /// takes.
    pub fn folder(&self) -> String {
        let url = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let url = url.trim_end_matches('/').to_ascii_lowercase();
        url.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' }).collect()
    }

    /// Names the deployment to another process of this program, wherever it is started. The token is in a file or in
    /// the environment.
    pub fn arguments(&self) -> anyhow::Result<Vec<OsString>> {
        let DeploymentArgs { coder_token_file, coder_ca_file, coder_allow_http, .. } = &self.args;
        let mut arguments = vec!["--coder-url".into(), self.url.clone().into()];
        for (name, file) in [("--coder-token-file", coder_token_file), ("--coder-ca-file", coder_ca_file)] {
            if let Some(file) = file {
                arguments.extend([name.into(), absolute(file)?.into()]);
            }
        }
        if *coder_allow_http {
            arguments.push("--coder-allow-http".into());
        }
        Ok(arguments)
    }

    /// What another process of this program needs besides its arguments, as variables: nobody else can read those.
    pub fn variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let headers = self.headers()?;
        let headers = (!headers.is_empty()).then(|| (HEADER_VARIABLE, headers::joined(&headers)));
        let command = self.header_command().map(|command| (HEADER_COMMAND_VARIABLE, command));
        Ok(headers.into_iter().chain(command).collect())
    }

    /// The additional headers: those of the variable, and then those that were typed.
    fn headers(&self) -> anyhow::Result<Vec<String>> {
        let of_variable = variable(HEADER_VARIABLE).map(|text| headers::split(&text)).transpose()?;
        let typed = self.args.coder_header.iter().map(|header| header.0.clone());
        Ok(of_variable.into_iter().flatten().chain(typed).collect())
    }

    fn header_command(&self) -> Option<String> {
        let typed = self.args.coder_header_command.as_ref().map(|command| command.0.clone());
        typed.or_else(|| variable(HEADER_COMMAND_VARIABLE))
    }

    /// The variable that the token comes from, if it does from one: not every process that is started with
    /// [`arguments`](Self::arguments) has it.
    pub fn token_variable(&self) -> Option<&'static str> {
        (self.args.coder_token_file.is_none() && token_of_variable().is_some()).then_some(TOKEN_VARIABLE)
    }

    fn token_source(&self) -> Arc<dyn TokenSource> {
        if let Some(file) = &self.args.coder_token_file {
            return Arc::new(TokenFile(file.clone()));
        }
        match token_of_variable() {
            Some(token) => Arc::new(Variable(token)),
            None => Arc::new(Login { url: self.url.clone(), folder: coder_config() }),
        }
    }
}

/// The token in the variable. Nobody can give this process another one.
struct Variable(String);

impl TokenSource for Variable {
    fn token(&self) -> Result<String, TokenError> {
        Ok(self.0.clone())
    }

    fn renewal(&self) -> String {
        format!(
            "log in again, set `{TOKEN_VARIABLE}` to the new one and start this program again (of a token in a file, or from \
             `coder login`, it notices by itself that there is a new one)"
        )
    }
}

/// What `coder login` has kept, if that was for this deployment.
struct Login {
    url: String,
    folder: Option<PathBuf>,
}

impl TokenSource for Login {
    fn token(&self) -> Result<String, TokenError> {
        let Self { url, folder } = self;
        let logged_in = folder.as_ref().and_then(|folder| std::fs::read_to_string(folder.join("url")).ok());
        match (folder, logged_in.as_deref().map(str::trim)) {
            // A token is for one deployment, and is shown to no other.
            (Some(folder), Some(known)) if same(known, url) => {
                TokenFile(folder.join("session")).token().map_err(|error| {
                    let hint = "`coder login` has left no token that can be read";
                    TokenError(format!("{hint}: set {TOKEN_VARIABLE}, or log in again: {error}"))
                })
            }
            (_, Some(known)) => Err(TokenError(format!(
                "no token for {url}: `coder login` was done for {known}; log in to this deployment, or set \
                 {TOKEN_VARIABLE}"
            ))),
            (_, None) => Err(TokenError(format!(
                "no token for {url}: set {TOKEN_VARIABLE}, name a file with --coder-token-file, or run `coder login {url}`"
            ))),
        }
    }

    fn renewal(&self) -> String {
        format!("log in again with `coder login {}`, whose token is read again then", self.url)
    }
}

/// An empty variable is as good as none.
fn token_of_variable() -> Option<String> {
    variable(TOKEN_VARIABLE)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Whether two addresses are those of one deployment.
fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/').eq_ignore_ascii_case(other.trim_end_matches('/'))
}

/// Where the Coder command line keeps its `url` and `session`.
fn coder_config() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME");
    set(CONFIG_VARIABLE).or_else(|| {
        let config = if cfg!(target_os = "macos") {
            home()?.join("Library/Application Support")
        } else {
            set("XDG_CONFIG_HOME").or_else(|| Some(home()?.join(".config")))?
        };
        Some(config.join("coderv2"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(url: &str) -> String {
        let args = DeploymentArgs {
            coder_url: Some(url.into()),
            coder_token_file: None,
            coder_ca_file: None,
            coder_header: Vec::new(),
            coder_header_command: None,
            coder_allow_http: false,
        };
        args.deployment().unwrap().folder()
    }

    #[test]
    fn each_deployment_has_a_folder_of_its_own_however_its_address_is_written() {
        assert_eq!(folder("https://coder.example.com/"), "coder.example.com");
        assert_eq!(folder("https://Coder.example.com"), "coder.example.com");
        assert_eq!(folder("http://127.0.0.1:3000/base"), "127.0.0.1_3000_base");
        assert_eq!(folder("https://../../etc"), ".._.._etc");
    }
}
