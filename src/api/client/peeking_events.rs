//! [Looking into a room without being in it](https://spec.matrix.org/latest/client-server-api/#room-previews).

use ruma::RoomId;

use super::old_sync::{EventsRequest, view};
use crate::{
    api::{auth::User, own::Json},
    error::Result,
    rooms::access,
    server::Server,
    store::Snapshot,
    sync::{
        self as syncing,
        old::{self, Stream},
    },
};

/// `GET /_matrix/client/v3/events` with a `room_id`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#peeking_get_matrixclientv3events)). Whoever may read the room
/// may wait for its events; when that ends meanwhile, so does the request, with 403 `M_FORBIDDEN`.
pub(super) async fn peek_events(
    server: &Server,
    user: &User,
    req: &EventsRequest,
    room: &RoomId,
) -> Result<Json<Stream>> {
    let from = req.from(server)?;
    let no = access::state_of(&server.store.read(), &user.id, room)?.no;
    let build = |snapshot: &Snapshot<'_>| old::peek(&view(server, user, snapshot)?, room, from);
    syncing::long_poll_room(&server.store, no, &user.id, &user.device, req.timeout(), build).await.map(Json)
}
