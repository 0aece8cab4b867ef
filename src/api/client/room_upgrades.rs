//! [Room upgrades](https://spec.matrix.org/latest/client-server-api/#room-upgrades).

use http::StatusCode;
use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use super::create_room;
use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::{leave, policy},
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
    let user = &upgrade.user;
    let guard = server.rooms.lock(&req.room_id).await;
    let (old, (new, id)) = server.store.write(|tx| {
        let (no, room) = match rooms::require(tx, &req.room_id) {
            Err(error) if error.is_not_found() => return Err(Error::forbidden("You are not in this room.")),
            found => found?,
        };
        Ok((no, upgrade::successor(tx, &server.rooms, no, &room, &upgrade)?))
    })?;
    let tombstone = upgrade::tombstone(&id)?;
    let sent = policy::send_and(&server.federation, &guard, user, tombstone, |tx, _| upgrade::hand_over(tx, old, new));
    if let Err(refused) = sent.await {
        drop(guard);
        // What replaces nothing is of no use.
        leave::leave(&server.federation, &id, user, None).await?;
        return Err(refused);
    }
    let closing = upgrade::closing(&server.store.read(), old, new)?;
    for draft in closing {
        match policy::send_and(&server.federation, &guard, user, draft, |_, _| Ok(())).await {
            // It is the tombstone that counts.
            Err(error) if error.status() != StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::debug!("{} stays open after its upgrade: {error}", req.room_id);
            }
            done => drop(done?),
        }
    }
    Ok(Response::new(id))
}
