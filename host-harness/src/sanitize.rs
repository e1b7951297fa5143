//! Text of others, made safe to show.
//!
//! What a command puts out, what a build writes into its log, and every name and error of a control plane may have
//! escape sequences in it. Shown as they are they could colour a terminal, rename it, or hide and forge lines.
//!
//! Terminals, and the libraries that parse as they do, wait for the end of a sequence that has none, and so hide all
//! that follows. Here such a sequence hides nothing, which is why this is not left to one of them.

const ESCAPE: char = '\u{1b}';
const BELL: char = '\u{7}';
/// Ends a string, as `ESC \` does.
const STRING_END: char = '\u{9c}';

/// The text without escape sequences and control characters. Newlines and tabs stay; what a carriage return would
/// overwrite does, too, in a line of its own.
pub(crate) fn sanitize(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(char::is_control) {
        plain.push_str(&rest[..at]);
        let mut characters = rest[at..].chars();
        let control = characters.next();
        rest = characters.as_str();
        match control {
            Some(kept @ ('\n' | '\t')) => plain.push(kept),
            Some('\r') if !rest.starts_with('\n') => plain.push('\n'),
            Some(ESCAPE) => {
                if let Some(kind @ ' '..='~') = characters.next() {
                    rest = after_sequence(kind, characters.as_str());
                }
            }
            // Each is short for an escape and a character of the next but one row.
            Some(short @ '\u{80}'..='\u{9f}') => {
                let kind = u8::try_from(short).map_or(' ', |byte| char::from(byte - 0x40));
                rest = after_sequence(kind, rest);
            }
            _ => {}
        }
    }
    plain.push_str(rest);
    plain
}

/// What follows a sequence, given what follows its beginning. One that does not come to its end hides nothing.
fn after_sequence(kind: char, rest: &str) -> &str {
    match kind {
        '[' => after_final(rest.trim_start_matches(|within| (' '..='?').contains(&within))),
        // Strings: a title, a link, a picture.
        ']' | 'P' | 'X' | '^' | '_' => after_string(rest).unwrap_or(rest),
        // A set of characters is chosen, or the like.
        ' '..='/' => after_final(rest.trim_start_matches(|within| (' '..='/').contains(&within))),
        _ => rest,
    }
}

fn after_final(rest: &str) -> &str {
    rest.strip_prefix(|last| ('0'..='~').contains(&last)).unwrap_or(rest)
}

fn after_string(rest: &str) -> Option<&str> {
    let end = &rest[rest.find(char::is_control)?..];
    end.strip_prefix([BELL, STRING_END]).or_else(|| end.strip_prefix(ESCAPE)?.strip_prefix('\\'))
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn what_only_tells_a_terminal_how_to_show_text_is_left_out() {
        for (raw, shown) in [
            ("\x1b[1;31mred\x1b[0m \x1b[?2004hx\x1b[2J\x1b[3;4H", "red x"),
            ("\x1b]0;title\x07a \x1b]8;;http://x\x1b\\link\x1b]8;;\u{9c}", "a link"),
            ("\x1bPpicture\x1b\\b\x1b_c\x07\x1b^d\x07\x1bXe\x07", "b"),
            ("\x1b(Bset\x1b#8 \x1bcreset\x1b7", "set reset"),
            ("\u{9b}31mred\u{9d}0;title\u{9c}\u{85}", "red"),
            ("bell\x07 back\x08 null\0 delete\x7f", "bell back null delete"),
        ] {
            assert_eq!(sanitize(raw), shown, "{raw:?}");
        }
    }

    #[test]
    fn text_stays_as_it_is() {
        for text in ["", "two\nlines\tand a tab", "\u{e4}\u{df} \u{2713} \u{1f600}"] {
            assert_eq!(sanitize(text), text);
        }
    }

    #[test]
    fn a_carriage_return_hides_nothing() {
        assert_eq!(sanitize("one\r\n10%\r20%\r\n"), "one\n10%\n20%\n");
    }

    #[test]
    fn a_sequence_without_an_end_hides_nothing() {
        for (raw, shown) in [
            ("\x1b]0;a title\nthe next line\x07", "0;a title\nthe next line"),
            ("\x1b]0;to the end", "0;to the end"),
            ("\x1b[31\nnext", "\nnext"),
            ("\x1b[31\u{e4}", "\u{e4}"),
            ("\x1b\x1b[0mtwice", "twice"),
            ("\x1b\nnext", "\nnext"),
            ("\u{e4}\x1b", "\u{e4}"),
        ] {
            assert_eq!(sanitize(raw), shown, "{raw:?}");
        }
    }
}
