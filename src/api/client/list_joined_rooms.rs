//! [The rooms of a user](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3joined_rooms).

use ruma::api::client::membership::joined_rooms::v3::{Request, Response};

use crate::{
    api::auth::User,
    error::Result,
    rooms::{self, members},
    server::Server,
};

/// `GET /_matrix/client/v3/joined_rooms`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3joined_rooms))
pub async fn get_joined_rooms(server: &Server, user: User, _: Request) -> Result<Response> {
    let snapshot = server.store.read();
    let joined = members::joined_rooms(&snapshot, &user.id)?;
    let ids = joined.into_iter().map(|no| rooms::get(&snapshot, no).map(|room| room.id));
    Ok(Response::new(ids.collect::<Result<_>>()?))
}
