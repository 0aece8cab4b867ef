//! What the server does in the background at somebody's word
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/scheduled_tasks.html)): it deletes rooms, purges
//! their history, and redacts what a user sent. What ended is told of for as long as its own status can be asked for.

use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{
    Nothing, Reply, ok, requests,
    rooms::{delete_id, outcome},
};
use crate::{
    api::auth::Administrator,
    error::Result,
    ids::RoomNo,
    rooms::{
        self,
        deletion::{Deletion, DeletionStage},
    },
    server::Server,
    store::{
        Direction, Read,
        records::UserRedaction,
        trees::{HISTORY_PURGES, ROOM_DELETIONS, USER_REDACTIONS},
    },
};

requests! {
    /// `GET /_synapse/admin/v1/scheduled_tasks`
    ListTasks = GET "/_synapse/admin/v1/scheduled_tasks" (Nothing, TaskQuery, Nothing);
}

/// Which tasks to list.
#[derive(Debug, Deserialize)]
pub struct TaskQuery {
    action_name: Option<String>,
    resource_id: Option<String>,
    #[serde(alias = "job_status")]
    status: Option<String>,
    max_timestamp: Option<u64>,
}

impl TaskQuery {
    fn wants(&self, task: &JsonValue) -> bool {
        let is = |wanted: &Option<String>, field: &str| wanted.as_ref().is_none_or(|wanted| task[field] == **wanted);
        let before = |most: u64| task["timestamp_ms"].as_u64().is_none_or(|at| at < most);
        is(&self.action_name, "action")
            && is(&self.resource_id, "resource_id")
            && is(&self.status, "status")
            && self.max_timestamp.is_none_or(before)
    }
}

fn of_deletion(read: &dyn Read, no: RoomNo, deletion: &Deletion) -> Result<JsonValue> {
    let (status, at) = match deletion.stage {
        DeletionStage::Done(at) => ("complete", at),
        _ => ("active", deletion.since),
    };
    Ok(json!({
        "id": delete_id(no, deletion),
        "action": "shutdown_and_purge_room",
        "status": status,
        "timestamp_ms": at,
        "resource_id": rooms::get(read, no)?.id,
        "result": outcome(deletion),
        "error": null,
    }))
}

/// When a purge began is not kept.
fn of_purge(read: &dyn Read, no: RoomNo) -> Result<JsonValue> {
    let room = rooms::get(read, no)?.id;
    Ok(json!({
        "id": room,
        "action": "purge_history",
        "status": "active",
        "timestamp_ms": null,
        "resource_id": room,
        "result": null,
        "error": null,
    }))
}

/// Nor when a redaction did.
fn of_redaction(id: &str, row: &UserRedaction) -> JsonValue {
    json!({
        "id": id,
        "action": "redact_all_events",
        "status": if row.done_ts.is_some() { "complete" } else { "active" },
        "timestamp_ms": row.done_ts,
        "resource_id": row.user,
        "result": { "failed_redactions": row.failed },
        "error": null,
    })
}

/// `GET /_synapse/admin/v1/scheduled_tasks`
pub async fn list_tasks(server: &Server, _: Administrator, req: ListTasks) -> Result<Reply> {
    let read = server.store.read();
    let mut tasks = Vec::new();
    for row in ROOM_DELETIONS.scan(&read, (), Direction::Forward) {
        let (no, deletion) = row?;
        tasks.push(of_deletion(&read, no, &deletion)?);
    }
    for row in HISTORY_PURGES.scan(&read, (), Direction::Forward) {
        tasks.push(of_purge(&read, row?.0)?);
    }
    for row in USER_REDACTIONS.scan(&read, (), Direction::Forward) {
        let (id, redaction) = row?;
        tasks.push(of_redaction(&id, &redaction));
    }
    tasks.retain(|task| req.query.wants(task));
    ok(json!({ "scheduled_tasks": tasks }))
}
