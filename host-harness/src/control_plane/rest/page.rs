//! Answers that are no answers of the API: pages that servers and the proxies in front of them make for people.

/// How much of a page is told, in characters.
const FIRST_WORDS: usize = 80;
/// How far a page is looked through, in bytes: its title comes early.
const LOOKED_THROUGH: usize = 16 << 10;

/// What a page says first, as a part of a sentence: its title, else its first words.
pub(super) fn first_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_THROUGH)]);
    let words = title(&text).unwrap_or_else(|| without_tags(&text));
    let words: Vec<_> =
        words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let words = words.join(" ");
    match words.char_indices().nth(FIRST_WORDS) {
        _ if words.is_empty() => "nothing more".to_owned(),
        Some((cut, _)) => format!("a page that begins \"{}...\"", words[..cut].trim_end()),
        None => format!("a page that says \"{words}\""),
    }
}

fn title(text: &str) -> Option<String> {
    // Of the same length, so that places in it are those in the text.
    let lower = text.to_ascii_lowercase();
    let begin = lower.find("<title")?;
    let begin = begin + lower[begin..].find('>')? + 1;
    let end = begin + lower[begin..].find("</title")?;
    Some(text[begin..end].to_owned()).filter(|title| !title.trim().is_empty())
}

/// The text between tags, without what styles and scripts say.
fn without_tags(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut shown, mut at) = (String::new(), 0);
    while let Some(open) = lower[at..].find('<').map(|open| at + open) {
        shown.push_str(&text[at..open]);
        shown.push(' ');
        let ends = |end: &str| lower[open..].find(end).map(|found| open + found + end.len());
        let closed = match &lower[open..] {
            tag if tag.starts_with("<script") => ends("</script>"),
            tag if tag.starts_with("<style") => ends("</style>"),
            _ => ends(">"),
        };
        let Some(closed) = closed else { return shown };
        at = closed;
    }
    shown.push_str(&text[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::first_words;

    #[test]
    fn a_page_is_told_by_its_title_or_its_first_words_and_never_whole() {
        for (page, told) in [
            (
                "<html><head><TITLE>\n Access\tdenied </title><body>Go away",
                "a page that says \"Access denied\"",
            ),
            (
                "<style>p {}</style><script>x < 1</script><p>Sign <b>in</b></p>",
                "a page that says \"Sign in\"",
            ),
            (
                "Invalid IAP credentials: empty token",
                "a page that says \"Invalid IAP credentials: empty token\"",
            ),
            ("<html><body>", "nothing more"),
            ("<title>İ</title>", "a page that says \"İ\""),
            ("", "nothing more"),
        ] {
            assert_eq!(first_words(page.as_bytes()), told);
        }
        let long = first_words("word \u{1b}[1m ".repeat(5_000).as_bytes());
        assert!(long.len() < 120 && long.ends_with("...\"") && !long.contains('\u{1b}'), "{long}");
        first_words(&[0xff; 40_000]);
    }
}
