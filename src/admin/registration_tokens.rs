//! `registration-tokens`: what people register with.

use ruma::OwnedRoomOrAliasId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, users::date};
use crate::{
    clock,
    error::{Error, Result},
    server::Server,
    store::{Direction, Read, records::RegistrationToken, trees::REGISTRATION_TOKENS},
    users::registration_tokens,
};

/// What can be done with registration tokens.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the tokens, but for that of the configuration
    List,
    /// Make a token
    Create {
        /// The token; without this, one is made up
        token: Option<String>,
        /// How many accounts it is good for; any number without this
        #[arg(long)]
        uses: Option<u64>,
        /// In how many days it expires; never without this
        #[arg(long)]
        days: Option<u16>,
        /// A room that those are brought into who register with it; can be given several times
        #[arg(long = "room")]
        rooms: Vec<OwnedRoomOrAliasId>,
    },
    /// Make a token void
    Delete { token: String },
}

pub(super) fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::List => list(&server.store.read()),
        Command::Create { token, uses, days, rooms } => {
            create(server, token, RegistrationToken { uses_allowed: uses, rooms, ..RegistrationToken::default() }, days)
        }
        Command::Delete { token } => server.store.write(|tx| {
            if !REGISTRATION_TOKENS.contains(tx, &token)? {
                return Err(Error::not_found("There is no such token."));
            }
            REGISTRATION_TOKENS.delete(tx, &token);
            Ok(Answer::Sentence("Nobody can register with this token any more.".to_owned()))
        }),
    }
}

fn list(read: &dyn Read) -> Result<Answer> {
    let mut rows = Vec::new();
    for row in REGISTRATION_TOKENS.scan(read, (), Direction::Forward) {
        let (token, row) = row?;
        let expires = date(row.expires_ts);
        rows.push(vec![json!(token), json!(row.uses_allowed), json!(row.completed), expires, json!(row.rooms)]);
    }
    Ok(Answer::Table(vec!["token", "uses_allowed", "completed", "expires", "rooms"], rows))
}

fn create(server: &Server, token: Option<String>, row: RegistrationToken, days: Option<u16>) -> Result<Answer> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let now = clock::now_ms();
    let row = RegistrationToken { expires_ts: days.map(|days| now + u64::from(days) * DAY_MS), created_ts: now, ..row };
    let token = server.store.write(|tx| registration_tokens::create(tx, token, &row))?;
    let closed = if server.config().allow_registration {
        ""
    } else {
        " Registration is closed, though: set allow_registration for it to be of use."
    };
    Ok(Answer::Sentence(format!("People can register with the token {token}.{closed}")))
}
