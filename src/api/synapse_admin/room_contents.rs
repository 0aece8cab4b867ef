//! What is in a room, whoever asks: an administrator looks without being a member.

use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Dir, Nothing, Reply, ok, requests};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    ids::EventNo,
    rooms::{
        self, Event,
        access::View,
        client_event, event, history, members,
        point::Point,
        spaces::{self, Known, Walk, Walker},
        state,
        summary::Viewer,
        timeline,
    },
    server::Server,
    store::{Direction, Read},
};

requests! {
    /// `GET /_synapse/admin/v1/rooms/{room_id}/members`
    Members = GET "/_synapse/admin/v1/rooms/{room_id}/members" ((OwnedRoomId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/state`
    State = GET "/_synapse/admin/v1/rooms/{room_id}/state" ((OwnedRoomId,), StateQuery, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/messages`
    Messages = GET "/_synapse/admin/v1/rooms/{room_id}/messages" ((OwnedRoomId,), MessagesQuery, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/context/{event_id}`
    Context = GET "/_synapse/admin/v1/rooms/{room_id}/context/{event_id}" ((OwnedRoomId, OwnedEventId), ContextQuery, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/timestamp_to_event`
    TimestampToEvent = GET "/_synapse/admin/v1/rooms/{room_id}/timestamp_to_event" ((OwnedRoomId,), Moment, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/hierarchy`
    Hierarchy = GET "/_synapse/admin/v1/rooms/{room_id}/hierarchy" ((OwnedRoomId,), HierarchyQuery, Nothing);
    /// `GET /_synapse/admin/v1/fetch_event/{event_id}`
    FetchEvent = GET "/_synapse/admin/v1/fetch_event/{event_id}" ((OwnedEventId,), Nothing, Nothing);
}

/// Which state to show.
#[derive(Debug, Deserialize)]
pub struct StateQuery {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Which messages to show.
#[derive(Debug, Deserialize)]
pub struct MessagesQuery {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    dir: Option<Dir>,
}

/// How much to show around an event.
#[derive(Debug, Deserialize)]
pub struct ContextQuery {
    limit: Option<usize>,
}

/// A time, and in which direction to look from there.
#[derive(Debug, Deserialize)]
pub struct Moment {
    ts: u64,
    dir: Option<Dir>,
}

/// Which part of a space to show.
#[derive(Debug, Deserialize)]
pub struct HierarchyQuery {
    max_depth: Option<u64>,
    limit: Option<u64>,
    from: Option<String>,
}

/// The most events that are shown at once.
const MAX_EVENTS: usize = 500;

fn shown(read: &dyn Read, event: &Event) -> Result<JsonValue> {
    Ok(serde_json::from_str(client_event::room_timeline(read, event, None)?.json().get())?)
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/members`
pub async fn list_members(server: &Server, _: Administrator, req: Members) -> Result<Reply> {
    let read = server.store.read();
    let (no, _) = rooms::require(&read, &req.path.0)?;
    let joined = members::joined(&read, no).map(|row| row.map(|(user, _)| user)).collect::<Result<Vec<_>>>()?;
    ok(json!({ "members": joined, "total": joined.len() }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/state`
pub async fn show_state(server: &Server, _: Administrator, req: State) -> Result<Reply> {
    let read = server.store.read();
    let (no, _) = rooms::require(&read, &req.path.0)?;
    let mut events = Vec::new();
    for (_, event) in state::all(&read, no)? {
        let event = event::require(&read, event)?;
        if req.query.kind.as_deref().is_none_or(|kind| event.pdu.kind.to_string() == kind) {
            events.push(shown(&read, &event)?);
        }
    }
    ok(json!({ "state": events }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/messages`
pub async fn list_messages(server: &Server, _: Administrator, req: Messages) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let (no, _) = rooms::require(&read, &req.path.0)?;
    let backwards = query.dir != Some(Dir::F);
    let point = |token: Option<&str>| token.map(Point::parse).transpose();
    let start = point(query.from.as_deref())?.unwrap_or(if backwards { Point(i64::MAX) } else { Point(i64::MIN) });
    let to = point(query.to.as_deref())?;
    let limit = query.limit.unwrap_or(10).clamp(1, MAX_EVENTS);
    let places: Vec<_> = if backwards {
        let places = timeline::before(&read, no, start.0.saturating_add(1)).take(limit);
        places
            .take_while(|row| row.as_ref().map_or(true, |(at, _)| to.is_none_or(|to| *at > to.0)))
            .collect::<Result<_>>()?
    } else {
        let places = timeline::after(&read, no, start.0).take(limit);
        places
            .take_while(|row| row.as_ref().map_or(true, |(at, _)| to.is_none_or(|to| *at <= to.0)))
            .collect::<Result<_>>()?
    };
    let mut chunk = Vec::with_capacity(places.len());
    for (_, event) in &places {
        chunk.push(shown(&read, &*event::require(&read, *event)?)?);
    }
    let end = places.last().filter(|_| places.len() == limit);
    let end = end.map(|(at, _)| if backwards { Point::before(*at) } else { Point::after(*at) });
    ok(json!({ "chunk": chunk, "start": start.to_string(), "end": end.map(|end| end.to_string()), "state": [] }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/context/{event_id}`
pub async fn show_context(server: &Server, _: Administrator, req: Context) -> Result<Reply> {
    let (read, (room, id)) = (server.store.read(), req.path);
    let (no, _) = rooms::require(&read, &room)?;
    let event = event::by_id(&read, &id)?.filter(|event| event.room == no && event.order != 0);
    let event = event.ok_or_else(|| Error::not_found("There is no such event in this room."))?;
    let limit = req.query.limit.unwrap_or(10).min(MAX_EVENTS);
    let show_all = |places: Vec<(i64, EventNo)>| -> Result<Vec<JsonValue>> {
        places.into_iter().map(|(_, event)| shown(&read, &*event::require(&read, event)?)).collect()
    };
    let before: Vec<_> = timeline::before(&read, no, event.order).take(limit.div_ceil(2)).collect::<Result<_>>()?;
    let after: Vec<_> = timeline::after(&read, no, event.order).take(limit / 2).collect::<Result<_>>()?;
    let start = Point::before(before.last().map_or(event.order, |(order, _)| *order));
    let end = Point::after(after.last().map_or(event.order, |(order, _)| *order));
    let last = after.last().map(|(_, no)| event::require(&read, *no)).transpose()?;
    let state = View::Past(last.as_ref().unwrap_or(&event).state_after).all(&read)?;
    let state = state.into_iter().map(|no| shown(&read, &*event::require(&read, no)?)).collect::<Result<Vec<_>>>()?;
    ok(json!({
        "start": start.to_string(),
        "end": end.to_string(),
        "event": shown(&read, &event)?,
        "events_before": show_all(before)?,
        "events_after": show_all(after)?,
        "state": state,
    }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/timestamp_to_event`: among the events that are here.
pub async fn timestamp_to_event(server: &Server, _: Administrator, req: TimestampToEvent) -> Result<Reply> {
    let read = server.store.read();
    let (no, _) = rooms::require(&read, &req.path.0)?;
    let direction = if req.query.dir == Some(Dir::B) { Direction::Backward } else { Direction::Forward };
    let found = history::nearest(&read, &|_| Ok(true), no, req.query.ts, direction)?;
    let found = found.ok_or_else(|| Error::not_found("There is no event from that time on in this direction."))?;
    ok(json!({ "event_id": found.pdu.event_id, "origin_server_ts": found.pdu.origin_server_ts }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/hierarchy`: of the rooms that this server knows.
pub async fn show_hierarchy(server: &Server, _: Administrator, req: Hierarchy) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    rooms::require(&read, &req.path.0)?;
    let walk = Walk { max_depth: query.max_depth, suggested_only: false, limit: query.limit };
    let mut walker = Walker::new(&req.path.0, Vec::new(), walk, query.from.as_deref())?;
    while let Some(step) = walker.next() {
        if let Known::Shown(chunk) = spaces::chunk(&read, Viewer::Administrator, &step.room, false)? {
            walker.found(&step, chunk);
        }
    }
    ok(serde_json::to_value(walker.page())?)
}

/// `GET /_synapse/admin/v1/fetch_event/{event_id}`
pub async fn fetch_event(server: &Server, _: Administrator, req: FetchEvent) -> Result<Reply> {
    let read = server.store.read();
    let event = event::by_id(&read, &req.path.0)?;
    let event = event.ok_or_else(|| Error::not_found("This server does not have the event."))?;
    ok(json!({ "event": shown(&read, &event)? }))
}
