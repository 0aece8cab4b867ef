//! What a user sent is redacted at an administrator's word: in some rooms or all that the user is in, the latest first.
//!
//! That can be thousands of events, so it is a row in `USER_REDACTIONS`, with the place up to which it is done, and
//! goes on after a restart. What is redacted already is passed over, so what is done twice changes nothing the second
//! time. What cannot be redacted, as where the redacting user has no power, is noted and does not hold up the rest. The
//! row stays for a week after its end, for those who ask.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;

use super::{Federation, policy};
use crate::{
    clock,
    error::{Error, Reason, Result},
    rooms::{self, Event, build::Draft, event, members, timeline},
    store::{
        Direction, Read, Tx,
        records::UserRedaction,
        trees::{ROOMS, USER_REDACTIONS},
    },
};

/// How many events are looked at before what was done is noted.
const AT_ONCE: usize = 200;

/// How many failures are noted.
const MAX_FAILED: usize = 1_000;

/// How long the outcome is kept.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How many can be under way, or have ended lately.
const MAX_ROWS: usize = 1_000;

/// What is to be redacted.
pub struct Wanted {
    /// Whose events.
    pub user: OwnedUserId,
    /// The user of this server who redacts them.
    pub by: OwnedUserId,
    /// Why.
    pub reason: Option<String>,
    /// In which rooms; in none is in all that the user is in or banned from.
    pub rooms: Vec<OwnedRoomId>,
    /// How many events of each room at most.
    pub limit: u64,
    /// Only what was sent after this time, in milliseconds since the Unix epoch.
    pub after_ts: Option<u64>,
    /// Only what was sent before this time.
    pub before_ts: Option<u64>,
}

/// Notes what is to be redacted; gives by what its state is found.
///
/// # Errors
/// 404 `M_NOT_FOUND` for a room that is not known; 400 `M_UNKNOWN` when too much is under way.
pub fn begin(tx: &mut Tx<'_>, wanted: Wanted) -> Result<String> {
    let known: Vec<(String, UserRedaction)> =
        USER_REDACTIONS.scan(tx, (), Direction::Forward).collect::<Result<_>>()?;
    let (old, known): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|(_, row)| row.done_ts.is_some_and(|done| done + KEPT_MS < clock::now_ms()));
    old.iter().for_each(|(id, _)| USER_REDACTIONS.delete(tx, id));
    if known.len() >= MAX_ROWS {
        let message = "Too much is being redacted, or was lately. Try again later.";
        return Err(Error::bad_request(ruma::api::error::ErrorKind::Unknown, message));
    }
    let Wanted { user, by, reason, rooms, limit, after_ts, before_ts } = wanted;
    let rooms = if rooms.is_empty() { rooms_of(tx, &user)? } else { rooms };
    for room in &rooms {
        rooms::require(tx, room)?;
    }
    let row = UserRedaction {
        user,
        by,
        reason,
        rooms,
        before: None,
        left: limit,
        limit,
        after_ts,
        before_ts,
        failed: BTreeMap::new(),
        done_ts: None,
    };
    let id = clock::random_string(16)?;
    USER_REDACTIONS.put(tx, &id, &row);
    Ok(id)
}

/// How far one is.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn find(read: &dyn Read, id: &str) -> Result<Option<UserRedaction>> {
    USER_REDACTIONS.get(read, id)
}

/// The rooms that a user, of whatever server, is in or banned from.
fn rooms_of(read: &dyn Read, user: &UserId) -> Result<Vec<OwnedRoomId>> {
    let mut found = Vec::new();
    for row in ROOMS.scan(read, (), Direction::Forward) {
        let (no, room) = row?;
        let membership = members::get(read, no, user)?.map(|member| member.membership);
        if matches!(membership, Some(MembershipState::Join | MembershipState::Ban)) {
            found.push(room.id);
        }
    }
    Ok(found)
}

/// Does some of each that is noted; if more is left, it has itself called again, after what else waits for its turn.
///
/// # Errors
/// As [`find`].
pub async fn work(federation: &Federation) -> Result<()> {
    let noted: Vec<(String, UserRedaction)> =
        USER_REDACTIONS.scan(&federation.rooms.store.read(), (), Direction::Forward).collect::<Result<_>>()?;
    for (id, row) in noted.into_iter().filter(|(_, row)| row.done_ts.is_none()) {
        let row = step(federation, row).await?;
        federation.rooms.store.write(|tx| {
            USER_REDACTIONS.put(tx, &id, &row);
            Ok(())
        })?;
        if row.done_ts.is_none() {
            federation.rooms.deletions.notify_one();
        }
    }
    Ok(())
}

/// Redacts the next events; gives what is left to do.
async fn step(federation: &Federation, mut row: UserRedaction) -> Result<UserRedaction> {
    let Some(room) = row.rooms.first().cloned() else {
        return Ok(UserRedaction { done_ts: Some(clock::now_ms()), ..row });
    };
    let (targets, next) = targets(&federation.rooms.store.read(), &room, &row)?;
    for target in targets {
        let guard = federation.rooms.lock(&room).await;
        let draft = Draft::redaction(target.clone(), row.reason.as_deref())?;
        if let Err(error) = policy::send_and(federation, &guard, &row.by, draft, |_, _| Ok(())).await
            && row.failed.len() < MAX_FAILED
        {
            let why = match error.reason() {
                Reason::Matrix { message, .. } => message.clone(),
                _ => error.to_string(),
            };
            row.failed.insert(target, why);
        }
        row.left -= 1;
    }
    match next.filter(|_| row.left > 0) {
        Some(before) => row.before = Some(before),
        None => {
            row.rooms.remove(0);
            (row.before, row.left) = (None, row.limit);
        }
    }
    Ok(row)
}

/// The next events to redact in a room, and the place before which to go on after them.
fn targets(read: &dyn Read, room: &OwnedRoomId, row: &UserRedaction) -> Result<(Vec<OwnedEventId>, Option<i64>)> {
    let mut found = Vec::new();
    // The room may have been deleted meanwhile.
    let Some(no) = rooms::find(read, room)? else { return Ok((found, None)) };
    let mut last = None;
    for (looked_at, place) in timeline::before(read, no, row.before.unwrap_or(i64::MAX)).enumerate() {
        if looked_at == AT_ONCE || found.len() as u64 == row.left {
            return Ok((found, last));
        }
        let (order, event) = place?;
        last = Some(order);
        let event = event::require(read, event)?;
        if is_wanted(&event, row) {
            found.push(event.pdu.event_id.clone());
        }
    }
    Ok((found, None))
}

/// Whether an event is to be redacted: messages of all kinds, and joins, which carry names and pictures.
fn is_wanted(event: &Event, row: &UserRedaction) -> bool {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    let pdu = &event.pdu;
    let sent: u64 = pdu.origin_server_ts.get().into();
    let kind = match &pdu.kind {
        TimelineEventType::RoomRedaction => false,
        TimelineEventType::RoomMember => serde_json::from_str::<Content>(pdu.content.get())
            .is_ok_and(|content| content.membership == MembershipState::Join),
        _ => !event.is_state(),
    };
    kind && pdu.sender == row.user
        && event.redacted_by.is_none()
        && row.after_ts.is_none_or(|after| sent > after)
        && row.before_ts.is_none_or(|before| sent < before)
}
