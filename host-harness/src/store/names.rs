//! Which names chats and requests may have, where people or clients choose them.

/// Longer names are mistakes, not use.
const NAME_BYTES: usize = 200;

/// Why a chat or a request cannot have a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("a name is not empty")]
    Empty,
    /// It would break the tables and sentences that it is printed in.
    #[error("a name is one line, without control characters")]
    Control,
    /// It is too long.
    #[error("a name has at most {NAME_BYTES} bytes, and this one has {0}")]
    TooLong(usize),
}

/// Whether a chat or a request may have this name. It is kept, and printed in tables and sentences.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.chars().any(char::is_control) {
        Err(NameError::Control)
    } else if name.len() > NAME_BYTES {
        Err(NameError::TooLong(name.len()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_of_some_length() {
        for name in ["talk", "mcp me/dev", "über uns", &"a".repeat(NAME_BYTES)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name("a\nb"), Err(NameError::Control));
        assert_eq!(check_name(&"a".repeat(NAME_BYTES + 1)), Err(NameError::TooLong(NAME_BYTES + 1)));
    }
}
