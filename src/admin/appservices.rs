//! `appservices`: programs such as bridges that act for users of their own.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Answer;
use crate::{error::Result, server::Server, store::trees::APPSERVICE_PROGRESS};

/// What can be done with application services.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the application services
    List,
    /// Register one, beside those that the configuration names
    Register {
        /// Its registration: YAML, between two lines of ``` or in quotation marks
        registration: String,
    },
    /// End what was registered so
    Unregister {
        /// The id of its registration
        id: String,
    },
}

pub(super) fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::List => list(server),
        Command::Register { registration } => {
            let added = server.appservices.add(&server.store, &registration)?;
            let sender = &added.sender;
            Ok(Answer::Sentence(format!("The application service {} is registered and acts as {sender}.", added.id)))
        }
        Command::Unregister { id } => {
            server.appservices.remove(&server.store, &id)?;
            Ok(Answer::Sentence(format!("The application service {id} is not registered any more. Its users stay.")))
        }
    }
}

fn list(server: &Server) -> Result<Answer> {
    let read = server.store.read();
    let mut rows = Vec::new();
    for service in server.appservices.all() {
        // What is not taken at once waits for the application service to come back.
        let waits = APPSERVICE_PROGRESS.get(&read, &service.id)?.is_some_and(|progress| progress.pending.is_some());
        rows.push(vec![
            json!(service.id),
            json!(service.url),
            json!(service.sender),
            json!(service.protocols),
            json!(waits),
        ]);
    }
    Ok(Answer::Table(vec!["id", "url", "sender", "protocols", "waits"], rows))
}
