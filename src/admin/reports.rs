//! `reports`: what users reported.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, users::date};
use crate::{
    error::{Error, Result},
    server::Server,
    store::{Direction, Read, records::Report, trees::REPORTS},
};

/// What can be done with reports.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the reports
    List,
    /// Delete a report that needs no attention any more
    Delete { number: u64 },
}

pub(super) fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::List => list(&server.store.read()),
        Command::Delete { number } => server.store.write(|tx| {
            if !REPORTS.contains(tx, number)? {
                return Err(Error::not_found("There is no report with this number."));
            }
            REPORTS.delete(tx, number);
            Ok(Answer::Sentence(format!("Report {number} is deleted.")))
        }),
    }
}

fn list(read: &dyn Read) -> Result<Answer> {
    let mut rows = Vec::new();
    for row in REPORTS.scan(read, (), Direction::Forward) {
        let (number, report) = row?;
        let received = date(Some(report.received_ts));
        rows.push(vec![json!(number), received, json!(report.reporter), json!(about(&report)), json!(report.reason)]);
    }
    Ok(Answer::Table(vec!["number", "received", "reporter", "about", "reason"], rows))
}

/// What a report is about.
pub(super) fn about(report: &Report) -> String {
    let parts = [
        report.user.as_ref().map(ToString::to_string),
        report.event.as_ref().map(ToString::to_string),
        report.room.as_ref().map(ToString::to_string),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" in ")
}
