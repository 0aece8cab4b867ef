//! [Knocking on rooms](https://spec.matrix.org/latest/client-server-api/#knocking-on-rooms).

use ruma::api::client::knock::knock_room::v3::{Request, Response};

use super::joining::locate;
use crate::{api::auth::User, error::Result, federation, server::Server};

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3knockroomidoralias))
pub async fn knock_room(server: &Server, user: User, req: Request) -> Result<Response> {
    let (room_id, via) = locate(server, &req.room_id_or_alias, req.via).await?;
    federation::knock::knock(&server.federation, &room_id, &user.id, via, req.reason).await?;
    Ok(Response::new(room_id))
}
