//! [Inviting users](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidinvite).

use ruma::api::client::membership::invite_user::v3::{InvitationRecipient, Request, Response};

use super::third_party_membership::invite_by_3pid;
use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::{invite, missing_members},
    outgoing::appservices,
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidinvite))
pub async fn invite_user(server: &Server, user: User, req: Request) -> Result<Response> {
    let recipient = match req.recipient {
        InvitationRecipient::UserId(recipient) => recipient,
        InvitationRecipient::ThirdPartyId(invited) => {
            invite_by_3pid(server, &req.room_id, &user.id, &invited).await?;
            return Ok(Response::new());
        }
        _ => return Err(Error::bad_json("Say whom to invite: user_id, or the address and its identity server.")),
    };
    let (target, reason) = (&recipient.user_id, recipient.reason);
    let federation = &server.federation;
    appservices::query_user_id(&federation.outgoing, &server.appservices, &server.store, target).await?;
    missing_members::known(federation, &req.room_id, target).await?;
    invite::invite(federation, &req.room_id, &user.id, target, reason, false).await?;
    Ok(Response::new())
}
