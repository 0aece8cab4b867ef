//! [Events that relate to an event](https://spec.matrix.org/latest/client-server-api/#relationships-api).

use std::{collections::HashSet, sync::Arc};

use ruma::{
    EventId, OwnedEventId, RoomId, UInt,
    api::{
        Direction as Dir,
        client::relations::{
            get_relating_events as all, get_relating_events_with_rel_type as of_type,
            get_relating_events_with_rel_type_and_event_type as of_types,
        },
    },
    events::{AnyMessageLikeEvent, TimelineEventType},
    serde::Raw,
};

use super::message_pagination::view;
use crate::{
    api::auth::User,
    error::{Error, Result},
    ids::EventNo,
    rooms::{Event, access, client_event::View, event, point::Point},
    server::Server,
    store::{Direction, Read, trees},
    users::account_data,
};

/// Events per page: by default and at most.
const PAGE: u64 = 50;
const MAX_PAGE: u64 = 1_000;

/// How many steps away relations are followed.
const DEPTH: u32 = 3;

/// How many relations one request looks at.
const LOOKED_AT: usize = 5_000;

/// What the three operations ask for.
struct Query {
    room_id: ruma::OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    kind: Option<TimelineEventType>,
    from: Option<String>,
    to: Option<String>,
    dir: Dir,
    limit: Option<UInt>,
    recurse: bool,
}

/// What the three operations answer.
struct Answer {
    chunk: Vec<Raw<AnyMessageLikeEvent>>,
    next_batch: Option<String>,
    prev_batch: Option<String>,
    recursion_depth: Option<UInt>,
}

macro_rules! answer {
    ($server:ident, $user:ident, $req:ident, $module:ident, $rel_type:expr, $kind:expr) => {{
        let query = Query {
            rel_type: $rel_type,
            kind: $kind,
            room_id: $req.room_id,
            event_id: $req.event_id,
            from: $req.from,
            to: $req.to,
            dir: $req.dir,
            limit: $req.limit,
            recurse: $req.recurse,
        };
        let answer = relating_events($server, &$user, &query)?;
        let mut response = $module::v1::Response::new(answer.chunk);
        response.next_batch = answer.next_batch;
        response.prev_batch = answer.prev_batch;
        response.recursion_depth = answer.recursion_depth;
        Ok(response)
    }};
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventid))
pub async fn get_relating_events(server: &Server, user: User, req: all::v1::Request) -> Result<all::v1::Response> {
    answer!(server, user, req, all, None, None)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype))
pub async fn get_relating_events_with_rel_type(
    server: &Server,
    user: User,
    req: of_type::v1::Request,
) -> Result<of_type::v1::Response> {
    answer!(server, user, req, of_type, Some(req.rel_type.to_string()), None)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype))
pub async fn get_relating_events_with_rel_type_and_event_type(
    server: &Server,
    user: User,
    req: of_types::v1::Request,
) -> Result<of_types::v1::Response> {
    answer!(server, user, req, of_types, Some(req.rel_type.to_string()), Some(req.event_type))
}

fn relating_events(server: &Server, user: &User, query: &Query) -> Result<Answer> {
    let snapshot = server.store.read();
    let view = view(&snapshot, user, account_data::ignored_users(&snapshot, &user.id)?);
    let target = visible_target(&snapshot, &view, user, &query.room_id, &query.event_id)?;
    let limit = query.limit.map_or(PAGE, u64::from).clamp(1, MAX_PAGE);
    let from = Point::parse_optional(query.from.as_deref())?;
    let to = Point::parse_optional(query.to.as_deref())?;
    let span = match query.dir {
        Dir::Backward => Span { after: to, until: from, direction: Direction::Backward },
        Dir::Forward => Span { after: from, until: to, direction: Direction::Forward },
    };
    let mut answer = Answer {
        chunk: Vec::new(),
        next_batch: None,
        prev_batch: query.from.clone(),
        recursion_depth: query.recurse.then(|| DEPTH.into()),
    };
    let mut last = None;
    for child in children(&snapshot, target.no, span, query.recurse)? {
        let Child { order, no, relation } = child?;
        if query.rel_type.as_ref().is_some_and(|wanted| *wanted != relation) {
            continue;
        }
        let event = event::require(&snapshot, no)?;
        if query.kind.as_ref().is_some_and(|kind| *kind != event.pdu.kind) || !view.may_see(&event)? {
            continue;
        }
        if answer.chunk.len() as u64 == limit {
            answer.next_batch = last.map(|point: Point| point.to_string());
            break;
        }
        answer.chunk.push(view.room_timeline(&event)?.cast_unchecked());
        last = Some(match query.dir {
            Dir::Backward => Point::before(order),
            Dir::Forward => Point::after(order),
        });
    }
    Ok(answer)
}

/// The event whose relations are asked for, if the user may see it.
fn visible_target(
    read: &dyn Read,
    view: &View<'_>,
    user: &User,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<Arc<Event>> {
    let not_found = || Error::not_found("There is no such event in this room, or you may not see it.");
    let readable = access::history_of(read, &user.id, room_id)?;
    let event = event::by_id(read, event_id)?.ok_or_else(not_found)?;
    if event.room != readable.no || !view.may_see(&event)? {
        return Err(not_found());
    }
    Ok(event)
}

/// A part of a timeline.
#[derive(Clone, Copy)]
struct Span {
    after: Option<Point>,
    until: Option<Point>,
    direction: Direction,
}

impl Span {
    /// The orders that lie in it: the first, and the one after the last.
    fn bounds(self) -> (i64, i64) {
        let next = |point: Point| point.0.saturating_add(1);
        (self.after.map_or(i64::MIN, next), self.until.map_or(i64::MAX, next))
    }
}

/// An event that relates to another.
struct Child {
    order: i64,
    no: EventNo,
    relation: String,
}

type Children<'r> = Box<dyn Iterator<Item = Result<Child>> + 'r>;

/// What relates to the event, in the order of the timeline; with `recurse`, what relates to that as well.
fn children(read: &dyn Read, target: EventNo, span: Span, recurse: bool) -> Result<Children<'_>> {
    let (from, to) = span.bounds();
    let direct = |target: EventNo, (from, to): (i64, i64)| {
        trees::RELATIONS
            .range(read, (target, from), (target, to), span.direction)
            .map(|row| row.map(|((_, order, no), relation)| Child { order, no, relation }))
    };
    if !recurse {
        return Ok(Box::new(direct(target, (from, to)).take(LOOKED_AT)));
    }
    let (mut found, mut seen, mut level) = (Vec::new(), HashSet::from([target]), vec![target]);
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for parent in std::mem::take(&mut level) {
            for child in direct(parent, (i64::MIN, i64::MAX)).take(LOOKED_AT.saturating_sub(found.len())) {
                let child = child?;
                if seen.insert(child.no) {
                    next.push(child.no);
                    found.push(child);
                }
            }
        }
        level = next;
    }
    found.retain(|child| (from..to).contains(&child.order));
    found.sort_by_key(|child| child.order);
    Ok(match span.direction {
        Direction::Forward => Box::new(found.into_iter().map(Ok)),
        Direction::Backward => Box::new(found.into_iter().rev().map(Ok)),
    })
}
