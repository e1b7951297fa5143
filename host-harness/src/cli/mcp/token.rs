//! The file with the token that clients over HTTP have to show.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use tempfile::NamedTempFile;

/// Characters that a user's own token needs at least: 128 bits, if they are hexadecimal and from chance.
const SHORTEST_TOKEN: usize = 32;
/// Bytes of a token that is made.
const TOKEN_BYTES: usize = 32;

/// The token in a file, which is made if it is missing. The path is absolute.
pub fn token(file: &Path) -> anyhow::Result<String> {
    if let Some(token) = read(file)? {
        return Ok(token);
    }
    make(file)?;
    // If another server was quicker, it is that one's.
    read(file)?.with_context(|| format!("the token file {} was removed just now: try again", file.display()))
}

/// None: there is no such file.
fn read(file: &Path) -> anyhow::Result<Option<String>> {
    let cannot = || format!("cannot use the token file {}", file.display());
    match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            bail!("others can read the token file {0}: `chmod 600 {0}`", file.display());
        }
        Err(error) => return Err(error).with_context(cannot),
        Ok(_) => {}
    }
    let bytes = std::fs::read(file).with_context(cannot)?;
    let token = bytes.trim_ascii();
    // Else no client could send it.
    let token = str::from_utf8(token).ok().filter(|token| token.chars().all(|c| c.is_ascii_graphic()));
    let token = token.with_context(|| {
        format!(
            "the token in {} has characters that no client can send: letters, digits and signs of ASCII are possible, and \
             no blanks in between",
            file.display()
        )
    })?;
    if token.len() < SHORTEST_TOKEN {
        bail!(
            "the token in {} has {} characters, and could be guessed: it needs {SHORTEST_TOKEN}; without the file a good \
             one is made",
            file.display(),
            token.len()
        );
    }
    Ok(Some(token.to_owned()))
}

/// Makes the file, unless there is one by now. It is there whole or not at all: others may look for it at any time, and
/// this process may be killed at any time.
fn make(file: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot make the token file {}", file.display());
    let folder = file.parent().with_context(cannot)?;
    if !folder.is_dir() {
        bail!("{}: there is no folder {}; make it, or name another file", cannot(), folder.display());
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Readable for its owner alone.
    let mut whole = NamedTempFile::new_in(folder).with_context(cannot)?;
    writeln!(whole, "{token}").with_context(cannot)?;
    whole.as_file().sync_all().with_context(cannot)?;
    match whole.persist_noclobber(file) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error).with_context(cannot),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn servers_that_start_together_have_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let (servers, together) = (8, Barrier::new(8));
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                together.wait();
                token(&file).unwrap()
            };
            let servers: Vec<_> = (0..servers).map(|_| scope.spawn(start)).collect();
            servers.into_iter().map(|server| server.join().unwrap()).collect()
        });
        assert_eq!(tokens[0].len(), 2 * TOKEN_BYTES);
        assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_token_that_no_client_could_send_or_everybody_could_guess_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let long = "x".repeat(SHORTEST_TOKEN);
        for (written, says) in [
            (String::new(), "has 0 characters"),
            ("x".repeat(SHORTEST_TOKEN - 1), "has 31 characters"),
            (format!("{long}é"), "no client can send"),
            (format!("{long} {long}"), "no client can send"),
            (format!("{long}\n{long}"), "no client can send"),
        ] {
            std::fs::write(&file, &written).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            let refused = token(&file).unwrap_err().to_string();
            assert!(refused.contains(says) && refused.contains("token"), "{written:?}: {refused}");
        }
        std::fs::write(&file, format!("\n {long}\r\n")).unwrap();
        assert_eq!(token(&file).unwrap(), long);
    }
}
