//! [Knocking on rooms](https://spec.matrix.org/latest/client-server-api/#knocking-on-rooms).

use ruma::api::client::knock::knock_room::v3::{Request, Response};

use super::joining::resolve;
use crate::{api::auth::User, error::Result, rooms::membership, server::Server};

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3knockroomidoralias))
pub async fn knock_room(server: &Server, user: User, req: Request) -> Result<Response> {
    let room_id = resolve(server, &server.store.read(), &req.room_id_or_alias)?;
    membership::knock(&server.rooms, &room_id, &user.id, req.reason).await?;
    Ok(Response::new(room_id))
}
