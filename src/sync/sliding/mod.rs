//! Simplified sliding sync (MSC4186): a window on the rooms of a user, for clients that start at once however many rooms
//! there are.
//!
//! A request names lists (filters, a range, what to send of each room), rooms by ID, and extensions. Each room that a
//! rule matches is sent when it was never sent on the connection, when it changed since, or when more of it is wanted
//! than before. `lists.rs` keeps the user's rooms, `connections.rs` what was sent, `room.rs` makes a room's part of the
//! answer, `extensions.rs` the rest.
//!
//! Membership is read anew for every answer: a client that knows an old `pos` sees nothing that its user may not see.

pub mod connections;
pub mod request;
pub mod response;

mod extensions;
mod lists;
mod required_state;
mod room;
mod room_state;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use self::{
    connections::{Connection, KnownAs, Sent},
    extensions::{InScope, RoomsInScope},
    lists::Filtering,
    request::Request,
    required_state::RoomConfig,
    response::{ListCount, Response},
    room::Looked,
};
use super::{View, in_halves};
use crate::{error::Result, ids::RoomNo, rooms, users::account_data};

/// From how many rooms on two threads share the work: those of a window of a client that starts.
const MANY_ROOMS: usize = 10;

/// An answer and what it sends of rooms, to be kept if it leaves.
pub struct Built {
    /// The answer, but for its `pos`.
    pub response: Response,
    /// What it sends.
    pub sent: HashMap<RoomNo, Sent>,
    /// Of which rooms it tells sticky events.
    pub told_of: HashSet<RoomNo>,
}

/// The rules that match a room.
#[derive(Clone, Copy, Default)]
struct Matches<'r> {
    /// The lists, as bits by their order in the request, of which there are 100 at most.
    lists: u128,
    subscription: Option<&'r RoomConfig>,
}

/// The answer to a request on its connection, and whether there is news in it.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn build(view: &View<'_>, request: &Request, connection: &mut Connection) -> Result<(Built, bool)> {
    let mut response = Response { txn_id: request.txn_id.clone(), ..Response::default() };
    let since = connection.since();
    let changes = match since {
        Some(since) => account_data::changes(view.read, view.user, since)?,
        None => Vec::new(),
    };
    connection.rooms.update(view)?;
    let filtering = Filtering::new(view)?;
    let (matches, interesting) = matching(view, request, connection, &filtering, &mut response)?;
    let configs = configs(request, connection, &matches);

    let wanted = wanted(view, request, connection, &filtering, &configs)?;
    let (first, others) = in_halves(view, wanted, MANY_ROOMS, look_into)?;

    let mut sent = HashMap::new();
    let mut in_scope = RoomsInScope::new(&interesting, connection.told_of());
    for (looked, wanted) in first.into_iter().chain(others.unwrap_or_default()) {
        let (Some(looked), Some(rules)) = (looked, matches.get(&wanted.no)) else { continue };
        let lists = list_names(request, rules.lists);
        if let Some(mut part) = looked.part {
            if request.form == request::Form::Accepted {
                part.lists = lists.iter().map(|&name| name.to_owned()).collect();
            }
            response.rooms.insert(looked.id.clone(), part);
        }
        in_scope.add(InScope {
            no: wanted.no,
            id: looked.id,
            lists,
            subscribed: rules.subscription.is_some(),
            joined: wanted.known_as == KnownAs::Joined,
            since: wanted.before.filter(|before| before.known_as == wanted.known_as).map(|before| before.upto),
            events: looked.events,
        });
        sent.insert(wanted.no, looked.sent);
    }
    response.extensions = extensions::build(view, request, since, &in_scope, &changes)?;
    let has_news = since.is_none() || !response.rooms.is_empty() || response.extensions.has_news();
    Ok((Built { response, sent, told_of: interesting }, has_news))
}

/// The rooms to look at, and what to look for.
fn wanted<'a>(
    view: &View<'_>,
    request: &Request,
    connection: &'a Connection,
    filtering: &Filtering,
    configs: &'a HashMap<RoomNo, Arc<RoomConfig>>,
) -> Result<Vec<room::Wanted<'a>>> {
    let mut wanted = Vec::new();
    for (&no, config) in configs {
        let before = connection.sent(no);
        let Some(facts) = connection.rooms.facts(no) else { continue };
        let is_dm = filtering.is_direct(no);
        if before.is_some_and(|before| is_unchanged(before, facts, config, is_dm)) {
            continue;
        }
        let known_as = facts.membership;
        let partial = known_as == KnownAs::Joined && rooms::get(view.read, no)?.partial.is_some();
        // Who takes what is told for all members is shown the room once they are here.
        if partial && config.wants_all_members() {
            continue;
        }
        let (since, form) = (connection.since(), request.form);
        wanted.push(room::Wanted { no, known_as, config, before, since, is_dm, partial, form });
    }
    Ok(wanted)
}

/// Whether there is nothing to look at in a room that was sent before.
fn is_unchanged(before: &Sent, facts: &lists::Facts, config: &Arc<RoomConfig>, is_dm: bool) -> bool {
    facts.changed <= before.upto
        && facts.membership == before.known_as
        && is_dm == before.is_dm
        && Arc::ptr_eq(config, &before.config)
}

/// Looks at rooms.
fn look_into<'a>(view: &View<'_>, wanted: Vec<room::Wanted<'a>>) -> Result<Vec<(Option<Looked>, room::Wanted<'a>)>> {
    wanted.into_iter().map(|wanted| Ok((room::build(view, &wanted)?, wanted))).collect()
}

/// Which rules match which rooms, and all rooms that some rule matches, be they in a window or not, if the request asks for
/// their sticky events; the lists' counts go into the response.
fn matching<'r>(
    view: &View<'_>,
    request: &'r Request,
    connection: &mut Connection,
    filtering: &Filtering,
    response: &mut Response,
) -> Result<(HashMap<RoomNo, Matches<'r>>, HashSet<RoomNo>)> {
    let mut matches: HashMap<RoomNo, Matches<'r>> = HashMap::new();
    let mut interesting = HashSet::new();
    let (list, known) = connection.rooms_and_sent();
    let wants_sticky = request.extensions.sticky_events.is_on();
    for (bit, (name, wanted)) in request.lists.iter().enumerate() {
        let shown_as = |room| known.get(&room).map(|sent: &Sent| sent.known_as);
        let rooms = list.filtered(view, &wanted.filters, filtering, shown_as)?;
        response.lists.insert(name.clone(), ListCount { count: rooms.len() });
        if wants_sticky {
            interesting.extend(rooms.iter().map(|(_, room)| *room));
        }
        for room in lists::windowed(rooms, wanted.ranges.as_deref()) {
            matches.entry(room).or_default().lists |= 1 << bit;
        }
    }
    for (id, config) in &request.subscriptions {
        let Some(room) = rooms::find(view.read, id)? else { continue };
        // Of a room that the user left, only who knows it as joined is to be told.
        let concerns_user = list
            .facts(room)
            .is_some_and(|facts| facts.membership != KnownAs::Left || facts.is_removed() || known.contains_key(&room));
        if concerns_user {
            matches.entry(room).or_default().subscription = Some(config);
            interesting.extend(wants_sticky.then_some(room));
        }
    }
    Ok((matches, interesting))
}

/// What each room is to be sent with: the union of the rules that match it. Equal ones are one.
fn configs(
    request: &Request,
    connection: &mut Connection,
    matches: &HashMap<RoomNo, Matches<'_>>,
) -> HashMap<RoomNo, Arc<RoomConfig>> {
    let mut by_lists: HashMap<u128, Arc<RoomConfig>> = HashMap::new();
    let mut configs = HashMap::with_capacity(matches.len());
    for (&room, rules) in matches {
        let config = match (rules.subscription, by_lists.get(&rules.lists)) {
            (None, Some(known)) => known.clone(),
            (subscription, _) => {
                let of_lists = request.lists.values().enumerate();
                let of_lists = of_lists.filter(|(bit, _)| rules.lists & (1 << bit) != 0).map(|(_, list)| &list.config);
                let mut rules_configs = of_lists.chain(subscription);
                let Some(mut combined) = rules_configs.next().cloned() else { continue };
                rules_configs.for_each(|config| combined.join(config));
                let combined = connection.intern(combined);
                if subscription.is_none() {
                    by_lists.insert(rules.lists, combined.clone());
                }
                combined
            }
        };
        configs.insert(room, config);
    }
    configs
}

fn list_names(request: &Request, lists: u128) -> Vec<&str> {
    request.lists.keys().enumerate().filter(|(bit, _)| lists & (1 << bit) != 0).map(|(_, name)| name.as_str()).collect()
}
