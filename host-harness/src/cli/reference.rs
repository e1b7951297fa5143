//! `completions` and `man`: what is made from the definition of the command line itself.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::exit::Exit;
use super::output::write;

pub fn completions(shell: Shell) -> anyhow::Result<Exit> {
    let (mut command, mut script) = (Cli::command(), Vec::new());
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    write(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

/// Prints the program's own page, or writes all pages into a folder.
pub fn man(folder: Option<&Path>) -> anyhow::Result<Exit> {
    let command = Cli::command();
    match folder {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            write(&String::from_utf8(page)?)?;
        }
        Some(folder) => {
            let cannot = || format!("cannot write the manual pages into {}", folder.display());
            std::fs::create_dir_all(folder).with_context(cannot)?;
            clap_mangen::generate_to(command, folder).with_context(cannot)?;
        }
    }
    Ok(Exit::Done)
}
