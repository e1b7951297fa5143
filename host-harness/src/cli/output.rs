//! What is printed: results on standard output, progress on standard error.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

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
        let shown = if self.json { serde_json::to_string(value)? } else { text(value) };
        let end = if !shown.ends_with('\n') && (self.json || !shown.is_empty()) { "\n" } else { "" };
        let mut stdout = std::io::stdout().lock();
        match write!(stdout, "{shown}{end}").and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough, as `head` has.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

/// Prints a line that nobody needs to see: a reader who has gone away is no reason to stop.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// As [`tell`], on standard error.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
        let text = text.into();
        if text == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.clone()),
            None => note(&text),
        }
        self.last = text;
    }

    /// A line that stays: of a build's log, for instance.
    pub fn line(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(text),
            None => note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Rows as columns that line up, with a heading.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    std::iter::once(&heading).chain(rows).map(line).collect()
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
}
