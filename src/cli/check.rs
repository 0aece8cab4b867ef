//! `conduit check`: the invariants of the database of a server that is stopped.

use std::io::Write;

use conduit::{check, config::Config, media::files::Files, start};

use super::Failure;

/// Prints what was checked and what is wrong; fails when anything is. Warnings of the configuration are for serving.
pub(super) fn run((config, _): (Config, Vec<String>)) -> Result<(), Failure> {
    let folder = start::database_folder(&config.database_path);
    if !folder.exists() {
        return Err(Failure { status: 1, message: format!("there is no database in {}", folder.display()) });
    }
    let store = start::open_store(&config)?;
    let files = Files::existing(config.media_path());
    let report = check::run(&store.read(), &files)?;
    write!(std::io::stdout(), "{report}")?;
    if report.is_clean() {
        return Ok(());
    }
    let message = format!("the database in {} has faults", folder.display());
    Err(Failure { status: 1, message })
}
