//! [Leaving rooms](https://spec.matrix.org/latest/client-server-api/#leaving-rooms) and forgetting them.

use ruma::{
    api::{
        client::membership::{forget_room, leave_room},
        error::ErrorKind,
    },
    events::room::member::MembershipState,
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::leave,
    rooms::{self, members, server_notices},
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidleave))
pub async fn leave_room(server: &Server, user: User, req: leave_room::v3::Request) -> Result<leave_room::v3::Response> {
    server_notices::check_leave(&server.store.read(), &user.id, &req.room_id)?;
    leave::leave(&server.federation, &req.room_id, &user.id, req.reason).await?;
    Ok(leave_room::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidforget))
pub async fn forget_room(
    server: &Server,
    user: User,
    req: forget_room::v3::Request,
) -> Result<forget_room::v3::Response> {
    server.store.write(|tx| {
        let (no, _) = rooms::require(tx, &req.room_id)?;
        let Some(user_room) = members::user_room(tx, &user.id, no)? else {
            return Err(Error::not_found("You were never in this room."));
        };
        if !matches!(user_room.membership, MembershipState::Leave | MembershipState::Ban) {
            let message = format!("User {} is in room {}. Leave it first.", user.id, req.room_id);
            return Err(Error::bad_request(ErrorKind::Unknown, message));
        }
        members::forget(tx, &user.id, no)
    })?;
    Ok(forget_room::v3::Response::new())
}
