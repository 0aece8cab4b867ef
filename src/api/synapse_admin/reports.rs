//! What users reported ([reference](https://element-hq.github.io/synapse/latest/admin_api/event_reports.html)). Reports
//! of rooms and users, which the reference does not have in this list, are in it without an event.

use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Dir, Nothing, Paging, Reply, number, ok, requests};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    rooms::{self, event, summary},
    server::Server,
    store::{Direction, Read, records::Report, trees::REPORTS},
};

requests! {
    /// `GET /_synapse/admin/v1/event_reports`
    ListReports = GET "/_synapse/admin/v1/event_reports" (Nothing, ReportQuery, Nothing);
    /// `GET /_synapse/admin/v1/event_reports/{report_id}`
    GetReport = GET "/_synapse/admin/v1/event_reports/{report_id}" ((ReportId,), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/event_reports/{report_id}`
    DeleteReport = DELETE "/_synapse/admin/v1/event_reports/{report_id}" ((ReportId,), Nothing, Nothing);
}

/// The number of a report.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct ReportId(#[serde(deserialize_with = "number")] u64);

/// Which reports to list.
#[derive(Debug, Deserialize)]
pub struct ReportQuery {
    #[serde(flatten)]
    paging: Paging,
    user_id: Option<String>,
    room_id: Option<String>,
    event_sender_user_id: Option<String>,
}

fn shown(read: &dyn Read, number: u64, report: &Report) -> Result<JsonValue> {
    let room = report.room.as_deref().map(|id| rooms::find(read, id)).transpose()?.flatten();
    let seen = room.map(|no| summary::of(read, no, &rooms::get(read, no)?)).transpose()?;
    let event = report.event.as_deref().map(|id| event::by_id(read, id)).transpose()?.flatten();
    Ok(json!({
        "id": number,
        "received_ts": report.received_ts,
        "room_id": report.room,
        "name": seen.as_ref().and_then(|seen| seen.name.as_ref()),
        "canonical_alias": seen.as_ref().and_then(|seen| seen.canonical_alias.as_ref()),
        "event_id": report.event,
        "user_id": report.reporter,
        "reason": report.reason,
        "score": null,
        "sender": event.map(|event| event.pdu.sender.clone()).or_else(|| report.user.clone()),
    }))
}

/// `GET /_synapse/admin/v1/event_reports`
pub async fn list_reports(server: &Server, _: Administrator, req: ListReports) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let is = |wanted: &Option<String>, value: &JsonValue| wanted.as_ref().is_none_or(|wanted| value == wanted);
    let mut rows = Vec::new();
    for row in REPORTS.scan(&read, (), Direction::Forward) {
        let (number, report) = row?;
        let row = shown(&read, number, &report)?;
        if is(&query.user_id, &row["user_id"])
            && is(&query.room_id, &row["room_id"])
            && is(&query.event_sender_user_id, &row["sender"])
        {
            rows.push(row);
        }
    }
    if query.paging.dir != Some(Dir::F) {
        rows.reverse();
    }
    let mut answer = query.paging.page("event_reports", rows);
    if let Some(next) = answer["next_token"].as_str().and_then(|next| next.parse::<usize>().ok()) {
        answer["next_token"] = json!(next);
    }
    ok(answer)
}

fn unknown() -> Error {
    Error::not_found("There is no such report.")
}

/// `GET /_synapse/admin/v1/event_reports/{report_id}`
pub async fn get_report(server: &Server, _: Administrator, req: GetReport) -> Result<Reply> {
    let read = server.store.read();
    let report = REPORTS.get(&read, req.path.0.0)?.ok_or_else(unknown)?;
    let mut answer = shown(&read, req.path.0.0, &report)?;
    let event = report.event.as_deref().map(|id| event::by_id(&read, id)).transpose()?.flatten();
    answer["event_json"] = match event {
        Some(event) => serde_json::from_str(&event.pdu.json)?,
        None => JsonValue::Null,
    };
    ok(answer)
}

/// `DELETE /_synapse/admin/v1/event_reports/{report_id}`
pub async fn delete_report(server: &Server, _: Administrator, req: DeleteReport) -> Result<Reply> {
    server.store.write(|tx| {
        if !REPORTS.contains(tx, req.path.0.0)? {
            return Err(unknown());
        }
        REPORTS.delete(tx, req.path.0.0);
        Ok(())
    })?;
    ok(json!({}))
}
