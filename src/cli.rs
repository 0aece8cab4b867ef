//! The command line. Each command is one file; without a command the server runs, since that is how service managers
//! call it.
//!
//! A command fails with one line on standard error and a status from sysexits.h: 78 if the configuration is wrong.

mod admin;
mod check;
mod config;
mod rotate_key;
mod serve;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use conduit::{
    config::{Config, ConfigError},
    error::Error,
};

/// A Matrix homeserver in one light binary.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file, in place of the one named in the environment variable CONDUIT_CONFIG
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server; this is what happens without a command
    Serve,
    /// Give the running server a command
    Admin(admin::Arguments),
    /// Check the database of a server that is stopped
    Check,
    /// Make a new signing key for a server that is stopped, in place of one that may have been stolen
    RotateKey,
    /// Show the configuration that is in effect, without secrets
    Config(config::Arguments),
}

/// Why a command did not do its work.
struct Failure {
    status: u8,
    message: String,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        const EX_CONFIG: u8 = 78;
        Self { status: EX_CONFIG, message: error.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { status: 1, message: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { status: 1, message: error.to_string() }
    }
}

/// Runs the command that the arguments of this process ask for.
pub(crate) fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let result = match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(Box::new(move || read_config(config.clone()))),
        Command::Admin(arguments) => load(config).and_then(|loaded| admin::run(arguments, loaded)),
        Command::Check => load(config).and_then(check::run),
        Command::RotateKey => load(config).and_then(rotate_key::run),
        Command::Config(arguments) => config::run(&arguments, || load(config)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, message }) => {
            // Nothing can be done about a standard error that is closed.
            writeln!(std::io::stderr(), "conduit: {message}").ok();
            ExitCode::from(status)
        }
    }
}

/// The configuration and what to warn of.
fn load(file: Option<PathBuf>) -> Result<(Config, Vec<String>), Failure> {
    Ok(read_config(file)?)
}

fn read_config(file: Option<PathBuf>) -> Result<(Config, Vec<String>), ConfigError> {
    Config::load(file, environment()?.into_iter())
}

/// The variables of this process that are meant for this server. Other people's variables may hold any bytes.
fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with("conduit_"))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::new(format!("{name}: the value is not valid UTF-8"))),
        })
        .collect()
}
