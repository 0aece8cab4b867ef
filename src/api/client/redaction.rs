//! [Redacting events](https://spec.matrix.org/latest/client-server-api/#redactions); with what relates to them, if the client
//! asks for that ([MSC3912](https://github.com/matrix-org/matrix-spec-proposals/pull/3912), a proposal).

use ruma::api::client::redact::redact_event::v3::{Request, Response};
use serde::Deserialize;

use super::room_send::send_once;
use crate::{
    api::{auth::User, own},
    error::{Error, Result},
    reads,
    rooms::{build::Draft, related_redactions},
    server::Server,
    stands_in_for,
};

/// How many types of relations can be named.
const MAX_KINDS: usize = 100;

/// A request to redact an event, and those that relate to it in certain ways.
pub struct RedactRequest {
    request: Request,
    with_relations: Vec<String>,
}
stands_in_for!(RedactRequest, Request);

reads!(RedactRequest => Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "org.matrix.msc3912.with_relations", default)]
        with_relations: Vec<String>,
    }
    let Body { with_relations } = own::body(&request)?;
    Self { request: Request::try_from_http_request_inner(request, path_args)?, with_relations }
});

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid))
pub async fn redact_event(server: &Server, user: User, req: RedactRequest) -> Result<Response> {
    let RedactRequest { request: req, with_relations } = req;
    if with_relations.len() > MAX_KINDS {
        return Err(Error::invalid_param(format!("At most {MAX_KINDS} types of relations can be named.")));
    }
    let operation = format!("redact/{}/{}", req.room_id, req.event_id);
    let draft = Draft::redaction(req.event_id, req.reason.as_deref())?;
    let with_others = !with_relations.is_empty();
    let event_id = send_once(server, &user, &req.room_id, operation, &req.txn_id, draft, |tx, redaction| {
        if with_others { related_redactions::note(tx, redaction, req.reason, with_relations) } else { Ok(()) }
    })
    .await?;
    if with_others {
        server.rooms.chores.notify_one();
    }
    Ok(Response::new(event_id))
}
