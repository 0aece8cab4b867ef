//! Commands for administrators: one set, declared once, for the administration room (`room.rs`) and for
//! `conduit admin ...` on the machine itself (`socket.rs`).
//!
//! A command is a value of [`Command`], whichever way it came, and [`Command::run`] gives an [`Answer`], which can be
//! shown as text or as JSON. Who may command is decided by those who take commands: in the room the accounts with the
//! administrator's flag, on the socket whoever may open its file.

mod answer;
mod appservices;
mod federation;
mod keys;
mod media;
mod registration_tokens;
mod reports;
mod rooms;
mod server;
mod users;

pub mod room;
pub mod socket;
pub mod welcome;

use clap::{Parser, Subcommand};
use ruma::UserId;
use serde::{Deserialize, Serialize};

pub use self::answer::{Answer, Format};
use crate::{
    error::{Error, Reason, Result},
    server::Server,
};

/// A command line of the administration room: without a program's name.
#[derive(Parser)]
#[command(name = room::PREFIX, no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What an administrator can do.
#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// Accounts and their devices
    #[command(subcommand)]
    Users(users::Command),
    /// Tokens that people register with
    #[command(subcommand)]
    RegistrationTokens(registration_tokens::Command),
    /// Bridges and other application services
    #[command(subcommand)]
    Appservices(appservices::Command),
    /// Rooms that this server knows
    #[command(subcommand)]
    Rooms(rooms::Command),
    /// Files that users sent, and copies of other servers' files
    #[command(subcommand)]
    Media(media::Command),
    /// Other servers
    #[command(subcommand)]
    Federation(federation::Command),
    /// Signing keys, of this server and of others
    #[command(subcommand)]
    Keys(keys::Command),
    /// What users reported
    #[command(subcommand)]
    Reports(reports::Command),
    /// The server itself
    #[command(subcommand)]
    Server(server::Command),
}

impl Command {
    /// Reads a command as it is written in the administration room, its words as a shell would split them, but that nothing
    /// is a comment; what stands between two lines of ``` is one word.
    ///
    /// # Errors
    /// What to tell who wrote it: what is wrong, or the help that was asked for.
    pub fn parse(line: &str) -> std::result::Result<Self, String> {
        let (line, block) = line.split_once("```").unwrap_or((line, ""));
        let mut words = shlex::split(&without_comments(line)).ok_or("A quotation mark is not closed.")?;
        // The first line of a block says the language, if any.
        if let Some((_, block)) = block.split_once('\n') {
            words.push(block.trim_end().trim_end_matches('`').to_owned());
        }
        Line::try_parse_from(words).map(|line| line.command).map_err(|error| error.to_string())
    }

    /// Does it. `by` is the administrator who says so, unless it is whoever sits at the machine.
    ///
    /// # Errors
    /// Why it cannot be done; nothing is changed then.
    pub async fn run(self, server: &Server, by: Option<&UserId>) -> Result<Answer> {
        match self {
            Self::Users(command) => users::run(server, command).await,
            Self::RegistrationTokens(command) => registration_tokens::run(server, command),
            Self::Appservices(command) => appservices::run(server, command),
            Self::Rooms(command) => rooms::run(server, command, by),
            Self::Media(command) => media::run(server, command, by).await,
            Self::Federation(command) => federation::run(server, command),
            Self::Keys(command) => keys::run(server, &command),
            Self::Reports(command) => reports::run(server, command),
            Self::Server(command) => server::run(server, command).await,
        }
    }
}

/// The line with the `#` of aliases escaped, which begin a comment for a shell.
fn without_comments(line: &str) -> String {
    let (mut escaped, mut quote, mut begins) = (String::with_capacity(line.len() + 4), None, true);
    for character in line.chars() {
        match (quote, character) {
            (None, '#') if begins => escaped.push('\\'),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        begins = character.is_whitespace();
        escaped.push(character);
    }
    escaped
}

/// What an administrator is told of an error: the sentence, without the code that is for clients.
fn told(error: &Error) -> String {
    match error.reason() {
        Reason::Matrix { message, .. } => message.clone(),
        _ => error.to_string(),
    }
}
