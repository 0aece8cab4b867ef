//! The server itself: its version, its words to users.

use ruma::{OwnedEventId, OwnedTransactionId, OwnedUserId, device_id};
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue, json};

use super::{Nothing, Reply, ok, requests, users::require_local};
use crate::{
    api::auth::Administrator,
    error::Result,
    rooms::{
        Event,
        server_notices::{self, Notice},
    },
    server::Server,
    store::Tx,
    users::transactions,
};

requests! {
    /// `GET /_synapse/admin/v1/server_version`
    GetVersion = GET "/_synapse/admin/v1/server_version" (Nothing, Nothing, Nothing);
    /// `GET /_synapse/admin/v1/background_updates/status`
    BackgroundUpdates = GET "/_synapse/admin/v1/background_updates/status" (Nothing, Nothing, Nothing);
    /// `POST /_synapse/admin/v1/send_server_notice`
    SendNotice = POST "/_synapse/admin/v1/send_server_notice" (Nothing, Nothing, NoticeBody);
    /// `PUT /_synapse/admin/v1/send_server_notice/{txn_id}`
    SendNoticeOnce = PUT "/_synapse/admin/v1/send_server_notice/{txn_id}" ((OwnedTransactionId,), Nothing, NoticeBody);
}

/// The operation among those with transaction IDs.
const OPERATION: &str = "send_server_notice";

/// What to say to whom.
#[derive(Debug, Deserialize)]
pub struct NoticeBody {
    user_id: OwnedUserId,
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
    content: Map<String, JsonValue>,
}

/// `GET /_synapse/admin/v1/server_version`
pub async fn get_version(_: &Server, _: Administrator, _: GetVersion) -> Result<Reply> {
    ok(json!({ "server_version": concat!("conduit ", env!("CARGO_PKG_VERSION")) }))
}

/// `GET /_synapse/admin/v1/background_updates/status`: the database is brought up to date when it is opened, so nothing is
/// ever under way.
pub async fn background_updates(_: &Server, _: Administrator, _: BackgroundUpdates) -> Result<Reply> {
    ok(json!({ "enabled": true, "current_updates": {} }))
}

async fn send(
    server: &Server,
    body: NoticeBody,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    require_local(server, &body.user_id)?;
    let notice = Notice {
        kind: body.kind.as_deref().unwrap_or("m.room.message"),
        state_key: body.state_key.as_deref(),
        content: &body.content,
    };
    let config = server.config();
    let version = &config.default_room_version;
    server_notices::send(&server.rooms, &config.server_notices, version, &body.user_id, &notice, also).await
}

/// `POST /_synapse/admin/v1/send_server_notice`
pub async fn send_notice(server: &Server, _: Administrator, req: SendNotice) -> Result<Reply> {
    ok(json!({ "event_id": send(server, req.body, |_, _| Ok(())).await? }))
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txn_id}`: what was sent with the same ID is not sent again.
pub async fn send_notice_once(server: &Server, admin: Administrator, req: SendNoticeOnce) -> Result<Reply> {
    let (device, id) = (device_id!(""), &req.path.0);
    if let Some(event) = transactions::answer(&server.store.read(), &admin.0, device, OPERATION, id)? {
        return ok(json!({ "event_id": event }));
    }
    let remember = |tx: &mut Tx<'_>, event: &Event| {
        transactions::remember(tx, &admin.0, device, OPERATION, id, event.pdu.event_id.as_str())
    };
    let event = send(server, req.body, remember).await?;
    ok(json!({ "event_id": event }))
}
