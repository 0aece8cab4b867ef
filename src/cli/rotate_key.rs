//! `conduit rotate-key`: a new signing key for a server that is stopped. Other servers learn of it within a day, and still
//! believe what the old one signed before.

use std::io::Write;

use conduit::{config::Config, start};

use super::Failure;

/// Makes the key and prints its ID.
pub(super) fn run((config, _): (Config, Vec<String>)) -> Result<(), Failure> {
    let folder = start::database_folder(&config.database_path);
    if !folder.exists() {
        return Err(Failure { status: 1, message: format!("there is no database in {}", folder.display()) });
    }
    let id = start::open_store(&config)?.rotate_signing_key()?;
    writeln!(std::io::stdout(), "the server signs with {id} from its next start on")?;
    Ok(())
}
