//! [Inviting people by their e-mail address](https://spec.matrix.org/latest/client-server-api/#thirdparty_post_matrixclientv3roomsroomidinvite).

use ruma::{RoomId, UserId, api::client::membership::Invite3pid};

use super::administrative_contact::identity_server;
use crate::{
    error::{Error, Result},
    federation::third_party_invite,
    server::Server,
    users::threepids,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/invite` with an address in place of a user; called by
/// [`inviting::invite_user`](super::inviting::invite_user), which has the same path, and when a room is created
///
/// # Errors
/// 403 `M_THREEPID_DENIED` when this server asks no identity servers; 400 `M_INVALID_PARAM`; those of
/// [`third_party_invite::invite`].
pub async fn invite_by_3pid(server: &Server, room: &RoomId, user: &UserId, invited: &Invite3pid) -> Result<()> {
    let identity_server = identity_server(server, &invited.id_server, &invited.id_access_token)?;
    let medium = invited.medium.as_str();
    let address = match medium {
        threepids::EMAIL => threepids::parse_email(&invited.address)?,
        "msisdn" => invited.address.chars().filter(char::is_ascii_digit).collect(),
        _ => return Err(Error::invalid_param("medium must be \"email\" or \"msisdn\".")),
    };
    third_party_invite::invite(&server.federation, room, user, &identity_server, medium, &address).await
}
