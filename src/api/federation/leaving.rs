//! [Leaving rooms](https://spec.matrix.org/latest/server-server-api/#leaving-rooms-rejecting-invites) through this
//! server, and rejecting invitations.

use ruma::{
    api::federation::membership::{create_leave_event::v2 as send, prepare_leave_event::v1 as make},
    events::room::member::MembershipState,
};

use crate::{api::auth::Origin, error::Result, federation::handshake, server::Server};

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_leaveroomiduserid))
pub async fn make_leave(server: &Server, origin: Origin, req: make::Request) -> Result<make::Response> {
    let federation = &server.federation;
    let (version, event) =
        handshake::template(federation, &origin.server, &req.room_id, &req.user_id, MembershipState::Leave, None)
            .await?;
    Ok(make::Response::new(Some(version), event))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_leaveroomideventid))
pub async fn send_leave_v2(server: &Server, origin: Origin, req: send::Request) -> Result<send::Response> {
    let federation = &server.federation;
    handshake::admit(federation, &origin.server, &req.room_id, &req.event_id, &req.pdu, MembershipState::Leave).await?;
    Ok(send::Response::new())
}
