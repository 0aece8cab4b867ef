//! [Paging through a room's history](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidmessages).

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{
        filter::{LazyLoadOptions, RoomEventFilter},
        message::get_message_events::v3::{Request, Response},
    },
    events::{AnyStateEvent, AnyTimelineEvent},
    serde::Raw,
};
use serde::Deserialize;

use crate::{
    api::{auth::User, own},
    error::{Error, Result},
    ids::RoomNo,
    reads,
    rooms::{
        Event, access,
        backfill::{self, Edge},
        client_event::View,
        event,
        history::{self, Page, Stretch},
        point::Point,
        visibility::Gate,
    },
    server::Server,
    stands_in_for,
    store::{Direction, Read},
    sync::filter,
    users::account_data,
};

/// Events per page at most.
const PAGE: usize = 1_000;

/// A request for a page. Unlike ruma's it may lack a direction, which is said to be missing only after who may not read
/// the room at all was told so; and its filter knows relation types.
pub struct MessagesRequest {
    room_id: OwnedRoomId,
    from: Option<String>,
    to: Option<String>,
    direction: Option<Direction>,
    limit: usize,
    filter: Filter,
}
stands_in_for!(MessagesRequest, Request);

/// A filter for events of one room, with the fields of
/// [MSC3874](https://github.com/matrix-org/matrix-spec-proposals/pull/3874).
#[derive(Deserialize, Default)]
pub(super) struct Filter {
    #[serde(flatten)]
    pub events: RoomEventFilter,
    #[serde(flatten)]
    relations: RelationFilter,
}

#[derive(Deserialize, Default)]
struct RelationFilter {
    #[serde(rename = "org.matrix.msc3874.rel_types")]
    rel_types: Option<Vec<String>>,
    #[serde(rename = "org.matrix.msc3874.not_rel_types", default)]
    not_rel_types: Vec<String>,
}

impl Filter {
    /// Reads the JSON text of a filter.
    pub fn parse(json: Option<&str>) -> Result<Self, serde_json::Error> {
        // Flattening both at once would buffer everything and lose errors, so the text is read twice.
        let Some(json) = json else { return Ok(Self::default()) };
        Ok(Self { events: serde_json::from_str(json)?, relations: serde_json::from_str(json)? })
    }

    /// Whether it lets the event through.
    pub fn accepts(&self, event: &Event) -> bool {
        let pdu = &event.pdu;
        filter::allows_room(&self.events, &pdu.room_id)
            && filter::allows_event(&self.events, &pdu.kind.to_string(), &pdu.sender, &pdu.content)
            && self.relations.accepts(event)
    }

    /// Whether the senders' member events are wanted too.
    pub fn is_lazy(&self) -> bool {
        matches!(self.events.lazy_load_options, LazyLoadOptions::Enabled { .. })
    }
}

impl RelationFilter {
    fn accepts(&self, event: &Event) -> bool {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Option<RelatesTo>,
        }
        #[derive(Deserialize)]
        struct RelatesTo {
            rel_type: Option<String>,
        }
        if self.rel_types.is_none() && self.not_rel_types.is_empty() {
            return true;
        }
        let content: Option<Content> = event.pdu.content_as();
        let relation = content.and_then(|content| content.relates_to?.rel_type);
        let listed = |types: &[String]| relation.as_ref().is_some_and(|relation| types.contains(relation));
        self.rel_types.as_deref().is_none_or(listed) && !listed(&self.not_rel_types)
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidmessages))
pub async fn get_room_events(server: &Server, user: User, req: MessagesRequest) -> Result<Response> {
    let (response, edge) = page(server, &user, &req)?;
    match edge {
        Some(edge) if server.federation.backfill(&req.room_id, &edge).await? => Ok(page(server, &user, &req)?.0),
        _ => Ok(response),
    }
}

/// The page as far as its events are here; and where it comes to a gap, this.
fn page(server: &Server, user: &User, req: &MessagesRequest) -> Result<(Response, Option<Edge>)> {
    let snapshot = server.store.read();
    let readable = access::history_of(&snapshot, &user.id, &req.room_id)?;
    let direction = req.direction.ok_or_else(|| Error::missing_param("dir is missing."))?;
    let mut to = Point::parse_optional(req.to.as_deref())?;
    let mut from = Point::parse_optional(req.from.as_deref())?;
    if let Some(last) = readable.until.map(Point::after) {
        match direction {
            Direction::Forward => to = Some(to.map_or(last, |to| to.min(last))),
            Direction::Backward => from = Some(from.map_or(last, |from| from.min(last))),
        }
    }
    let stretch = Stretch { from, to, direction, limit: req.limit };
    let gate = Gate::new(&snapshot, &user.id);
    let ignored = account_data::ignored_users(&snapshot, &user.id)?;
    let wanted = |event: &Event| req.filter.accepts(event) && !history::is_ignored(&ignored, event);
    let page = history::page(&snapshot, &gate, readable.no, stretch, &wanted)?;

    let mut response = Response::new();
    response.start = stretch.start(&snapshot, readable.no)?.to_string();
    response.end = page.end.map(|end| end.to_string());
    let view = view(&snapshot, user, ignored);
    response.chunk = show(&view, &page.events)?;
    if req.filter.is_lazy() {
        response.state = senders(&snapshot, &view, page.events.iter())?;
    }
    let edge = if direction == Direction::Backward { gap(&snapshot, readable.no, stretch, &page)? } else { None };
    Ok((response, edge))
}

/// Where earlier history is missing within a page that goes backwards.
fn gap(read: &dyn Read, room: RoomNo, stretch: Stretch, page: &Page) -> Result<Option<Edge>> {
    let start = stretch.start(read, room)?;
    // A full page ends at its last event, one for which much was looked at where that ended, others where there is
    // nothing more.
    let end = match page.events.last().filter(|_| page.events.len() == stretch.limit) {
        Some(last) => last.order,
        None => page.end.filter(|_| page.is_cut).map_or(i64::MIN, |end| end.0.saturating_add(1)),
    };
    let end = end.max(stretch.to.map_or(i64::MIN, |to| to.0));
    let edges = backfill::edges(read, room)?;
    Ok(edges.into_iter().find(|edge| edge.order >= end && Point::before(edge.order) <= start))
}

/// How the user sees events.
pub(super) fn view<'a>(read: &'a dyn Read, user: &'a User, ignored: BTreeSet<OwnedUserId>) -> View<'a> {
    View::new(read, Some((&user.id, &user.device))).ignoring(ignored.into_iter().collect())
}

/// The events as the user sees them.
pub(super) fn show(view: &View<'_>, events: &[Arc<Event>]) -> Result<Vec<Raw<AnyTimelineEvent>>> {
    events.iter().map(|event| view.room_timeline(event)).collect()
}

/// The member events of who sent these events.
pub(super) fn senders<'e>(
    read: &dyn Read,
    view: &View<'_>,
    events: impl Iterator<Item = &'e Arc<Event>>,
) -> Result<Vec<Raw<AnyStateEvent>>> {
    let show = |no| view.room_state(&*event::require(read, no)?);
    history::senders(read, events)?.into_iter().map(show).collect()
}

reads!(MessagesRequest => Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Query {
        from: Option<String>,
        to: Option<String>,
        dir: Option<ruma::api::Direction>,
        limit: Option<u64>,
        filter: Option<String>,
    }
    let (room_id,) = own::path(path_args)?;
    let query: Query = own::query(&request)?;
    let direction = query.dir.map(|dir| match dir {
        ruma::api::Direction::Forward => Direction::Forward,
        ruma::api::Direction::Backward => Direction::Backward,
    });
    let filter = Filter::parse(query.filter.as_deref())?;
    let limit = query.limit.or(filter.events.limit.map(u64::from)).unwrap_or(10);
    let limit = usize::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE);
    Self { room_id, from: query.from, to: query.to, direction, limit, filter }
});
