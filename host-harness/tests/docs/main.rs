//! The README and the pages of `docs/`: what their console blocks show is what happens, and their links lead somewhere.
//!
//! A block ```` ```console ```` is run: lines that begin with `$ ` are commands (with `> ` they go on), the lines after
//! a command are what it prints, with `...` for any lines and `[..]` for anything within a line. Where nothing is
//! shown, the command only has to succeed. The blocks of a page are one session, in an empty folder, beside a fresh
//! local control plane; all times are divided by [`session::SHORTENED`]. A block ```` ```console,ignore ```` is not
//! run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod pages;
#[path = "../cli/processes.rs"]
mod processes;
mod session;

use std::collections::BTreeSet;

use pages::Page;
use session::Session;

/// A test for each page, named after it.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        const RUN: &[&str] = &[$($page),*];

        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            run($page).await;
        })*
    };
}

pages! {
    the_readme_shows_what_happens: "README.md",
    the_page_on_agents_shows_what_happens: "docs/agents.md",
    the_page_on_architecture_shows_what_happens: "docs/architecture.md",
    the_page_on_coder_shows_what_happens: "docs/coder.md",
    the_page_on_commands_shows_what_happens: "docs/commands.md",
    the_page_on_contributing_shows_what_happens: "docs/contributing.md",
    the_page_on_durability_shows_what_happens: "docs/durability.md",
    the_page_on_embedding_shows_what_happens: "docs/embedding.md",
    the_page_on_limits_shows_what_happens: "docs/limits.md",
    the_page_on_performance_shows_what_happens: "docs/performance.md",
    the_page_on_plugins_shows_what_happens: "docs/plugin.md",
    the_page_on_simulation_shows_what_happens: "docs/simulation.md",
    the_page_on_tools_shows_what_happens: "docs/tools.md",
    the_page_on_troubleshooting_shows_what_happens: "docs/troubleshooting.md",
    the_page_on_verdicts_shows_what_happens: "docs/verdicts.md",
}

async fn run(page: &str) {
    let commands = Page::read(page).commands();
    if commands.is_empty() {
        return;
    }
    let mut session = Session::begin().await;
    for (index, command) in commands.iter().enumerate() {
        let (shown, code) = session.run(&command.line);
        let place = format!("{page}:{}: $ {}", command.at, command.line);
        if let Some(expected) = &command.shows {
            let [shown, expected] = [&shown, expected].map(|text| snapbox::Data::text(text.as_str()));
            let compared =
                snapbox::Assert::new().normalize_paths(false).try_eq(Some(&place), shown, expected);
            compared.unwrap_or_else(|difference| panic!("{difference}"));
        }
        let code_is_shown = commands.get(index + 1).is_some_and(|next| next.line == "echo $?");
        assert!(code == 0 || code_is_shown, "{place}\nexits with {code}, and says:\n{shown}");
    }
    session.end().await;
}

#[test]
fn every_page_is_run() {
    let all: BTreeSet<_> = Page::all().into_iter().map(|page| page.name).collect();
    assert_eq!(all, RUN.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn every_link_leads_to_a_file_or_a_heading_that_is_there() {
    let pages = Page::all();
    for page in &pages {
        for (at, link) in page.links() {
            if let Err(why) = page.follow(&link, &pages) {
                panic!("{}:{at}: {link} {why}", page.name);
            }
        }
    }
}
