//! What is in a room, whoever asks: an administrator looks without being a member.

use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Dir, Nothing, Reply, ok, requests};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    rooms::{self, Event, client_event, event, members, point::Point, state, timeline},
    server::Server,
    store::Read,
};

requests! {
    /// `GET /_synapse/admin/v1/rooms/{room_id}/members`
    Members = GET "/_synapse/admin/v1/rooms/{room_id}/members" ((OwnedRoomId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/state`
    State = GET "/_synapse/admin/v1/rooms/{room_id}/state" ((OwnedRoomId,), StateQuery, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/messages`
    Messages = GET "/_synapse/admin/v1/rooms/{room_id}/messages" ((OwnedRoomId,), MessagesQuery, Nothing);
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

/// `GET /_synapse/admin/v1/fetch_event/{event_id}`
pub async fn fetch_event(server: &Server, _: Administrator, req: FetchEvent) -> Result<Reply> {
    let read = server.store.read();
    let event = event::by_id(&read, &req.path.0)?;
    let event = event.ok_or_else(|| Error::not_found("This server does not have the event."))?;
    ok(json!({ "event": shown(&read, &event)? }))
}
