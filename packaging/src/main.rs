//! `vipd-manuals OUT`: writes the manual pages and completions of the packages.
//!
//! The commands' pages come from their command lines, those of the
//! configuration files from the documents: nothing is written twice.

use anyhow::{Context, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    let out = std::env::args_os().nth(1).map(PathBuf::from).context("usage: vipd-manuals OUT")?;
    for package in vipd_packaging::packages() {
        let dir = out.join("man").join(package.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, page) in package.pages()? {
            let path = dir.join(name);
            std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        package.complete(&out.join("completions"))?;
    }
    Ok(())
}
