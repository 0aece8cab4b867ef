//! [Events that relate to an event](https://spec.matrix.org/latest/client-server-api/#relationships-api).

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedUserId, RoomId, UInt,
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
    ids::{EventNo, RoomNo},
    rooms::{Event, access, client_event::View, event, history, point::Point, relations, timeline},
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
    let ignored = account_data::ignored_users(&snapshot, &user.id)?;
    let view = view(&snapshot, user, ignored.clone());
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
    let mut reached = None;
    for (looked_at, child) in children(&snapshot, &target, span, query.recurse)?.enumerate() {
        let Child { order, no, relation } = child?;
        let is_wanted = relation.is_some() && query.rel_type.as_ref().is_none_or(|_| query.rel_type == relation);
        let shown = if is_wanted { shown(&snapshot, &view, &ignored, query, no)? } else { None };
        if looked_at == LOOKED_AT || (shown.is_some() && answer.chunk.len() as u64 == limit) {
            answer.next_batch = reached.map(|point: Point| point.to_string());
            break;
        }
        answer.chunk.extend(shown);
        reached = Some(match query.dir {
            Dir::Backward => Point::before(order),
            Dir::Forward => Point::after(order),
        });
    }
    Ok(answer)
}

/// The event as the user sees it, if the user may see and wants it.
fn shown(
    read: &dyn Read,
    view: &View<'_>,
    ignored: &BTreeSet<OwnedUserId>,
    query: &Query,
    no: EventNo,
) -> Result<Option<Raw<AnyMessageLikeEvent>>> {
    let event = event::require(read, no)?;
    let is_wanted = query.kind.as_ref().is_none_or(|kind| *kind == event.pdu.kind);
    if !is_wanted || history::is_ignored(ignored, &event) || !view.may_see(&event)? {
        return Ok(None);
    }
    Ok(Some(view.room_timeline(&event)?.cast_unchecked()))
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

/// An event of the room, and how it relates to another if it does so to the one in question.
struct Child {
    order: i64,
    no: EventNo,
    relation: Option<String>,
}

type Children<'r> = Box<dyn Iterator<Item = Result<Child>> + 'r>;

/// What relates to the event, in the order of the timeline; with `recurse`, what relates to that as well.
fn children<'r>(read: &'r dyn Read, target: &Event, span: Span, recurse: bool) -> Result<Children<'r>> {
    if !recurse {
        return Ok(Box::new(direct(read, target.no, span)));
    }
    let Some(mut found) = descendants(read, target.no)? else { return along_timeline(read, target, span) };
    let (from, to) = span.bounds();
    found.retain(|child| (from..to).contains(&child.order));
    found.sort_by_key(|child| child.order);
    Ok(match span.direction {
        Direction::Forward => Box::new(found.into_iter().map(Ok)),
        Direction::Backward => Box::new(found.into_iter().rev().map(Ok)),
    })
}

fn direct(read: &dyn Read, target: EventNo, span: Span) -> impl Iterator<Item = Result<Child>> + '_ {
    let (from, to) = span.bounds();
    trees::RELATIONS
        .range(read, (target, from), (target, to), span.direction)
        .map(|row| row.map(|((_, order, no), relation)| Child { order, no, relation: Some(relation) }))
}

/// All that relates to the event in up to [`DEPTH`] steps, if that is not too much.
fn descendants(read: &dyn Read, target: EventNo) -> Result<Option<Vec<Child>>> {
    let everything = Span { after: None, until: None, direction: Direction::Forward };
    let (mut found, mut seen, mut level) = (Vec::new(), HashSet::from([target]), vec![target]);
    for _ in 0..DEPTH {
        for parent in std::mem::take(&mut level) {
            for child in direct(read, parent, everything) {
                let child = child?;
                if seen.insert(child.no) {
                    level.push(child.no);
                    found.push(child);
                }
                if found.len() > LOOKED_AT {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(found))
}

/// The same found the other way round, where there is too much of it to look at before it is known where to begin: the
/// events of the room in their order, each with what it relates to. None is looked at before the first that can be meant:
/// the event itself, or what relates to it where that came before it.
fn along_timeline<'r>(read: &'r dyn Read, target: &Event, span: Span) -> Result<Children<'r>> {
    let (room, order, target) = (target.room, target.order, target.no);
    let everything = Span { after: None, until: None, direction: Direction::Forward };
    let first = direct(read, target, everything).next().transpose()?.map_or(order, |child| child.order.min(order));
    let (from, to) = span.bounds();
    let from = from.max(first);
    let judge = move |(order, no)| Ok(Child { order, no, relation: relation_to(read, room, target, no)? });
    Ok(match span.direction {
        Direction::Forward => Box::new(
            timeline::after(read, room, from.saturating_sub(1))
                .take_while(move |place| place.as_ref().map_or(true, |(order, _)| *order < to))
                .map(move |place| place.and_then(judge)),
        ),
        Direction::Backward => Box::new(
            timeline::before(read, room, to)
                .take_while(move |place| place.as_ref().map_or(true, |(order, _)| *order >= from))
                .map(move |place| place.and_then(judge)),
        ),
    })
}

/// How the event relates to another, if that leads to `target` in up to [`DEPTH`] steps within the room.
fn relation_to(read: &dyn Read, room: RoomNo, target: EventNo, no: EventNo) -> Result<Option<String>> {
    let Some(relation) = relations::relation(&event::require(read, no)?.pdu.content) else { return Ok(None) };
    let mut parent = event::by_id(read, &relation.event_id)?;
    for _ in 0..DEPTH {
        let Some(event) = parent.filter(|event| event.room == room) else { return Ok(None) };
        if event.no == target {
            return Ok(Some(relation.rel_type));
        }
        let next = relations::relation(&event.pdu.content);
        parent = next.map(|next| event::by_id(read, &next.event_id)).transpose()?.flatten();
    }
    Ok(None)
}
