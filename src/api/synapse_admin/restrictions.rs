//! What accounts are kept from, and what is done about what they said
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html)).

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{
    Nothing, Reply, not_here, ok, requests,
    users::{require, require_active},
};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    federation::user_redactions::{self, Wanted},
    server::Server,
    store::records::SendLimit,
    users::accounts,
};

requests! {
    /// `PUT /_synapse/admin/v1/suspend/{user_id}`
    Suspend = PUT "/_synapse/admin/v1/suspend/{user_id}" ((OwnedUserId,), Nothing, Suspended);
    /// `POST /_synapse/admin/v1/users/{user_id}/shadow_ban`
    ShadowBan = POST "/_synapse/admin/v1/users/{user_id}/shadow_ban" ((OwnedUserId,), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/users/{user_id}/shadow_ban`
    EndShadowBan = DELETE "/_synapse/admin/v1/users/{user_id}/shadow_ban" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/override_ratelimit`
    GetRateLimit = GET "/_synapse/admin/v1/users/{user_id}/override_ratelimit" ((OwnedUserId,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/users/{user_id}/override_ratelimit`
    SetRateLimit = POST "/_synapse/admin/v1/users/{user_id}/override_ratelimit" ((OwnedUserId,), Nothing, Limit);
    /// `DELETE /_synapse/admin/v1/users/{user_id}/override_ratelimit`
    DeleteRateLimit = DELETE "/_synapse/admin/v1/users/{user_id}/override_ratelimit" ((OwnedUserId,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/user/{user_id}/redact`
    Redact = POST "/_synapse/admin/v1/user/{user_id}/redact" ((OwnedUserId,), Nothing, WhatToRedact);
    /// `GET /_synapse/admin/v1/user/redact_status/{redact_id}`
    RedactStatus = GET "/_synapse/admin/v1/user/redact_status/{redact_id}" ((String,), Nothing, Nothing);
}

/// Whether to suspend.
#[derive(Debug, Deserialize)]
pub struct Suspended {
    suspend: bool,
}

/// How much may be sent.
#[derive(Debug, Deserialize)]
pub struct Limit {
    #[serde(default)]
    messages_per_second: u32,
    #[serde(default)]
    burst_count: u32,
}

/// What of what a user sent is to be redacted.
#[derive(Debug, Deserialize)]
pub struct WhatToRedact {
    rooms: Vec<OwnedRoomId>,
    reason: Option<String>,
    limit: Option<u64>,
    #[serde(default)]
    use_admin: bool,
    before_ts: Option<u64>,
    after_ts: Option<u64>,
}

/// How many events of a room are redacted unless another number is asked for.
const REDACTED: u64 = 1_000;

/// `PUT /_synapse/admin/v1/suspend/{user_id}`
pub async fn suspend(server: &Server, admin: Administrator, req: Suspend) -> Result<Reply> {
    let user = req.path.0;
    if user == admin.0 {
        return Err(Error::forbidden("You cannot suspend yourself."));
    }
    server.store.write(|tx| {
        require_active(server, tx, &user)?;
        accounts::update(tx, &user, |account| account.suspended = req.body.suspend)
    })?;
    ok(json!({ format!("user_{user}_suspended"): req.body.suspend }))
}

/// `POST /_synapse/admin/v1/users/{user_id}/shadow_ban`: refused.
pub async fn shadow_ban(_: &Server, _: Administrator, _: ShadowBan) -> Result<Reply> {
    not_here("shadow bans, which deceive the user. Suspend or lock the account instead")
}

/// `DELETE /_synapse/admin/v1/users/{user_id}/shadow_ban`: nobody is.
pub async fn end_shadow_ban(_: &Server, _: Administrator, _: EndShadowBan) -> Result<Reply> {
    ok(json!({}))
}

/// The limit of an account's own, if it has one.
fn shown(limit: Option<SendLimit>) -> JsonValue {
    limit.map_or_else(
        || json!({}),
        |limit| json!({ "messages_per_second": limit.per_second, "burst_count": limit.burst }),
    )
}

/// `GET /_synapse/admin/v1/users/{user_id}/override_ratelimit`
pub async fn get_rate_limit(server: &Server, _: Administrator, req: GetRateLimit) -> Result<Reply> {
    ok(shown(require(server, &server.store.read(), &req.path.0)?.send_limit))
}

/// `POST /_synapse/admin/v1/users/{user_id}/override_ratelimit`: how many events the account sends at most; with 0 a
/// second nothing that it does is limited.
pub async fn set_rate_limit(server: &Server, _: Administrator, req: SetRateLimit) -> Result<Reply> {
    let Limit { messages_per_second: per_second, burst_count: burst } = req.body;
    let limit = SendLimit { per_second, burst: if per_second == 0 { burst } else { burst.max(1) } };
    keep_limit(server, &req.path.0, Some(limit))
}

/// `DELETE /_synapse/admin/v1/users/{user_id}/override_ratelimit`
pub async fn delete_rate_limit(server: &Server, _: Administrator, req: DeleteRateLimit) -> Result<Reply> {
    keep_limit(server, &req.path.0, None)
}

fn keep_limit(server: &Server, user: &OwnedUserId, limit: Option<SendLimit>) -> Result<Reply> {
    server.store.write(|tx| {
        require_active(server, tx, user)?;
        accounts::update(tx, user, |account| account.send_limit = limit)
    })?;
    ok(shown(limit))
}

/// `POST /_synapse/admin/v1/user/{user_id}/redact`: begins, and does not wait for the end. Users of this server redact
/// it themselves unless the administrator is to do that.
pub async fn redact(server: &Server, admin: Administrator, req: Redact) -> Result<Reply> {
    let WhatToRedact { rooms, reason, limit, use_admin, before_ts, after_ts } = req.body;
    let user = req.path.0;
    if limit == Some(0) {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    let by = if use_admin || user.server_name() != server.name() { admin.0 } else { user.clone() };
    let limit = limit.unwrap_or(REDACTED);
    let wanted = Wanted { user, by, reason, rooms, limit, after_ts, before_ts };
    let id = server.store.write(|tx| user_redactions::begin(tx, wanted))?;
    server.rooms.deletions.notify_one();
    ok(json!({ "redact_id": id }))
}

/// `GET /_synapse/admin/v1/user/redact_status/{redact_id}`
pub async fn redact_status(server: &Server, _: Administrator, req: RedactStatus) -> Result<Reply> {
    let found = user_redactions::find(&server.store.read(), &req.path.0)?;
    match found.ok_or_else(|| Error::not_found("There is no such redaction, or it ended days ago."))? {
        row if row.done_ts.is_none() => ok(json!({ "status": "active" })),
        row => ok(json!({ "status": "complete", "failed_redactions": row.failed })),
    }
}
