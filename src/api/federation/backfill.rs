//! [Backfilling and retrieving missing events](https://spec.matrix.org/latest/server-server-api/#backfilling-and-retrieving-missing-events).

use ruma::api::federation::{backfill::get_backfill, event::get_missing_events};

use crate::{
    api::auth::Origin,
    clock,
    error::Result,
    rooms::{ancestors, reader::Reader},
    server::Server,
};

/// How many events an answer has at most.
const MAX_EVENTS: usize = 100;

/// `GET /_matrix/federation/v1/backfill/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1backfillroomid))
pub async fn backfill_room(
    server: &Server,
    origin: Origin,
    req: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response> {
    let read = server.store.read();
    let reader = Reader::enter(&read, &origin.server, &req.room_id)?;
    let pdus = ancestors::backwards(&reader, first(&req.v), limit(req.limit.into()))?;
    Ok(get_backfill::v1::Response::new(server.name().to_owned(), clock::now(), pdus))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1get_missing_eventsroomid))
pub async fn get_missing_previous_events(
    server: &Server,
    origin: Origin,
    req: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response> {
    let read = server.store.read();
    let reader = Reader::enter(&read, &origin.server, &req.room_id)?;
    let (earliest, latest) = (first(&req.earliest_events), first(&req.latest_events));
    let events = ancestors::between(&reader, earliest, latest, req.min_depth.into(), limit(req.limit.into()))?;
    Ok(get_missing_events::v1::Response::new(events))
}

fn limit(asked: u64) -> usize {
    usize::try_from(asked).unwrap_or(MAX_EVENTS).min(MAX_EVENTS)
}

/// As many of the events that another server names as are looked at.
fn first<T>(named: &[T]) -> &[T] {
    named.get(..MAX_EVENTS).unwrap_or(named)
}
