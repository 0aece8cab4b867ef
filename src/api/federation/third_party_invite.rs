//! [Third-party invites](https://spec.matrix.org/latest/server-server-api/#third-party-invites): a room member invited an
//! e-mail address or a phone number, and it became known whose that is.

use ruma::{
    api::federation::thirdparty::{bind_callback, exchange_invite},
    events::StateEventType,
};
use serde_json::{Map, Value};

use crate::{
    api::auth::{Anyone, Origin},
    error::{Error, Result},
    federation::{handshake, third_party_invite},
    server::Server,
};

/// How many invitations one identity server's message may hold.
const MAX_INVITES: usize = 20;

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid))
pub async fn exchange_third_party_invite(
    server: &Server,
    origin: Origin,
    req: exchange_invite::v1::Request,
) -> Result<exchange_invite::v1::Response> {
    if req.kind != StateEventType::RoomMember || req.state_key.server_name() != origin.server {
        return Err(Error::invalid_param(format!(
            "The event must be the m.room.member event of a user of {}.",
            origin.server
        )));
    }
    let content: Map<String, Value> = req
        .content
        .deserialize_as_unchecked()
        .map_err(|_| Error::bad_json("The event's content must be an object."))?;
    let signed = content.get("third_party_invite").and_then(|invite| invite.get("signed")).cloned();
    let signed = signed.ok_or_else(|| Error::invalid_param("The event is no third-party invite."))?;
    {
        let read = server.store.read();
        handshake::resident(&read, &req.room_id, &origin.server)?;
    }
    third_party_invite::issue(&server.federation, &req.room_id, &req.sender, &req.state_key, signed).await?;
    Ok(exchange_invite::v1::Response::new())
}

/// `PUT /_matrix/federation/v1/3pid/onbind`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv13pidonbind))
pub async fn on_bind_third_party_identifier(
    server: &Server,
    _: Anyone,
    req: bind_callback::v1::Request,
) -> Result<bind_callback::v1::Response> {
    if req.mxid.server_name() != server.name() {
        return Err(Error::invalid_param(format!("{} is not a user of this server.", req.mxid)));
    }
    // Whoever sent this proved nothing: the room's rules check the identity server's signature, here or elsewhere.
    third_party_invite::bound(&server.federation, async {
        for invite in req.invites.into_iter().take(MAX_INVITES).filter(|invite| invite.mxid == req.mxid) {
            let (room, sender, target) = (&invite.room_id, &invite.sender, &invite.mxid);
            let exchanged = match invite.signed.deserialize_as_unchecked() {
                Ok(signed) => third_party_invite::exchange(&server.federation, room, sender, target, signed).await,
                Err(_) => Err(Error::bad_json("It is not signed.")),
            };
            if let Err(error) = exchanged {
                tracing::debug!("a third-party invite to {room} comes to nothing: {error}");
            }
        }
    })
    .await?;
    Ok(bind_callback::v1::Response::new())
}
