//! Builds the answers of `GET /sync`
//! ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use ruma::{api::client::filter::FilterDefinition, events::room::member::MembershipState};

use super::{
    View, device_lists, filter, in_halves, joined, left, parts, presence,
    response::{Events, InvitedRoom, Json, KnockedRoom, Response, Rooms, State},
};
use crate::{
    error::{Error, Result},
    ids::{Position, RoomNo},
    rooms::{self, members, point::Point, timeline},
    store::records::UserRoom,
    users::{
        account_data::{self, Change},
        one_time_keys, to_device,
    },
};

/// How many events of a timeline a client gets that asks for no number.
const DEFAULT_LIMIT: usize = 10;

/// How many it gets at most.
const MAX_LIMIT: usize = 1000;

/// A place from which a client goes on: `next_batch`, and `since` in the next request.
///
/// On the wire it is `s` and the position. When more messages wait for the device than one answer holds, `_d` and the
/// position of the last one shown follow: those beyond are not yet delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Everything up to here was told.
    pub position: Position,
    /// The messages to the device were told up to here.
    pub to_device: Position,
}

impl FromStr for Token {
    type Err = Error;

    /// A token that lies ahead of the stream (it may come from before a restored backup) is taken as it is, and counts
    /// as now.
    fn from_str(token: &str) -> Result<Self> {
        let position = Position(u64::try_from(Point::parse(token)?.0).unwrap_or(0));
        let to_device = token.split_once("_d").and_then(|(_, place)| place.parse().ok()).map_or(position, Position);
        Ok(Self { position, to_device })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.position)?;
        if self.to_device == self.position { Ok(()) } else { write!(f, "_d{}", self.to_device) }
    }
}

/// How the client wants to be told of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateNames {
    /// As changes before the timeline.
    #[default]
    Before,
    /// As `state_after`.
    After,
    /// As `state_after` under the name it had as a proposal (MSC4222).
    AfterUnstable,
}

impl StateNames {
    /// Whether changes in the timeline are to be repeated.
    pub fn is_after(self) -> bool {
        self != Self::Before
    }

    /// The section with these events. Spec: `state_after` is there even if empty.
    pub fn name(self, events: Vec<Json>) -> State {
        let mut state = State::default();
        match self {
            Self::Before if events.is_empty() => {}
            Self::Before => state.before = Some(events.into()),
            Self::After => state.after = Some(events.into()),
            Self::AfterUnstable => state.after_unstable = Some(events.into()),
        }
        state
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// What it has.
    pub since: Option<Token>,
    /// What it wants to be told.
    pub filter: FilterDefinition,
    /// Whether it wants all state anew.
    pub full_state: bool,
    /// How it wants to be told of state.
    pub state_names: StateNames,
}

impl Query {
    /// The position that the client has everything up to.
    pub fn position(&self) -> Option<Position> {
        self.since.map(|since| since.position)
    }

    /// How many events of a timeline at most.
    pub fn timeline_limit(&self) -> usize {
        let limit = self.filter.room.timeline.limit.map(u64::from);
        limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT))
    }

    /// Whether only the members that the timeline needs are wanted
    /// ([spec](https://spec.matrix.org/latest/client-server-api/#lazy-loading-room-members)). Members that the client
    /// was told of before are told again: redundant, but nothing needs to be remembered.
    pub fn lazy_members(&self) -> bool {
        !self.filter.room.state.lazy_load_options.is_disabled()
    }
}

/// The answer to `query`, and whether there is news in it.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn build(view: &View<'_>, query: &Query) -> Result<(Response, bool)> {
    let mut response = Response::default();
    let query = &Query { since: query.since.map(|since| not_ahead(since, view.now)), ..query.clone() };
    let changes = match query.position() {
        Some(since) => account_data::changes(view.read, view.user, since)?,
        None => account_data::everything(view.read, view.user)?,
    };
    rooms_part(view, query, &changes, &mut response)?;
    response.account_data = global_account_data(view, query, &changes)?.into();
    if let Some(since) = query.position() {
        response.device_lists = device_lists::changed_since(view.read, view.user, since, view.now)?;
    }
    response.presence = presence::events(view, query, &response.device_lists)?.into();
    let shown_upto = to_device_part(view, query, &mut response)?;
    let has_news = query.since.is_none()
        || query.full_state
        || !response.rooms.is_empty()
        || !response.account_data.is_empty()
        || !response.presence.is_empty()
        || !response.device_lists.is_empty()
        || !response.to_device.is_empty();
    response.device_one_time_keys_count = one_time_keys::counts(view.read, view.user, view.device)?;
    response.device_unused_fallback_key_types = one_time_keys::unused_fallback(view.read, view.user, view.device)?;
    response.next_batch = Token { position: view.now, to_device: shown_upto }.to_string();
    Ok((response, has_news))
}

fn not_ahead(since: Token, now: Position) -> Token {
    Token { position: since.position.min(now), to_device: since.to_device.min(now) }
}

/// The messages to the device; gives up to where they are shown.
fn to_device_part(view: &View<'_>, query: &Query, response: &mut Response) -> Result<Position> {
    let since = query.since.map_or(Position(0), |since| since.to_device);
    let waiting = to_device::after(view.read, view.user, view.device, since)?;
    response.to_device = waiting.events.into();
    Ok(waiting.more_after.unwrap_or(view.now))
}

fn global_account_data(view: &View<'_>, query: &Query, changes: &[Change]) -> Result<Vec<Json>> {
    let wanted = &query.filter.account_data;
    let wants = |kind: &str| filter::allows_global(wanted, kind, view.user);
    if query.since.is_none() {
        return parts::account_data(view, None, wants);
    }
    changes
        .iter()
        .filter(|change| change.room.is_none() && wants(&change.kind))
        .map(|change| parts::plain_event(&change.kind, &change.content))
        .collect()
}

/// From how many rooms on two threads share the work.
const MANY_ROOMS: usize = 50;

/// The account data that changed in rooms.
type Changed = BTreeMap<RoomNo, Vec<Change>>;

fn rooms_part(view: &View<'_>, query: &Query, changes: &[Change], response: &mut Response) -> Result<()> {
    let mut changed = Changed::new();
    for change in changes {
        if let Some(room) = change.room {
            changed.entry(room).or_default().push(change.clone());
        }
    }
    let since = query.position().filter(|_| !query.full_state);
    let rooms = candidates(view, since, changed.keys().copied().collect())?;
    let look = |view: &View<'_>, rooms| look_into(view, query, &changed, rooms);
    let (rooms, others) = in_halves(view, rooms, MANY_ROOMS, look)?;
    response.rooms = rooms;
    response.rooms.append(others.unwrap_or_default());
    Ok(())
}

/// What there is to tell of these rooms.
fn look_into(view: &View<'_>, query: &Query, changed: &Changed, rooms: Vec<(RoomNo, UserRoom)>) -> Result<Rooms> {
    let mut told = Rooms::default();
    for (no, own) in rooms {
        let is_new = query.position().is_none_or(|since| own.position > since);
        match own.membership {
            MembershipState::Join => {
                let changed = changed.get(&no).map_or(&[][..], Vec::as_slice);
                told.join.extend(joined::build(view, query, no, &own, changed)?);
            }
            MembershipState::Invite if is_new && !parts::is_ignored_invite(view, &own)? => {
                if let Some((id, invite_state)) = stripped(view, query, no, own)? {
                    told.invite.insert(id, InvitedRoom { invite_state });
                }
            }
            MembershipState::Knock if is_new => {
                if let Some((id, knock_state)) = stripped(view, query, no, own)? {
                    told.knock.insert(id, KnockedRoom { knock_state });
                }
            }
            MembershipState::Leave | MembershipState::Ban => {
                let everything = query.since.is_none() || query.full_state;
                let archived = query.filter.room.include_leave && everything && !own.forgotten;
                // That a room was left is told even if it was forgotten at once: other devices still show it.
                if archived || (is_new && query.since.is_some()) {
                    told.leave.extend(left::build(view, query, no, &own)?);
                }
            }
            _ => {}
        }
    }
    Ok(told)
}

/// The rooms that may have something new since `since`, those in `changed` among them; all without it. Costs what changed
/// on the server since, or what rooms the user has, whichever is less.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn candidates(
    view: &View<'_>,
    since: Option<Position>,
    mut changed: BTreeSet<RoomNo>,
) -> Result<Vec<(RoomNo, UserRoom)>> {
    /// How many rooms that changed are looked at, whoever's they are, before looking at all of the user's is cheaper.
    const MANY: usize = 512;
    let Some(since) = since else { return members::rooms_of(view.read, view.user).collect() };
    let mut anywhere = Vec::new();
    for row in timeline::changed_since(view.read, since).take(MANY) {
        anywhere.push(row?.1);
    }
    let mut own_rooms = Vec::new();
    if anywhere.len() < MANY {
        changed.extend(anywhere);
        for room in changed {
            own_rooms.extend(members::user_room(view.read, view.user, room)?.map(|own| (room, own)));
        }
        return Ok(own_rooms);
    }
    for row in members::rooms_of(view.read, view.user) {
        let (room, own) = row?;
        let last = timeline::last_change(view.read, room)?.unwrap_or_default().max(own.position);
        if last > since || changed.contains(&room) {
            own_rooms.push((room, own));
        }
    }
    Ok(own_rooms)
}

/// What a user who is not in a room may know of it.
fn stripped(view: &View<'_>, query: &Query, no: RoomNo, own: UserRoom) -> Result<Option<(ruma::OwnedRoomId, Events)>> {
    let room = rooms::get(view.read, no)?;
    let included = filter::includes_room(&query.filter.room, &room.id);
    Ok(included.then(|| (room.id, own.stripped.unwrap_or_default().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let plain = Token { position: Position(42), to_device: Position(42) };
        let behind = Token { position: Position(42), to_device: Position(7) };
        assert_eq!((plain.to_string(), behind.to_string()), ("s42".to_owned(), "s42_d7".to_owned()));
        for token in [plain, behind] {
            assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        }
        assert_eq!("s-3".parse::<Token>().unwrap().position, Position(0));
        assert!("nonsense".parse::<Token>().is_err());
    }
}
