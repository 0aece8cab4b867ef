//! `conduit admin`: commands for the running server.

use std::io::Write;

use conduit::{
    admin::{self, socket},
    config::Config,
};

use super::Failure;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: admin::Command,
}

/// Prints the server's answer.
pub(super) fn run(arguments: &Arguments, (config, _): (Config, Vec<String>)) -> Result<(), Failure> {
    let answer = socket::ask(&config.database_path, &arguments.command, arguments.json);
    let answer = answer.map_err(|message| Failure { status: 1, message })?;
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}
