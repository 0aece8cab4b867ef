//! [Room upgrades](https://spec.matrix.org/latest/client-server-api/#room-upgrades).

use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use super::create_room;
use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::{
        self,
        upgrade::{self, Upgrade},
    },
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidupgrade))
pub async fn upgrade_room(server: &Server, user: User, req: Request) -> Result<Response> {
    let version = create_room::version(&server.config(), Some(req.new_version))?;
    let upgrade = Upgrade { user: user.id, version, additional_creators: req.additional_creators };
    let _guard = server.rooms.lock(&req.room_id).await;
    let replacement = server.store.write(|tx| {
        let (no, room) = match rooms::require(tx, &req.room_id) {
            Err(error) if error.is_not_found() => return Err(Error::forbidden("You are not in this room.")),
            found => found?,
        };
        upgrade::upgrade(tx, &server.rooms, no, &room, &upgrade)
    })?;
    Ok(Response::new(replacement.1))
}
