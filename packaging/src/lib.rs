//! What the packages hold beside programs: manual pages and completions, made
//! from the command lines and the documents.

mod command;
mod document;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::fs;
use std::path::Path;

/// A package's commands and files.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its commands, each with the section of its pages.
    pub commands: Vec<(Command, &'static str)>,
    /// Its configuration file.
    pub file: File,
}

/// A configuration file and the document that describes it.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// The name of the page.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// The document, in Markdown.
    pub document: &'static str,
    /// Pages to look at, too.
    pub see_also: &'static [&'static str],
}

/// The packages.
#[must_use]
pub fn packages() -> [Package; 2] {
    [
        Package {
            name: "vipd",
            commands: vec![(vipd::cli::Cli::command(), "8"), (vipd::ctl::args::Cli::command(), "1")],
            file: File {
                name: "vipd.toml",
                about: "configuration of vipd",
                document: include_str!("../../docs/configuration.md"),
                see_also: &["vipd(8)", "vipctl(1)"],
            },
        },
        Package {
            name: "vipd-dnsd",
            commands: vec![(dnsd::cli::Cli::command(), "8")],
            file: File {
                name: "dnsd.toml",
                about: "configuration and behaviour of dnsd",
                document: include_str!("../../docs/dnsd.md"),
                see_also: &["dnsd(8)", "vipd(8)"],
            },
        },
    ]
}

impl Package {
    /// The manual pages: their files' names and contents.
    ///
    /// # Errors
    /// Memory cannot be written to.
    pub fn pages(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut pages = Vec::new();
        for (command, section) in &self.commands {
            pages.extend(command::pages(command, section)?);
        }
        pages.push((format!("{}.5", self.file.name), document::page(&self.file).into_bytes()));
        Ok(pages)
    }

    /// Writes what bash, zsh and fish complete into a directory for each.
    ///
    /// # Errors
    /// The directories cannot be made or written.
    pub fn complete(&self, out: &Path) -> Result<()> {
        for (shell, dir) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let dir = out.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            for (command, _) in &self.commands {
                let name = command.get_name().to_owned();
                let made = clap_complete::generate_to(shell, &mut command.clone(), &name, &dir);
                let made = made.with_context(|| format!("cannot complete {name}"))?;
                if matches!(shell, Shell::Bash) {
                    // bash looks for the bare name.
                    fs::rename(&made, dir.join(&name)).context("cannot rename a completion")?;
                }
            }
        }
        Ok(())
    }
}
