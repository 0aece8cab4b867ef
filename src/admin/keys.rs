//! `keys`: signing keys.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, users::date};
use crate::{
    error::Result,
    server::Server,
    store::{Direction, trees::SERVER_KEYS},
};

/// What can be asked about signing keys.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the keys that this server signs, or signed, with
    List,
    /// List the keys of another server that are known here
    Of { server: OwnedServerName },
    /// Forget the keys of another server: they are fetched when they are needed next
    Forget { server: OwnedServerName },
}

pub(super) fn run(server: &Server, command: &Command) -> Result<Answer> {
    match command {
        Command::List => {
            let mut rows = vec![vec![json!(server.keys.id()), json!(server.keys.public_key()), Value::Null]];
            for old in server.keys.old() {
                rows.push(vec![json!(old.id), json!(old.public), date(Some(old.expired_ts))]);
            }
            Ok(Answer::Table(vec!["key", "public", "expired"], rows))
        }
        Command::Of { server: other } => {
            let mut rows = Vec::new();
            for row in SERVER_KEYS.scan(&server.store.read(), (other,), Direction::Forward) {
                let ((_, id), key) = row?;
                rows.push(vec![json!(id), json!(key.key), date(Some(key.valid_until_ts))]);
            }
            Ok(Answer::Table(vec!["key", "public", "valid_until"], rows))
        }
        Command::Forget { server: other } => {
            server.federation.keys.forget(other)?;
            Ok(Answer::Sentence(format!("The keys of {other} are fetched anew when they are needed.")))
        }
    }
}
