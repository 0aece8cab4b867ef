//! What users reported ([reference](https://element-hq.github.io/synapse/latest/admin_api/event_reports.html)): events
//! and rooms, which the reference has in no list and which are without an event in this one; and users, in a list of
//! their own.

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
    /// `GET /_synapse/admin/v1/user_reports`
    ListUserReports = GET "/_synapse/admin/v1/user_reports" (Nothing, UserReportQuery, Nothing);
    /// `GET /_synapse/admin/v1/user_reports/{report_id}`
    GetUserReport = GET "/_synapse/admin/v1/user_reports/{report_id}" ((ReportId,), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/user_reports/{report_id}`
    DeleteUserReport = DELETE "/_synapse/admin/v1/user_reports/{report_id}" ((ReportId,), Nothing, Nothing);
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

/// Which reports of users to list.
#[derive(Debug, Deserialize)]
pub struct UserReportQuery {
    #[serde(flatten)]
    paging: Paging,
    user_id: Option<String>,
    target_user_id: Option<String>,
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
        "sender": event.map(|event| event.pdu.sender.clone()),
    }))
}

/// `GET /_synapse/admin/v1/event_reports`
pub async fn list_reports(server: &Server, _: Administrator, req: ListReports) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let mut rows = Vec::new();
    for row in REPORTS.scan(&read, (), Direction::Forward) {
        let (number, report) = row?;
        if report.user.is_some() {
            continue;
        }
        let row = shown(&read, number, &report)?;
        if is(&query.user_id, &row["user_id"])
            && is(&query.room_id, &row["room_id"])
            && is(&query.event_sender_user_id, &row["sender"])
        {
            rows.push(row);
        }
    }
    ok(page(&query.paging, "event_reports", rows))
}

/// Whether a row has what is asked for, if something is.
fn is(wanted: &Option<String>, value: &JsonValue) -> bool {
    wanted.as_ref().is_none_or(|wanted| value == wanted)
}

/// The latest come first unless they are wanted the other way round; here the next token is a number.
fn page(paging: &Paging, name: &str, mut rows: Vec<JsonValue>) -> JsonValue {
    if paging.dir != Some(Dir::F) {
        rows.reverse();
    }
    let mut answer = paging.page(name, rows);
    if let Some(next) = answer["next_token"].as_str().and_then(|next| next.parse::<usize>().ok()) {
        answer["next_token"] = json!(next);
    }
    answer
}

fn unknown() -> Error {
    Error::not_found("There is no such report.")
}

/// `GET /_synapse/admin/v1/event_reports/{report_id}`
pub async fn get_report(server: &Server, _: Administrator, req: GetReport) -> Result<Reply> {
    let read = server.store.read();
    let report = require(&read, &req.path.0, false)?;
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
    delete(server, &req.path.0, false)
}

/// A report, if it is one of a user or not one, as is asked for.
fn require(read: &dyn Read, id: &ReportId, of_user: bool) -> Result<Report> {
    REPORTS.get(read, id.0)?.filter(|report| report.user.is_some() == of_user).ok_or_else(unknown)
}

fn delete(server: &Server, id: &ReportId, of_user: bool) -> Result<Reply> {
    server.store.write(|tx| {
        require(tx, id, of_user)?;
        REPORTS.delete(tx, id.0);
        Ok(())
    })?;
    ok(json!({}))
}

fn shown_of_user(number: u64, report: &Report) -> JsonValue {
    json!({
        "id": number,
        "received_ts": report.received_ts,
        "target_user_id": report.user,
        "user_id": report.reporter,
        "reason": report.reason,
    })
}

/// `GET /_synapse/admin/v1/user_reports`
pub async fn list_user_reports(server: &Server, _: Administrator, req: ListUserReports) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let mut rows = Vec::new();
    for row in REPORTS.scan(&read, (), Direction::Forward) {
        let (number, report) = row?;
        let row = shown_of_user(number, &report);
        if report.user.is_some()
            && is(&query.user_id, &row["user_id"])
            && is(&query.target_user_id, &row["target_user_id"])
        {
            rows.push(row);
        }
    }
    ok(page(&query.paging, "user_reports", rows))
}

/// `GET /_synapse/admin/v1/user_reports/{report_id}`
pub async fn get_user_report(server: &Server, _: Administrator, req: GetUserReport) -> Result<Reply> {
    let report = require(&server.store.read(), &req.path.0, true)?;
    ok(shown_of_user(req.path.0.0, &report))
}

/// `DELETE /_synapse/admin/v1/user_reports/{report_id}`
pub async fn delete_user_report(server: &Server, _: Administrator, req: DeleteUserReport) -> Result<Reply> {
    delete(server, &req.path.0, true)
}
