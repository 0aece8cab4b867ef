//! [Redacting events](https://spec.matrix.org/latest/client-server-api/#redactions).

use ruma::api::client::redact::redact_event::v3::{Request, Response};

use super::room_send::send_once;
use crate::{api::auth::User, error::Result, rooms::build::Draft, server::Server};

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid))
pub async fn redact_event(server: &Server, user: User, req: Request) -> Result<Response> {
    let operation = format!("redact/{}/{}", req.room_id, req.event_id);
    let draft = Draft::redaction(req.event_id, req.reason.as_deref())?;
    Ok(Response::new(send_once(server, &user, &req.room_id, operation, &req.txn_id, draft).await?))
}
