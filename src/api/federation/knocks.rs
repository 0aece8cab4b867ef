//! [Knocking upon rooms](https://spec.matrix.org/latest/server-server-api/#knocking-upon-a-room) through this server.

use ruma::{
    api::federation::membership::{create_knock_event::v1 as send, prepare_knock_event::v1 as make},
    events::room::member::MembershipState,
};

use crate::{
    api::auth::Origin,
    error::Result,
    federation::{handshake, invite},
    server::Server,
};

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_knockroomiduserid))
pub async fn make_knock(server: &Server, origin: Origin, req: make::Request) -> Result<make::Response> {
    let federation = &server.federation;
    let versions = Some(&*req.ver);
    let (version, event) =
        handshake::template(federation, &origin.server, &req.room_id, &req.user_id, MembershipState::Knock, versions)
            .await?;
    Ok(make::Response::new(version, event))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1send_knockroomideventid))
pub async fn send_knock(server: &Server, origin: Origin, req: send::Request) -> Result<send::Response> {
    let federation = &server.federation;
    let knock =
        handshake::admit(federation, &origin.server, &req.room_id, &req.event_id, &req.pdu, MembershipState::Knock)
            .await?;
    Ok(send::Response::new(invite::preview(&server.store.read(), &knock)?))
}
