//! Typing notifications.

use std::time::Duration;

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::typing::create_typing_event::v3::{Request, Response},
};
use serde::Deserialize;

use super::receipts::joined_room;
use crate::{
    api::{auth::User, own},
    error::Result,
    reads,
    server::Server,
    stands_in_for,
};

/// How long a user types whose client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether somebody types. Ruma's type wants a timeout, which the specification does not require.
pub struct SetTypingRequest {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    timeout: Option<Duration>,
}

stands_in_for!(SetTypingRequest, Request);

reads!(SetTypingRequest => Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Body {
        typing: bool,
        timeout: Option<u64>,
    }
    let (room_id, user_id) = own::path(path_args)?;
    let Body { typing, timeout } = own::body(&request)?;
    let timeout = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    Self { room_id, user_id, timeout: typing.then_some(timeout) }
});

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidtypinguserid))
pub async fn set_typing(server: &Server, user: User, req: SetTypingRequest) -> Result<Response> {
    user.require_self(&req.user_id, "You cannot type for somebody else.")?;
    let room = joined_room(&server.store.read(), &user, &req.room_id)?;
    server.typing.set(&server.rooms, room, &user.id, req.timeout)?;
    Ok(Response::new())
}
