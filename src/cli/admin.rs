//! `conduit admin`: commands for the running server.

use std::io::Write;

use conduit::{
    admin::{self, socket},
    config::Config,
};

use super::Failure;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How the answer is written
    #[arg(long, value_enum, default_value_t)]
    format: admin::Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(subcommand)]
    command: admin::Command,
}

/// Prints the server's answer.
pub(super) fn run(arguments: Arguments, (config, _): (Config, Vec<String>)) -> Result<(), Failure> {
    let format = if arguments.json { admin::Format::Json } else { arguments.format };
    let answer = socket::ask(&config.database_path, arguments.command, format);
    let answer = answer.map_err(|message| Failure { status: 1, message })?;
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}
