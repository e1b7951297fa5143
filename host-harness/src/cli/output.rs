//! What is printed: results on standard output, progress on standard error.
//!
//! Much of it comes from a control plane or a workspace, so that all text goes through [`sanitize`] on its way.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::control_plane::LogLine;
use crate::describe::describe_log;
use crate::sanitize::sanitize;

/// How often the spinner turns.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints a result: as one line of JSON, or as the text made by `text`.
    pub fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        if self.json {
            return data(&serde_json::to_string(value)?);
        }
        write(&sanitize(&text(value)))
    }
}

/// Prints lines of JSON. Their strings stay what they are: what a terminal would obey is written as JSON's escapes.
pub fn data(lines: &str) -> anyhow::Result<()> {
    write(&escaped(lines))
}

/// Prints text of this program's own, as it is.
pub fn write(shown: &str) -> anyhow::Result<()> {
    let end = if shown.is_empty() || shown.ends_with('\n') { "" } else { "\n" };
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{shown}{end}").and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough, as `head` has.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the result cannot be written to standard output"),
    }
}

/// JSON itself leaves only the control characters below the blank out of strings.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}' => escaped += &format!("\\u{:04x}", u32::from(character)),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Prints a line that nobody needs to see: a reader who has gone away is no reason to stop.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", sanitize(text));
}

/// As [`line`], on standard error.
pub fn notice(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", sanitize(line));
}

/// Tells a person who waits what is going on: a spinner with the newest state and log lines above it on a terminal,
/// plain lines otherwise.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub fn new() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(SPINNER_TICK);
            bar
        });
        Self { spinner, last: String::new() }
    }

    /// What is being waited for now.
    pub fn status(&mut self, text: impl Into<String>) {
        let text = sanitize(&text.into());
        if text == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.clone()),
            None => notice(&text),
        }
        self.last = text;
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(sanitize(text)),
            None => notice(text),
        }
    }

    /// A line of a build's log. All of it has the mark of one, so that it cannot be taken for a line of this program.
    pub fn log(&self, line: &LogLine) {
        let text = sanitize(&describe_log(line)).replace('\n', "\n  | ");
        self.line(&format!("  | {text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Rows as columns that line up, with a heading. Each row is one line, whatever is in its cells.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |cell: &String| sanitize(cell).replace(['\n', '\t'], " ");
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    std::iter::once(&heading).chain(&rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_table_line_up_and_lines_have_no_blanks_at_their_end() {
        let rows = vec![
            vec!["dev".to_owned(), "running".to_owned()],
            vec!["a-longer-name".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "STATUS"], &rows),
            "NAME           STATUS\ndev            running\na-longer-name\n"
        );
    }

    #[test]
    fn a_row_is_one_line_whatever_its_cells_hold() {
        let rows = vec![vec!["\x1b[31mdev".to_owned(), "failed\nnot\tgood".to_owned()]];
        assert_eq!(table(&["NAME", "STATUS"], &rows), "NAME  STATUS\ndev   failed not good\n");
    }

    #[test]
    fn data_stays_what_it_is_without_anything_that_a_terminal_obeys() {
        let value = "\u{9b}31m\x1b[31m\x7f \u{e4}";
        let shown = escaped(&serde_json::to_string(value).unwrap());
        assert_eq!(shown, "\"\\u009b31m\\u001b[31m\\u007f \u{e4}\"");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
    }
}
