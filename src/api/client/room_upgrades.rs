//! [Room upgrades](https://spec.matrix.org/latest/client-server-api/#room-upgrades).

use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use super::create_room;
use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::room_upgrades,
    rooms::upgrade::Upgrade,
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidupgrade))
pub async fn upgrade_room(server: &Server, user: User, req: Request) -> Result<Response> {
    let version = create_room::version(&server.config(), Some(req.new_version))?;
    let upgrade = Upgrade { user: user.id, version, additional_creators: req.additional_creators };
    let (federation, room) = (server.federation.clone(), req.room_id);
    // To its end, also when the client goes away: the new room is nothing without the tombstone.
    let replacement = tokio::spawn(async move { room_upgrades::replace(&federation, &room, &upgrade).await });
    Ok(Response::new(replacement.await.map_err(Error::internal)??))
}
