//! `server`: the server itself.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Answer;
use crate::{
    config::Registration,
    error::{Error, Result},
    server::{self, Reloaded, Server},
    store::{Direction, trees},
    users::sign_ups,
};

/// What can be asked of the server.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// Show version, accounts, rooms and memory
    Status,
    /// Show what the memory is used for
    Memory,
    /// Show how much of the disk the parts of the database take
    Disk,
    /// Write the database anew, so that what was deleted gives its space back at once; this takes long, and much of the
    /// disk's time
    Compact,
    /// Read the configuration again, and put into effect what can change while the server runs
    Reload,
    /// Log something else until the server stops or reads its configuration again, as the option log says it:
    /// "warn,conduit=debug"
    Log { filter: String },
    /// Let people register without a token again, after registration closed by itself
    OpenRegistration,
    /// Show how many rows each kind of data has, and their size; this reads the whole database
    Trees,
    /// Show in which rooms state was resolved since the start, and how long that took, those that took longest first
    Resolutions,
}

pub(super) async fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::Status => status(server),
        Command::Memory => memory(server),
        Command::Compact => {
            let store = Arc::clone(&server.store);
            tokio::task::spawn_blocking(move || store.compact()).await.map_err(Error::internal)??;
            Ok(Answer::Sentence("The database is written anew.".to_owned()))
        }
        Command::Log { filter } => {
            let Some(program) = server.program.get() else {
                return Err(Error::not_found("This server does not keep its log itself."));
            };
            (program.set_log)(&filter).map_err(Error::invalid_param)?;
            Ok(Answer::Sentence(format!("What is logged from now on: {filter}")))
        }
        Command::Reload => {
            let Reloaded { changes, warnings } = server::reload(server)?;
            Ok(Answer::Fields(vec![
                ("changed", json!(changes.at_once)),
                ("changes_at_restart", json!(changes.at_restart)),
                ("warnings", json!(warnings)),
            ]))
        }
        Command::Disk => {
            let rows = server.store.disk_usage()?;
            let rows = rows.into_iter().map(|(name, bytes)| vec![json!(name), json!(bytes)]).collect();
            Ok(Answer::Table(vec!["part", "bytes"], rows))
        }
        Command::OpenRegistration => {
            let was_closed = server.store.write(sign_ups::reopen)?;
            let message =
                if was_closed { "Registration is open again." } else { "Registration had not closed by itself." };
            Ok(Answer::Sentence(message.to_owned()))
        }
        Command::Trees => {
            let read = server.store.read();
            let mut rows = Vec::new();
            for tree in trees::ALL {
                let (count, bytes) = (tree.verify)(&read)?;
                rows.push((bytes, vec![json!(tree.name), json!(count), json!(bytes)]));
            }
            rows.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
            Ok(Answer::Table(vec!["tree", "rows", "bytes"], rows.into_iter().map(|(_, row)| row).collect()))
        }
        Command::Resolutions => resolutions(server),
    }
}

fn status(server: &Server) -> Result<Answer> {
    let read = server.store.read();
    let accounts = trees::ACCOUNTS.scan(&read, (), Direction::Forward).filter_map(Result::ok);
    let in_use = accounts.filter(|(_, account)| !account.deactivated && !account.guest).count();
    let rooms = trees::ROOMS.scan(&read, (), Direction::Forward).filter_map(Result::ok);
    let joined = rooms.filter(|(_, room)| room.local_joined > 0).count();
    let config = server.config();
    let registration = match (config.registration(), sign_ups::registration(&read, &config)?) {
        (_, Registration::Open) => "open",
        (Registration::Open, _) => "closed by itself but for those who have a token",
        (_, Registration::Token) => "with a token",
        (_, Registration::Closed) => "closed",
    };
    Ok(Answer::Fields(vec![
        ("server", json!(server.name())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("accounts", json!(in_use)),
        ("rooms", json!(joined)),
        ("running_for_seconds", json!(server.started.elapsed().as_secs())),
        ("registration", json!(registration)),
        ("waiting_clients", json!(server.store.hub().len())),
        ("memory_bytes", json!(server.resident_bytes())),
        ("memory_budget_bytes", json!(config.memory_budget())),
    ]))
}

fn memory(server: &Server) -> Result<Answer> {
    let mut rows: Vec<_> = server.memory()?.into_iter().map(|(part, bytes)| vec![json!(part), json!(bytes)]).collect();
    rows.push(vec![json!("the whole process"), json!(server.resident_bytes())]);
    rows.push(vec![json!("memory_budget"), json!(server.config().memory_budget())]);
    Ok(Answer::Table(vec!["part", "bytes"], rows))
}

fn resolutions(server: &Server) -> Result<Answer> {
    let read = server.store.read();
    let mut times = server.rooms.resolution_times();
    times.sort_by_key(|(_, times)| std::cmp::Reverse(times.total));
    let milliseconds = |time: Duration| json!(u64::try_from(time.as_millis()).ok());
    let mut rows = Vec::with_capacity(times.len());
    for (room, times) in times {
        // A room can be gone by now.
        let id = trees::ROOMS.get(&read, room)?.map(|room| room.id);
        rows.push(vec![json!(id), json!(times.count), milliseconds(times.total), milliseconds(times.longest)]);
    }
    Ok(Answer::Table(vec!["room", "resolutions", "milliseconds", "longest"], rows))
}
