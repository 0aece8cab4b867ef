//! [Redacting events](https://spec.matrix.org/latest/client-server-api/#redactions); with what relates to them, if the client
//! asks for that ([MSC3912](https://github.com/matrix-org/matrix-spec-proposals/pull/3912), a proposal).

use std::sync::Arc;

use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::{
        IncomingRequest,
        client::redact::redact_event::v3::{Request, Response},
        error::DeserializationError,
    },
};
use serde::Deserialize;

use super::room_send::send_once;
use crate::{
    api::auth::User,
    error::Result,
    federation::{Federation, policy},
    rooms::{self, build::Draft, event, redaction, relations},
    server::Server,
    stands_in_for,
    store::{Direction, Read},
};

/// How many related events are redacted with one.
const MAX_RELATED: usize = 1_000;

/// A request to redact an event, and those that relate to it in certain ways.
pub struct RedactRequest {
    request: Request,
    with_relations: Vec<String>,
}
stands_in_for!(RedactRequest, Request);

impl IncomingRequest for RedactRequest {
    type EndpointError = ruma::api::error::Error;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "org.matrix.msc3912.with_relations", default)]
            with_relations: Vec<String>,
        }
        let Body { with_relations } = serde_json::from_slice(request.body())?;
        Ok(Self { request: Request::try_from_http_request_inner(request, path_args)?, with_relations })
    }
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid))
pub async fn redact_event(server: &Server, user: User, req: RedactRequest) -> Result<Response> {
    let RedactRequest { request: req, with_relations } = req;
    let operation = format!("redact/{}/{}", req.room_id, req.event_id);
    let draft = Draft::redaction(req.event_id.clone(), req.reason.as_deref())?;
    let event_id = send_once(server, &user, &req.room_id, operation, &req.txn_id, draft).await?;
    if !with_relations.is_empty() {
        let related = Related { room: req.room_id, sender: user.id, reason: req.reason, kinds: with_relations };
        let (federation, target) = (server.federation.clone(), req.event_id);
        // To its end, also when the client goes away.
        tokio::spawn(async move {
            if let Err(error) = related.redact(&federation, &target).await {
                tracing::warn!("what relates to {target} could not be redacted: {error}");
            }
        });
    }
    Ok(Response::new(event_id))
}

/// What is to be redacted besides an event.
struct Related {
    room: OwnedRoomId,
    sender: OwnedUserId,
    reason: Option<String>,
    /// The relation types; `*` is any.
    kinds: Vec<String>,
}

impl Related {
    /// Redacts what relates to `target`, as far as the sender may.
    async fn redact(&self, federation: &Arc<Federation>, target: &EventId) -> Result<()> {
        let related = {
            let read = federation.rooms.store.read();
            self.find(&read, &self.room, &self.sender, target)?
        };
        for id in related {
            if *federation.stopping.borrow() {
                break;
            }
            let guard = federation.rooms.lock(&self.room).await;
            let draft = Draft::redaction(id.clone(), self.reason.as_deref())?;
            if let Err(error) = policy::send_and(federation, &guard, &self.sender, draft, |_, _| Ok(())).await {
                tracing::debug!("{id} is not redacted with {target}: {error}");
            }
        }
        Ok(())
    }

    fn find(
        &self,
        read: &dyn Read,
        room: &RoomId,
        sender: &UserId,
        target: &EventId,
    ) -> Result<Vec<ruma::OwnedEventId>> {
        let (no, room) = rooms::require(read, room)?;
        let Some(target) = event::no_of(read, target)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for row in relations::of(read, target, Direction::Backward) {
            let (_, child, kind) = row?;
            if !self.kinds.iter().any(|wanted| *wanted == kind || wanted == "*") {
                continue;
            }
            let Some(child) = event::get(read, child)? else { continue };
            let is_theirs = child.pdu.sender == sender || redaction::has_power(read, no, &room, sender)?;
            if child.redacted_by.is_none() && is_theirs {
                found.push(child.pdu.event_id.clone());
            }
            if found.len() == MAX_RELATED {
                break;
            }
        }
        Ok(found)
    }
}
