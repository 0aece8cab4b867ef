//! The rooms that two users share.

use ruma::{
    OwnedRoomId, UInt, UserId,
    api::client::membership::get_mutual_rooms::{unstable, v1},
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::{self, members},
    server::Server,
};

/// `GET /_matrix/client/v1/mutual_rooms`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mutual_rooms))
pub async fn get_mutual_rooms(server: &Server, user: User, req: v1::Request) -> Result<v1::Response> {
    let rooms = mutual(server, &user, &req.user_id, req.from.as_deref())?;
    Ok(v1::Response::new(UInt::try_from(rooms.len()).unwrap_or_default(), rooms))
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/2666))
pub async fn get_mutual_rooms_unstable(
    server: &Server,
    user: User,
    req: unstable::Request,
) -> Result<unstable::Response> {
    Ok(unstable::Response::new(mutual(server, &user, &req.user_id, req.from.as_deref())?))
}

fn mutual(server: &Server, user: &User, other: &UserId, from: Option<&str>) -> Result<Vec<OwnedRoomId>> {
    if user.id == other {
        return Err(Error::invalid_param("You share all your rooms with yourself."));
    }
    if from.is_some() {
        return Err(Error::invalid_param("There are no further results: all come at once."));
    }
    let read = server.store.read();
    members::shared_rooms(&read, &user.id, other).map(|room| Ok(rooms::get(&read, room?)?.id)).collect()
}
