//! Manual pages of a command and its subcommands.

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;

/// `vipctl.1`, `vipctl-status.1` and so on: all that are not hidden.
pub(crate) fn pages(command: &Command, section: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let name = command.get_name().to_owned();
    add(&command, &name, &name, section, &mut pages)?;
    Ok(pages)
}

fn add(
    command: &Command,
    name: &str,
    usage: &str,
    section: &str,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    // A page is named with hyphens, and typed with blanks.
    let page = command.clone().display_name(name.to_owned()).bin_name(usage.to_owned());
    let mut text = Vec::new();
    Man::new(page).section(section).source("vipd").manual("vipd").render(&mut text)?;
    pages.push((format!("{name}.{section}"), text));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let (name, usage) = (format!("{name}-{}", sub.get_name()), format!("{usage} {}", sub.get_name()));
        add(sub, &name, &usage, section, pages)?;
    }
    Ok(())
}
