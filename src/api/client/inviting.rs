//! [Inviting users](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidinvite).

use ruma::api::client::membership::invite_user::v3::{InvitationRecipient, Request, Response};

use super::create_room::no_third_party_invites;
use crate::{
    api::auth::User,
    error::Result,
    federation::{invite, missing_members},
    outgoing::appservices,
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidinvite))
pub async fn invite_user(server: &Server, user: User, req: Request) -> Result<Response> {
    let InvitationRecipient::UserId(recipient) = req.recipient else { return Err(no_third_party_invites()) };
    let (target, reason) = (&recipient.user_id, recipient.reason);
    let federation = &server.federation;
    appservices::query_user_id(&federation.outgoing, &server.appservices, &server.store, target).await?;
    missing_members::known(federation, &req.room_id, target).await?;
    invite::invite(federation, &req.room_id, &user.id, target, reason, false).await?;
    Ok(Response::new())
}
