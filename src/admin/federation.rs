//! `federation`: the other servers.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, users::date};
use crate::{
    error::{Error, Result},
    federation::destinations::{self, Destination},
    server::Server,
};

/// How many rows a list has unless another number is asked for.
const LIMIT: usize = 100;

/// What can be asked about other servers.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the servers that share rooms with this one, those that cannot be reached first
    List {
        /// Those alone that cannot be reached
        #[arg(long)]
        failing: bool,
        /// How many
        #[arg(long, default_value_t = LIMIT)]
        limit: usize,
    },
    /// Show how things stand with a server
    Show { server: OwnedServerName },
    /// Try a server that could not be reached again, now; without a name, all of them
    Retry { server: Option<OwnedServerName> },
    /// Give up what waits for a server: it is told only what comes from now on
    Forget { server: OwnedServerName },
}

pub(super) fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::List { failing, limit } => list(server, failing, limit),
        Command::Show { server: name } => {
            let Destination { rooms, waiting, failures, why } = destinations::get(&server.store.read(), &name)?;
            Ok(Answer::Fields(vec![
                ("server", json!(name)),
                ("rooms", json!(rooms)),
                ("waiting_messages", json!(waiting)),
                ("failing_since", date(failures.as_ref().map(|failures| failures.since))),
                ("failures", json!(failures.as_ref().map_or(0, |failures| failures.count))),
                ("next_attempt", date(failures.map(|failures| failures.retry_at))),
                ("why", if why.is_empty() { Value::Null } else { json!(why) }),
            ]))
        }
        Command::Retry { server: Some(name) } => {
            if destinations::get(&server.store.read(), &name)?.failures.is_none() {
                let message = format!("{name} took what was sent to it last: there is nothing to retry.");
                return Err(Error::not_found(message));
            }
            server.federation.heard_from(&name);
            Ok(Answer::Sentence(format!("{name} is being tried again.")))
        }
        Command::Retry { server: None } => {
            let mut count = 0;
            for (name, destination) in destinations::all(&server.store.read(), server.name())? {
                if destination.failures.is_some() {
                    server.federation.heard_from(&name);
                    count += 1;
                }
            }
            Ok(Answer::Sentence(format!("Servers that are being tried again: {count}.")))
        }
        Command::Forget { server: name } => {
            let given_up = destinations::give_up(&server.federation, &name)?;
            Ok(Answer::Sentence(format!("Nothing waits for {name} any more. Messages given up: {given_up}.")))
        }
    }
}

fn list(server: &Server, failing: bool, limit: usize) -> Result<Answer> {
    let mut all: Vec<_> = destinations::all(&server.store.read(), server.name())?.into_iter().collect();
    all.retain(|(_, destination)| !failing || destination.failures.is_some());
    all.sort_by_key(|(_, destination)| destination.failures.is_none());
    let row = |(name, Destination { rooms, waiting, failures, why }): (OwnedServerName, Destination)| {
        vec![json!(name), json!(rooms), json!(waiting), date(failures.map(|failures| failures.since)), json!(why)]
    };
    let columns = vec!["server", "rooms", "waiting", "failing_since", "why"];
    Ok(Answer::Table(columns, all.into_iter().take(limit).map(row).collect()))
}
