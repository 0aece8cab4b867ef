//! [Syncing as it was before `/sync`](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3initialsync), for
//! old bots. What goes into the answers is made in `src/sync/old.rs`.

use std::time::Duration;

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        auth_scheme::AccessToken,
        client::{peeking::listen_to_new_events, room::get_room_event},
    },
};
use serde::Deserialize;

use super::peeking_events;
use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    ids::Position,
    operation, reads,
    rooms::{client_event, event, point::Point, visibility},
    server::Server,
    stands_in_for,
    store::Snapshot,
    sync::{
        self as syncing, Live, View,
        old::{self, Initial, Stream},
    },
};

/// How many events of each room come with the first answer, unless the client says another number.
const DEFAULT_LIMIT: usize = 10;

/// How many at most.
const MAX_LIMIT: usize = 1_000;

/// The query of `GET /initialSync`, and of the same for one room.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct InitialSyncRequest {
    limit: Option<u64>,
    archived: bool,
}

operation!(GET "/_matrix/client/v3/initialSync", AccessToken: InitialSyncRequest => Json<Initial>, |request, _args| {
    own::query(&request)?
});

impl InitialSyncRequest {
    /// How many events of a room are asked for, within bounds.
    pub(super) fn limit(&self) -> usize {
        self.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT))
    }
}

/// `GET /_matrix/client/v3/initialSync`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3initialsync))
pub async fn initial_sync(server: &Server, user: User, req: InitialSyncRequest) -> Result<Json<Initial>> {
    let build =
        |snapshot: &Snapshot<'_>| Ok((old::initial(&view(server, &user, snapshot)?, req.limit(), req.archived)?, true));
    syncing::at_once(&server.whole_syncs, &server.store, build).await.map(Json)
}

/// What the user sees.
pub(super) fn view<'a>(server: &'a Server, user: &'a User, snapshot: &'a Snapshot<'a>) -> Result<View<'a>> {
    let live = Live { typing: &server.typing, presence: &server.presence };
    View::new(snapshot, live, &user.id, &user.device)
}

/// The query of `GET /events`; with a room it is the operation `peekEvents` of the same path.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsRequest {
    from: Option<String>,
    timeout: u64,
    pub(super) room_id: Option<OwnedRoomId>,
}

stands_in_for!(EventsRequest, listen_to_new_events::v3::Request);

reads!(EventsRequest => Json<Stream>, |request, _args| own::query(&request)?);

impl EventsRequest {
    /// Where the client goes on; without a token, from now on.
    pub(super) fn from(&self, server: &Server) -> Result<Position> {
        match Point::parse_optional(self.from.as_deref())? {
            Some(point) => Ok(Position(u64::try_from(point.0).unwrap_or(0))),
            None => server.store.read().position(),
        }
    }

    /// How long to wait for events.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// `GET /_matrix/client/v3/events`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3events))
pub async fn get_events(server: &Server, user: User, req: EventsRequest) -> Result<Json<Stream>> {
    if let Some(room) = &req.room_id {
        return peeking_events::peek_events(server, &user, &req, room).await;
    }
    server.presence.active(&server.store, &user.id)?;
    let from = req.from(server)?;
    let build = |snapshot: &Snapshot<'_>| old::events(&view(server, &user, snapshot)?, from);
    syncing::long_poll(&server.store, &user.id, &user.device, req.timeout(), build).await.map(Json)
}

/// A request for an event without its room.
pub struct EventRequest {
    event_id: OwnedEventId,
}

operation!(
    GET "/_matrix/client/v3/events/{event_id}",
    AccessToken: EventRequest => get_room_event::v3::Response,
    |_request, args| {
        let (event_id,) = own::path(args)?;
        Self { event_id }
    }
);

/// `GET /_matrix/client/v3/events/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3eventseventid))
pub async fn get_one_event(server: &Server, user: User, req: EventRequest) -> Result<get_room_event::v3::Response> {
    let snapshot = server.store.read();
    let not_found = || Error::not_found("There is no such event, or you may not see it.");
    let event = event::by_id(&snapshot, &req.event_id)?.ok_or_else(not_found)?;
    if !visibility::may_see_event(&snapshot, &user.id, &event)? {
        return Err(not_found());
    }
    let viewer = Some((&*user.id, &*user.device));
    Ok(get_room_event::v3::Response::new(client_event::room_timeline(&snapshot, &event, viewer)?))
}
