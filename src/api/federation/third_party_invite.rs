//! [Third-party invites](https://spec.matrix.org/latest/server-server-api/#third-party-invites): a room member invited an
//! e-mail address or a phone number, and it became known whose that is.

use ruma::{
    OwnedUserId,
    api::federation::thirdparty::{bind_callback, exchange_invite},
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    api::auth::{Anyone, Origin},
    error::{Error, Result},
    federation::{handshake, invite, policy},
    rooms::{self, membership, state},
    server::Server,
    store::Read,
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
    issue(server, &req.room_id, &req.sender, &req.state_key, signed).await?;
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
    for invite in req.invites.into_iter().take(MAX_INVITES).filter(|invite| invite.mxid == req.mxid) {
        let room = invite.room_id.clone();
        // Whoever sent this proved nothing: the room's rules check the identity server's signature, here or elsewhere.
        if let Err(error) = bound(server, invite).await {
            tracing::debug!("a third-party invite to {room} comes to nothing: {error}");
        }
    }
    Ok(bind_callback::v1::Response::new())
}

/// Has the invitation issued: by this server if it can, else by the one whose user invited.
async fn bound(server: &Server, invite: bind_callback::v1::ThirdPartyInvite) -> Result<()> {
    let bind_callback::v1::ThirdPartyInvite { mxid, room_id, sender, signed, .. } = invite;
    if sender.server_name() == server.name() {
        let signed = signed.deserialize_as_unchecked().map_err(|_| Error::bad_json("It is not signed."))?;
        return issue(server, &room_id, &sender, &mxid, signed).await;
    }
    let content = json!({ "membership": "invite", "third_party_invite": { "display_name": "", "signed": signed } });
    let content = serde_json::from_value(content)?;
    let request = exchange_invite::v1::Request::new(room_id, sender.clone(), mxid, content);
    server.federation.send(sender.server_name(), request).await?;
    Ok(())
}

/// Turns the invitation of an address into one of `target`; the identity server's word for that is `signed`.
async fn issue(
    server: &Server,
    room: &ruma::RoomId,
    sender: &OwnedUserId,
    target: &OwnedUserId,
    signed: Value,
) -> Result<()> {
    if sender.server_name() != server.name() {
        return Err(Error::invalid_param(format!(
            "{sender} is not a user of this server, which cannot sign for them."
        )));
    }
    let draft = {
        let read = server.store.read();
        let display_name = invited_as(&read, room, &signed)?;
        let mut content = membership::with_profile(&read, target, &MembershipState::Invite)?;
        content.insert("third_party_invite".to_owned(), json!({ "display_name": display_name, "signed": signed }));
        membership::draft(target, content)?
    };
    if target.server_name() == server.name() {
        policy::send_if(&server.federation, room, sender, |_, _, _| Ok(Some(draft))).await
    } else {
        invite::send(&server.federation, room, sender, target, draft).await
    }
}

/// What the invitation that `signed` answers called whom it invited.
fn invited_as(read: &dyn Read, room: &ruma::RoomId, signed: &Value) -> Result<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        display_name: String,
    }
    let (no, _) = rooms::require(read, room)?;
    let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
    let invite: Option<Content> = state::content(read, no, &StateEventType::RoomThirdPartyInvite, token)?;
    invite
        .map(|invite| invite.display_name)
        .ok_or_else(|| Error::forbidden("There is no such invitation in the room, or it was used already."))
}
