//! [Searching](https://spec.matrix.org/latest/client-server-api/#server-side-search).

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    api::client::{
        filter::RoomEventFilter,
        search::search_events::v3::{self as theirs, EventContext, GroupingKey, OrderBy, SearchKeys},
    },
    events::{AnyStateEvent, AnyTimelineEvent, StateEventType, room::member::MembershipState},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message_pagination::{show, view};
use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    ids::RoomNo,
    reads,
    rooms::{
        self, Event, access,
        client_event::View,
        event, history, members,
        search::{self, Found, Hit, Keys, Search, Token},
        state,
        visibility::Gate,
    },
    server::Server,
    stands_in_for,
    store::Read,
    sync::filter,
    users::account_data,
};

/// Results per page: by default and at most.
const PAGE: u64 = 10;
const MAX_PAGE: u64 = 100;

/// Events before and after each result at most.
const MAX_CONTEXT: u64 = 20;

/// Words that count of a search term.
const MAX_WORDS: usize = 32;

/// A search; ruma's does not tell whether context was asked for.
pub struct SearchRequest {
    next_batch: Option<String>,
    criteria: Option<Criteria>,
}
stands_in_for!(SearchRequest, theirs::Request);

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<SearchKeys>>,
    #[serde(default)]
    filter: RoomEventFilter,
    order_by: Option<OrderBy>,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: theirs::Groupings,
}

/// The answer. Unlike ruma's it has `results` also when there are none, which clients count on.
#[derive(Serialize)]
pub struct Answer {
    search_categories: AnswerCategories,
}

#[derive(Serialize)]
struct AnswerCategories {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<RoomEvents>,
}

#[derive(Serialize)]
struct RoomEvents {
    count: usize,
    results: Vec<SearchResult>,
    highlights: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, BTreeMap<String, Group>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<BTreeMap<OwnedRoomId, Vec<Raw<AnyStateEvent>>>>,
}

#[derive(Serialize)]
struct SearchResult {
    rank: f64,
    result: Raw<AnyTimelineEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
}

#[derive(Serialize)]
struct Context {
    start: String,
    end: String,
    events_before: Vec<Raw<AnyTimelineEvent>>,
    events_after: Vec<Raw<AnyTimelineEvent>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    profile_info: BTreeMap<OwnedUserId, Profile>,
}

#[derive(Serialize)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<Value>,
}

#[derive(Serialize, Default)]
struct Group {
    order: usize,
    results: Vec<OwnedEventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `POST /_matrix/client/v3/search`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3search))
pub async fn search(server: &Server, user: User, req: SearchRequest) -> Result<Json<Answer>> {
    let SearchRequest { next_batch, criteria: Some(criteria) } = req else {
        return Ok(Json(Answer { search_categories: AnswerCategories { room_events: None } }));
    };
    let from = next_batch.as_deref().map(Token::parse).transpose()?;
    let store = server.store.clone();
    // Reading thousands of events takes too long for a thread that serves others as well.
    let work = tokio::task::spawn_blocking(move || search_events(&store.read(), &user, &criteria, from));
    let room_events = work.await.map_err(Error::internal)??;
    Ok(Json(Answer { search_categories: AnswerCategories { room_events: Some(room_events) } }))
}

fn search_events(read: &dyn Read, user: &User, criteria: &Criteria, from: Option<Token>) -> Result<RoomEvents> {
    let words: Vec<String> = search::words(&criteria.search_term).into_iter().take(MAX_WORDS).collect();
    let has = |key| criteria.keys.as_ref().is_none_or(|keys| keys.contains(&key));
    let limit = criteria.filter.limit.map_or(PAGE, u64::from).clamp(1, MAX_PAGE);
    let ignored = account_data::ignored_users(read, &user.id)?;
    let search = Search {
        keys: Keys {
            body: has(SearchKeys::ContentBody),
            name: has(SearchKeys::ContentName),
            topic: has(SearchKeys::ContentTopic),
        },
        by_rank: criteria.order_by != Some(OrderBy::Recent),
        limit: usize::try_from(limit).unwrap_or(1),
        from,
        wanted: &|event| {
            let pdu = &event.pdu;
            !history::is_ignored(&ignored, event)
                && filter::allows_event(&criteria.filter, &pdu.kind.to_string(), &pdu.sender, &pdu.content)
        },
        words,
    };
    let found = search::search(read, &user.id, &searched_rooms(read, user, &criteria.filter)?, &search)?;
    let view = view(read, user, ignored.clone());
    let mut events = RoomEvents {
        count: found.count,
        next_batch: found.next.map(|next| next.to_string()),
        groups: groups(&found, criteria),
        state: criteria.include_state.then(|| room_states(read, user, &view, &found)).transpose()?,
        highlights: search.words.clone(),
        results: Vec::with_capacity(found.hits.len()),
    };
    for hit in &found.hits {
        let context = |wanted| context(read, user, &view, &ignored, hit, wanted);
        let context = criteria.event_context.as_ref().map(context).transpose()?;
        let result = view.room_timeline(&hit.event)?;
        events.results.push(SearchResult { rank: hit.rank, result, context });
    }
    Ok(events)
}

/// The rooms that the user is or was in and did not forget, as far as the filter names them, each with the last event that
/// the user can see there.
fn searched_rooms(read: &dyn Read, user: &User, filter: &RoomEventFilter) -> Result<Vec<(RoomNo, i64)>> {
    let mut searched = Vec::new();
    for row in members::rooms_of(read, &user.id) {
        let (no, membership) = row?;
        let readable =
            matches!(membership.membership, MembershipState::Join | MembershipState::Leave | MembershipState::Ban);
        let id = rooms::get(read, no)?.id;
        if readable
            && !membership.forgotten
            && filter::allows_room(filter, &id)
            && let Ok(room) = access::history_of(read, &user.id, &id)
        {
            searched.push((no, room.until.unwrap_or(i64::MAX - 1)));
        }
    }
    Ok(searched)
}

fn groups(found: &Found, criteria: &Criteria) -> BTreeMap<String, BTreeMap<String, Group>> {
    let mut groups: BTreeMap<String, BTreeMap<String, Group>> = BTreeMap::new();
    for key in criteria.groupings.group_by.iter().filter_map(|grouping| grouping.key.as_ref()) {
        for (order, hit) in found.hits.iter().enumerate() {
            let value = match key {
                GroupingKey::RoomId => hit.event.pdu.room_id.to_string(),
                GroupingKey::Sender => hit.event.pdu.sender.to_string(),
                _ => continue,
            };
            let group = groups.entry(key.to_string()).or_default().entry(value).or_insert_with(|| Group {
                order,
                next_batch: found.next.map(|next| next.to_string()),
                results: Vec::new(),
            });
            group.results.push(hit.event.pdu.event_id.clone());
        }
    }
    groups
}

/// The current state of the rooms in which something was found.
fn room_states(
    read: &dyn Read,
    user: &User,
    view: &View<'_>,
    found: &Found,
) -> Result<BTreeMap<OwnedRoomId, Vec<Raw<AnyStateEvent>>>> {
    let ids: BTreeSet<&OwnedRoomId> = found.hits.iter().map(|hit| &hit.event.pdu.room_id).collect();
    let mut states = BTreeMap::new();
    for id in ids {
        let state = access::state_of(read, &user.id, id)?.view;
        let show = |no| view.room_state(&*event::require(read, no)?);
        states.insert(id.clone(), state.all(read)?.into_iter().map(show).collect::<Result<_>>()?);
    }
    Ok(states)
}

fn context(
    read: &dyn Read,
    user: &User,
    view: &View<'_>,
    ignored: &BTreeSet<OwnedUserId>,
    hit: &Hit,
    wanted: &EventContext,
) -> Result<Context> {
    let limit = |limit: ruma::UInt| usize::try_from(u64::from(limit).min(MAX_CONTEXT)).unwrap_or(0);
    let limits = (limit(wanted.before_limit), limit(wanted.after_limit));
    let gate = Gate::new(read, &user.id);
    let around = history::around(read, &gate, hit.event.room, hit.event.order, limits, &|event| {
        !history::is_ignored(ignored, event)
    })?;
    let mut profile_info = BTreeMap::new();
    if wanted.include_profile {
        for event in around.before.iter().chain([&hit.event]).chain(&around.after) {
            profile_info.extend(profile(read, event)?.map(|profile| (event.pdu.sender.clone(), profile)));
        }
    }
    Ok(Context {
        start: around.start.to_string(),
        end: around.end.to_string(),
        events_before: show(view, &around.before)?,
        events_after: show(view, &around.after)?,
        profile_info,
    })
}

/// The profile of an event's sender at that time.
fn profile(read: &dyn Read, event: &Event) -> Result<Option<Profile>> {
    let sender = event.pdu.sender.as_str();
    let Some(no) = state::at_key(read, event.state_after, &StateEventType::RoomMember, sender)? else {
        return Ok(None);
    };
    let content: Option<Value> = event::require(read, no)?.pdu.content_as();
    let field = |name| content.as_ref().and_then(|content| content.get(name)).cloned();
    Ok(Some(Profile { displayname: field("displayname"), avatar_url: field("avatar_url") }))
}

reads!(SearchRequest => Json<Answer>, |request, _args| {
    #[derive(Deserialize)]
    struct Query {
        next_batch: Option<String>,
    }
    #[derive(Deserialize)]
    struct Body {
        search_categories: Categories,
    }
    #[derive(Deserialize)]
    struct Categories {
        room_events: Option<Criteria>,
    }
    let query: Query = own::query(&request)?;
    let body: Body = own::body(&request)?;
    Self { next_batch: query.next_batch, criteria: body.search_categories.room_events }
});
