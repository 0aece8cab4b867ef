//! [Room upgrades](https://spec.matrix.org/latest/client-server-api/#room-upgrades).

use http::StatusCode;
use ruma::{
    OwnedRoomId, RoomId,
    api::client::room::upgrade_room::v3::{Request, Response},
};

use super::create_room;
use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::{Federation, leave, policy},
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
    let (federation, room) = (server.federation.clone(), req.room_id);
    // To its end, also when the client goes away: the new room is nothing without the tombstone.
    let replacement = tokio::spawn(async move { replace(&federation, &room, &upgrade).await });
    Ok(Response::new(replacement.await.map_err(Error::internal)??))
}

/// Replaces the room; gives the new one's ID.
async fn replace(federation: &Federation, room: &RoomId, upgrade: &Upgrade) -> Result<OwnedRoomId> {
    let (engine, user) = (&federation.rooms, &*upgrade.user);
    let guard = engine.lock(room).await;
    let (old, (new, id)) = engine.store.write(|tx| {
        let (no, record) = match rooms::require(tx, room) {
            Err(error) if error.is_not_found() => return Err(Error::forbidden("You are not in this room.")),
            found => found?,
        };
        Ok((no, upgrade::successor(tx, engine, no, &record, upgrade)?))
    })?;
    let tombstone = upgrade::tombstone(&id)?;
    let sent = policy::send_and(federation, &guard, user, tombstone, |tx, _| upgrade::hand_over(tx, old, new));
    if let Err(refused) = sent.await {
        drop(guard);
        // What replaces nothing is of no use.
        leave::leave(federation, &id, user, None).await?;
        return Err(refused);
    }
    let closing = upgrade::closing(&engine.store.read(), old, new)?;
    for draft in closing {
        match policy::send_and(federation, &guard, user, draft, |_, _| Ok(())).await {
            // It is the tombstone that counts.
            Err(error) if error.status() != StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::debug!("{room} stays open after its upgrade: {error}");
            }
            done => drop(done?),
        }
    }
    Ok(id)
}
