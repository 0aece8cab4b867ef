//! [Retrieving events](https://spec.matrix.org/latest/server-server-api/#retrieving-events): single ones, the state at
//! one, and the one nearest to a time.

use http::{Request, Response};
use ruma::{
    OwnedEventId,
    api::{
        Direction as Dir,
        federation::event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
    },
};

use super::event_lists;
use crate::{
    api::auth::Origin,
    clock,
    error::{Error, Result},
    http::Body,
    ids::EventNo,
    rooms::{
        self, auth_chains, deltas,
        event::{self, Event},
        history,
        reader::Reader,
        state,
    },
    server::Server,
    store::{Direction, Read},
};

/// `GET /_matrix/federation/v1/event/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1eventeventid))
pub async fn get_event(
    server: &Server,
    origin: Origin,
    req: get_event::v1::Request,
) -> Result<get_event::v1::Response> {
    let read = server.store.read();
    let unknown = || Error::not_found("This server has no such event.");
    let event = event::by_id(&read, &req.event_id)?.ok_or_else(unknown)?;
    let room = rooms::get(&read, event.room)?;
    let pdu = Reader::enter(&read, &origin.server, &room.id)?.shown(&event)?.ok_or_else(unknown)?;
    Ok(get_event::v1::Response::new(server.name().to_owned(), clock::now(), pdu))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1stateroomid))
///
/// The answer can have tens of thousands of events, so it is written as the other side reads it.
pub async fn get_room_state(
    server: &Server,
    origin: Origin,
    req: get_room_state::v1::Request,
    _: Request<Body>,
) -> Result<Response<Body>> {
    let (pdus, auth_chain) = event_lists::made(server, origin.server, move |read, origin| {
        let reader = Reader::enter(read, origin, &req.room_id)?;
        state_at(read, &*reader.require(&req.event_id)?)
    })
    .await?;
    Ok(event_lists::answer(server, String::new(), vec![("auth_chain", auth_chain), ("pdus", pdus)]))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1state_idsroomid))
pub async fn get_room_state_ids(
    server: &Server,
    origin: Origin,
    req: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response> {
    event_lists::made(server, origin.server, move |read, origin| {
        let reader = Reader::enter(read, origin, &req.room_id)?;
        let (pdus, auth_chain) = state_at(read, &*reader.require(&req.event_id)?)?;
        let ids = |events: Vec<EventNo>| -> Result<Vec<OwnedEventId>> {
            events.into_iter().map(|no| event::id_of(read, no)).collect()
        };
        Ok(get_room_state_ids::v1::Response::new(ids(auth_chain)?, ids(pdus)?))
    })
    .await
}

/// The room's state before the event, and the events that allow it.
fn state_at(read: &dyn Read, event: &Event) -> Result<(Vec<EventNo>, Vec<EventNo>)> {
    if !event.is_placed() || !deltas::is_whole(read, event.state_before)? {
        return Err(Error::not_found("This server does not know the state of the room at this event."));
    }
    let state: Vec<_> = state::at(read, event.state_before)?.into_values().collect();
    let auth_chain = auth_chains::of(read, state.iter().copied())?;
    Ok((state, auth_chain.into_iter().collect()))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid))
pub async fn get_event_by_timestamp(
    server: &Server,
    origin: Origin,
    req: get_event_by_timestamp::v1::Request,
) -> Result<get_event_by_timestamp::v1::Response> {
    let read = server.store.read();
    let reader = Reader::enter(&read, &origin.server, &req.room_id)?;
    let direction = match req.dir {
        Dir::Forward => Direction::Forward,
        Dir::Backward => Direction::Backward,
    };
    let may_see = |event: &Event| reader.sees(event);
    let event = history::nearest(&read, &may_see, reader.no, req.ts.get().into(), direction)?;
    let event = event.ok_or_else(|| Error::not_found("There is no event from that time on in this direction."))?;
    Ok(get_event_by_timestamp::v1::Response::new(event.pdu.event_id.clone(), event.pdu.origin_server_ts))
}
