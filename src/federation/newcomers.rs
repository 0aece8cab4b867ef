//! Users of other servers who come to share an encrypted room with users of this one.
//!
//! A client that wants to write asks for the devices of all in the room. What it does not get then, since some server
//! cannot be reached just now, cannot read its message, ever. So the lists are asked for beforehand: [`follow`] goes
//! through the changes of memberships from a stored place, and notes of whom lists are to be asked for when somebody of
//! another server joins, when the first user of this one does, or when the room becomes encrypted. Asking is
//! [`devices::resync`](super::devices::resync)'s, at its own pace, and over and over for servers that do not answer.
//!
//! The other way round, servers that shared no room with a user of this one are told of the user's devices
//! (`OUTGOING`) when the user joins a room that they are in, if it is no large one.
//!
//! Bounds: rooms of more than [`LARGEST`] members are left out: nobody keeps a secret there.

use std::{collections::BTreeSet, time::Duration};

use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::Federation;
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, event, members, outbox, servers, state, timeline},
    store::{
        Direction, Read,
        trees::{COUNTERS, LOCAL_MEMBERS, MEMBERSHIP_CHANGES, USER_ROOMS},
    },
    users::device_lists,
};

/// The counter that says up to where the changes were gone through.
const FOLLOWED: &str = "newcomers_followed";

/// So many positions can go by without anything to note before it is written down that they were gone through.
const UNWRITTEN: u64 = 10_000;

/// How many changes are gone through at a time.
const CHANGES: usize = 1_000;

/// How many users are noted in one transaction.
const AT_ONCE: usize = 200;

/// The most members of a room whose lists are asked for before a client does.
const LARGEST: u64 = 20_000;

/// How many servers of a room learn of the devices of who joins it at most. In larger rooms, those whose users want to know
/// ask, and a small server is not to call on thousands since one of its users wants to read along.
const INTRODUCED: usize = 50;

/// The rest between two looks at what happens all the time.
const REST: Duration = Duration::from_millis(50);

/// Notes whose device lists will be needed, for as long as the server runs.
pub async fn follow(federation: &Federation) {
    let store = &federation.rooms.store;
    let mut seen = None;
    loop {
        let more = store.hub().delivery();
        match step(federation, &mut seen).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!("whose devices will be needed could not be noted: {error}"),
        }
        more.await;
        tokio::time::sleep(REST).await;
    }
}

/// Up to where the changes were gone through, and up to where that is written down.
type Seen = (Position, Position);

/// Goes through the next changes; gives whether there may be more.
async fn step(federation: &Federation, seen: &mut Option<Seen>) -> Result<bool> {
    let store = &federation.rooms.store;
    let Some((from, written)) = *seen else {
        *seen = Some(start(federation)?);
        return Ok(true);
    };
    let news = {
        let read = store.read();
        News::after(federation, &read, from, read.position()?)?
    };
    let users: Vec<_> = news.users.into_iter().collect();
    for some in users.chunks(AT_ONCE) {
        store.write(|tx| some.iter().try_for_each(|user| device_lists::want(tx, user).map(drop)))?;
        federation.devices.wake();
        // Others write as well.
        tokio::task::yield_now().await;
    }
    let is_idle = users.is_empty() && news.joins.is_empty();
    if is_idle && news.until.0 - written.0 < UNWRITTEN {
        *seen = Some((news.until, written));
        return Ok(news.is_more);
    }
    store.write(|tx| {
        for (room, user) in &news.joins {
            outbox::devices(tx, *room, user)?;
        }
        COUNTERS.put(tx, FOLLOWED, &news.until.0);
        Ok(())
    })?;
    *seen = Some((news.until, news.until));
    Ok(news.is_more)
}

/// The place to go on from. For those who came before there was one, clients ask.
fn start(federation: &Federation) -> Result<Seen> {
    let store = &federation.rooms.store;
    let (noted, now) = {
        let read = store.read();
        (COUNTERS.get(&read, FOLLOWED)?.map(Position), read.position()?)
    };
    let at = noted.unwrap_or(now);
    if noted.is_none() {
        store.write(|tx| {
            COUNTERS.put(tx, FOLLOWED, &at.0);
            Ok(())
        })?;
    }
    Ok((at, at))
}

/// What happened that matters here.
struct News {
    /// Up to here.
    until: Position,
    /// Whether the changes go on behind that.
    is_more: bool,
    /// Whose lists will be needed.
    users: BTreeSet<OwnedUserId>,
    /// Which users of this server joined which rooms that others are in.
    joins: Vec<(RoomNo, OwnedUserId)>,
}

impl News {
    fn after(federation: &Federation, read: &dyn Read, from: Position, now: Position) -> Result<Self> {
        let mut news = Self { until: now, is_more: false, users: BTreeSet::new(), joins: Vec::new() };
        let mut entered = BTreeSet::new();
        let is_local = |user: &OwnedUserId| user.server_name() == federation.server_name();
        for (number, row) in MEMBERSHIP_CHANGES.scan_after(read, (), from).enumerate() {
            let (position, change) = row?;
            if number == CHANGES {
                news.is_more = true;
                break;
            }
            news.until = if number + 1 == CHANGES { position } else { now };
            if !change.joined || !has_company(read, change.room)? {
                continue;
            }
            if !is_local(&change.user) {
                if state::is_encrypted(read, change.room)? {
                    news.users.insert(change.user);
                }
                continue;
            }
            if is_first(read, change.room, &change.user)? {
                entered.insert(change.room);
            }
            if servers::joined(read, change.room).nth(INTRODUCED).is_none() {
                news.joins.push((change.room, change.user));
            }
        }
        for row in timeline::changed_since(read, from) {
            let (_, room) = row?;
            let encrypted = state::event_no(read, room, &StateEventType::RoomEncryption, "")?;
            if let Some(no) = encrypted
                && event::require(read, no)?.order > timeline::order_of(from)
                && has_company(read, room)?
            {
                entered.insert(room);
            }
        }
        for room in entered {
            if state::is_encrypted(read, room)? {
                for row in members::joined(read, room) {
                    news.users.extend(Some(row?.0).filter(|user| !is_local(user)));
                }
            }
        }
        Ok(news)
    }
}

/// Whether users of this server and of others are in the room, and not too many.
fn has_company(read: &dyn Read, room: RoomNo) -> Result<bool> {
    let room = rooms::get(read, room)?;
    Ok(room.local_joined > 0 && room.joined > room.local_joined && room.joined <= LARGEST)
}

/// Whether no other user of this server was in the room before, and had the lists asked for.
fn is_first(read: &dyn Read, room: RoomNo, user: &OwnedUserId) -> Result<bool> {
    let since = |user: &OwnedUserId| -> Result<Option<Position>> {
        let own = USER_ROOMS.get(read, (user, room))?;
        Ok(own.filter(|own| own.membership == MembershipState::Join).map(|own| own.position))
    };
    let Some(joined) = since(user)? else { return Ok(false) };
    for row in LOCAL_MEMBERS.scan(read, (room,), Direction::Forward) {
        let ((_, other), ()) = row?;
        if other != *user && since(&other)?.is_some_and(|earlier| earlier < joined) {
            return Ok(false);
        }
    }
    Ok(true)
}
