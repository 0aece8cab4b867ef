//! [A room as it is](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidinitialsync), for who
//! looks into it without being in it.

use ruma::{OwnedRoomId, api::client::peeking::get_current_state};

use super::old_sync::{InitialSyncRequest, view};
use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::Result,
    reads,
    server::Server,
    stands_in_for,
    store::Snapshot,
    sync::{
        self as syncing,
        old::{self, RoomInfo},
    },
};

/// A request for a room. The specification names no limit, but clients send one as to `/initialSync`.
pub struct RoomInitialSyncRequest {
    room_id: OwnedRoomId,
    query: InitialSyncRequest,
}

stands_in_for!(RoomInitialSyncRequest, get_current_state::v3::Request);

reads!(RoomInitialSyncRequest => Json<RoomInfo>, |request, args| {
    let (room_id,) = own::path(args)?;
    Self { room_id, query: own::query(&request)? }
});

/// `GET /_matrix/client/v3/rooms/{roomId}/initialSync`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidinitialsync))
pub async fn room_initial_sync(server: &Server, user: User, req: RoomInitialSyncRequest) -> Result<Json<RoomInfo>> {
    let build = |snapshot: &Snapshot<'_>| {
        Ok((old::room(&view(server, &user, snapshot)?, &req.room_id, req.query.limit())?, true))
    };
    syncing::at_once(&server.whole_syncs, &server.store, build).await.map(Json)
}
