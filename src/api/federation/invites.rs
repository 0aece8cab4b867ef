//! [Inviting to a room](https://spec.matrix.org/latest/server-server-api/#inviting-to-a-room): others invite users of
//! this server.

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{
        auth::Origin,
        own::{self, Json},
    },
    error::Result,
    federation::invite::{self, Invitation},
    outgoing::appservices,
    reads,
    server::Server,
    stands_in_for,
};

/// An invitation as old servers send it, into rooms of versions 1 and 2: the event alone, its preview of the room inside.
pub struct InviteV1Request {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    event: Box<RawValue>,
    preview: Vec<RawStrippedState>,
}
stands_in_for!(InviteV1Request, create_invite::v1::Request);

reads!(InviteV1Request => Json<(u16, EventContainer)>, |request, path_args| {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        unsigned: Unsigned,
    }
    #[derive(Deserialize, Default)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    let (room_id, event_id) = own::path(path_args)?;
    let event = own::body(&request)?;
    let body: Body = own::body(&request)?;
    Self { room_id, event_id, event, preview: body.unsigned.invite_room_state }
});

/// The event with both servers' signatures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EventContainer {
    event: Box<RawValue>,
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1inviteroomideventid))
pub async fn send_invite_v1(
    server: &Server,
    origin: Origin,
    req: InviteV1Request,
) -> Result<Json<(u16, EventContainer)>> {
    let InviteV1Request { room_id, event_id, event, preview } = req;
    let invitation = Invitation { room_id, event_id, version: RoomVersionId::V1, event, preview };
    let event = receive(server, &origin, invitation).await?;
    Ok(Json((200, EventContainer { event })))
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid))
pub async fn send_invite_v2(
    server: &Server,
    origin: Origin,
    req: create_invite::v2::Request,
) -> Result<create_invite::v2::Response> {
    let invitation = Invitation {
        room_id: req.room_id,
        event_id: req.event_id,
        version: req.room_version,
        event: req.event,
        preview: req.invite_room_state,
    };
    Ok(create_invite::v2::Response::new(receive(server, &origin, invitation).await?))
}

/// Takes in an invitation; a bridge has the chance to make its user first.
async fn receive(server: &Server, origin: &Origin, invitation: Invitation) -> Result<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Target {
        state_key: OwnedUserId,
    }
    let federation = &server.federation;
    if let Ok(Target { state_key }) = serde_json::from_str(invitation.event.get()) {
        appservices::query_user_id(&federation.outgoing, &server.appservices, &server.store, &state_key).await?;
    }
    invite::receive(federation, &origin.server, invitation).await
}
