//! Pages of Markdown: their console blocks, links and headings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A page of the repository.
pub struct Page {
    /// Its path from the repository's root.
    pub name: String,
    text: String,
}

/// A command of a console block.
pub struct Command {
    /// Its line in the page.
    pub at: usize,
    /// What is typed.
    pub line: String,
    /// What it prints, if that is shown.
    pub shows: Option<String>,
}

impl Page {
    pub fn read(name: &str) -> Self {
        Self { name: name.to_owned(), text: std::fs::read_to_string(root().join(name)).unwrap() }
    }

    /// The README and the pages of `docs/`.
    pub fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(root().join("docs")).unwrap();
        let docs = entries.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
        std::iter::once("README.md".to_owned()).chain(docs).map(|name| Self::read(&name)).collect()
    }

    /// The commands of all console blocks that are run, in order.
    pub fn commands(&self) -> Vec<Command> {
        let (mut commands, mut in_console) = (Vec::new(), false);
        for (event, range) in parse(&self.text) {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) => in_console = &*kind == "console",
                Event::End(TagEnd::CodeBlock) => in_console = false,
                Event::Text(text) if in_console => {
                    self.commands_of(&text, self.line(range.start), &mut commands);
                }
                _ => {}
            }
        }
        commands
    }

    /// The text of one block may come in several pieces.
    fn commands_of(&self, block: &str, first: usize, commands: &mut Vec<Command>) {
        for (index, text) in block.lines().enumerate() {
            if let Some(line) = text.strip_prefix("$ ") {
                commands.push(Command { at: first + index, line: line.to_owned(), shows: None });
                continue;
            }
            let Some(command) = commands.last_mut() else {
                panic!("{}:{}: a console block begins with a command", self.name, first + index);
            };
            match (text.strip_prefix("> "), &mut command.shows) {
                (Some(more), None) => command.line += &format!("\n{more}"),
                (_, shows) => *shows.get_or_insert_default() += &format!("{text}\n"),
            }
        }
    }

    /// Where links lead, each with its line.
    pub fn links(&self) -> Vec<(usize, String)> {
        let links = parse(&self.text).filter_map(|(event, range)| match event {
            Event::Start(Tag::Link { dest_url, .. }) => Some((self.line(range.start), dest_url.to_string())),
            _ => None,
        });
        links.collect()
    }

    /// Whether a link of this page leads somewhere. Those to the web are not followed.
    pub fn follow(&self, link: &str, pages: &[Self]) -> Result<(), &'static str> {
        if link.starts_with("https://") || link.starts_with("http://") {
            return Ok(());
        }
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let name = if file.is_empty() { self.name.clone() } else { beside(&self.name, file) };
        if !root().join(&name).exists() {
            return Err("leads to no file of the repository");
        }
        let Some(anchor) = anchor else { return Ok(()) };
        let Some(page) = pages.iter().find(|page| page.name == name) else {
            return Err("leads into a file that is no page");
        };
        if page.anchors().iter().any(|known| known == anchor) { Ok(()) } else { Err("leads to no heading") }
    }

    /// The anchors of the headings, as code hosting sites make them.
    fn anchors(&self) -> Vec<String> {
        let (mut anchors, mut heading, mut seen) = (Vec::new(), None::<String>, BTreeMap::new());
        for (event, _) in parse(&self.text) {
            match (event, &mut heading) {
                (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
                (Event::End(TagEnd::Heading(_)), Some(_)) => {
                    let anchor = slug(&heading.take().unwrap_or_default());
                    let before: &mut usize = seen.entry(anchor.clone()).or_default();
                    anchors.push(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
                    *before += 1;
                }
                (Event::Text(text) | Event::Code(text), Some(heading)) => *heading += &text,
                _ => {}
            }
        }
        anchors
    }

    fn line(&self, offset: usize) -> usize {
        self.text[..offset].lines().count().max(1)
    }
}

fn parse(text: &str) -> impl Iterator<Item = (Event<'_>, std::ops::Range<usize>)> {
    Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter()
}

fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

/// A path that is relative to a page, from the repository's root.
fn beside(page: &str, path: &str) -> String {
    let mut parts: Vec<_> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
