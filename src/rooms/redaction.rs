//! Redactions: who may, and what they do.
//!
//! A redaction prunes the stored event at once and for good: the row keeps what the room version's
//! [redaction algorithm](https://spec.matrix.org/latest/rooms/v12/#redactions) keeps, and names the redaction. One
//! that arrives before its event waits for it. If the administrator wants so, what was pruned is kept apart for a while, for
//! moderators to look at.
//!
//! Who takes a user out of a room can redact all that they sent with it
//! ([MSC4293](https://github.com/matrix-org/matrix-spec-proposals/pull/4293), a proposal). That may be much, so it is noted
//! with the membership and done in the background (`chores.rs`), the latest first.

use std::sync::Arc;

use ruma::{
    UserId,
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::RedactionRules,
};
use serde::Deserialize;

use super::{
    Room, Rooms, build, canonical, effects,
    event::{self, Event},
    guests, members,
    pdu::Pdu,
    power_levels, relations, timeline,
};
use crate::{
    clock,
    error::{Error, Result},
    ids::{EventNo, RoomNo},
    store::{Direction, Read, Tx, records::EventList, trees},
};

/// How many events are looked at in one transaction in the background.
const AT_ONCE: usize = 500;

/// How many redactions wait for one event.
const MAX_WAITING: usize = 50;

/// Whether a user of this server may redact what `pdu`, a redaction, names: one's own events always, others' with the
/// power to redact. A target that is not here is let through; it is checked when it comes.
///
/// # Errors
/// 403 `M_FORBIDDEN` when not; 400 `M_INVALID_PARAM` when the target is in another room.
pub(super) fn check_local(read: &dyn Read, room_no: RoomNo, room: &Room, pdu: &Pdu) -> Result<()> {
    if pdu.kind != TimelineEventType::RoomRedaction {
        return Ok(());
    }
    let Some(target) = pdu.redacts.as_deref().map(|id| event::by_id(read, id)).transpose()?.flatten() else {
        return Ok(());
    };
    if target.room != room_no {
        return Err(Error::invalid_param("The event to redact is in another room."));
    }
    if target.pdu.sender == pdu.sender || has_power(read, room_no, room, &pdu.sender)? {
        return Ok(());
    }
    Err(Error::forbidden("You may redact your own events only: you do not have the power to redact those of others."))
}

/// Whether the user's power level reaches the room's *redact level*.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn has_power(read: &dyn Read, room_no: RoomNo, room: &Room, user: &UserId) -> Result<bool> {
    let levels = power_levels::of_room(read, room_no, room)?;
    Ok(levels.for_user(user) >= levels.redact)
}

/// Prunes what `event` redacts, if it is a redaction; one whose target is not here waits for it.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub(super) fn apply(tx: &mut Tx<'_>, rooms: &Rooms, room: &Room, event: &Event) -> Result<()> {
    let Some(target) = &event.pdu.redacts else { return Ok(()) };
    let target_no = event::intern(tx, target)?;
    match event::get(tx, target_no)? {
        Some(target) => redact(tx, rooms, room, event, Arc::unwrap_or_clone(target)).map(drop),
        None => wait(tx, room, event, target_no),
    }
}

/// Has a redaction wait for its target. Which of several may redact it is known when it is here; of very many, those by
/// who has the power here come first, so that others do not push them out.
fn wait(tx: &mut Tx<'_>, room: &Room, redaction: &Event, target: EventNo) -> Result<()> {
    let mut waiting = trees::WAITING_REDACTIONS.get(tx, target)?.unwrap_or_default().0;
    for no in &waiting {
        let other = event::require(tx, *no)?;
        if other.room == redaction.room && other.pdu.sender == redaction.pdu.sender {
            return Ok(());
        }
    }
    let at = if has_power(tx, redaction.room, room, &redaction.pdu.sender)? { 0 } else { waiting.len() };
    waiting.insert(at, redaction.no);
    waiting.truncate(MAX_WAITING);
    trees::WAITING_REDACTIONS.put(tx, target, &EventList(waiting));
    Ok(())
}

/// Prunes `event` if a redaction waited for it that may do so; gives it as it is then.
///
/// # Errors
/// As [`apply`].
pub(super) fn apply_waiting(tx: &mut Tx<'_>, rooms: &Rooms, room: &Room, event: Event) -> Result<Event> {
    let Some(EventList(waiting)) = trees::WAITING_REDACTIONS.get(tx, event.no)? else { return Ok(event) };
    trees::WAITING_REDACTIONS.delete(tx, event.no);
    let mut event = event;
    for redaction in waiting {
        let redaction = event::require(tx, redaction)?;
        event = redact(tx, rooms, room, &redaction, event)?;
    }
    Ok(event)
}

/// Prunes `target` if `redaction` may do that; gives it as it is then.
fn redact(tx: &mut Tx<'_>, rooms: &Rooms, room: &Room, redaction: &Event, mut target: Event) -> Result<Event> {
    let rules = build::rules(&room.version)?;
    if target.room != redaction.room || target.redacted_by.is_some() || target.no == redaction.no {
        return Ok(target);
    }
    // Room versions 1 and 2 decide it by their authorization rules (rule 11), which the redaction has passed; later ones
    // here (https://spec.matrix.org/latest/rooms/v3/#handling-redactions).
    let allowed = rules.authorization.special_case_room_redaction
        || target.pdu.sender.server_name() == redaction.pdu.sender.server_name()
        || has_power(tx, target.room, room, &redaction.pdu.sender)?;
    if !allowed {
        return Ok(target);
    }
    relations::remove(tx, &target)?;
    keep_original(tx, rooms, &target);
    target = pruned(target, &rules.redaction)?;
    target.redacted_by = Some(redaction.no);
    event::put(tx, &target);
    if let Some(user) = target.pdu.state_key_of(&TimelineEventType::RoomMember)
        && let Ok(user) = UserId::parse(user)
        && let Some(member) = members::get(tx, target.room, &user)?
        && member.event == target.no
    {
        let pruned = effects::member_of(&target, member.position);
        trees::MEMBERS.put(tx, (target.room, &*user), &pruned);
    }
    guests::on_redaction(tx, rooms, &target)?;
    Ok(target)
}

/// The event without what a redaction takes from it.
///
/// # Errors
/// As [`apply`].
pub fn pruned(event: Event, rules: &RedactionRules) -> Result<Event> {
    let json = serde_json::from_str(&event.pdu.json)?;
    let json = serde_json::to_string(&canonical::redacted(json, rules)?)?;
    let pdu = Pdu::parse(event.pdu.event_id, json, event.redacts_in_content)
        .ok_or_else(|| Error::corrupt(trees::EVENTS.name, event.no.0.to_be_bytes()))?;
    Ok(Event { pdu, ..event })
}

/// Keeps an event as it is before it is redacted, for as long as the administrator wants.
fn keep_original(tx: &mut Tx<'_>, rooms: &Rooms, event: &Event) {
    let kept_for = u64::try_from(rooms.redaction_retention.as_millis()).unwrap_or(u64::MAX);
    if kept_for > 0 {
        let until = clock::now_ms().saturating_add(kept_for);
        trees::REDACTED_ORIGINALS.put(tx, event.no, &event.pdu.json);
        trees::REDACTED_ORIGINAL_TIMES.put(tx, (until, event.no), &());
    }
}

/// A redacted event as it was before, if that is kept.
///
/// # Errors
/// As [`apply`].
pub fn original(read: &dyn Read, event: &Event) -> Result<Option<Event>> {
    let Some(json) = trees::REDACTED_ORIGINALS.get(read, event.no)? else { return Ok(None) };
    let pdu = Pdu::parse(event.pdu.event_id.clone(), json, event.redacts_in_content)
        .ok_or_else(|| Error::corrupt(trees::REDACTED_ORIGINALS.name, event.no.0.to_be_bytes()))?;
    Ok(Some(Event { pdu, ..event.clone() }))
}

/// Forgets originals that were kept long enough, at most [`AT_ONCE`]; tells whether there may be more.
///
/// # Errors
/// As [`apply`].
pub fn forget_originals(rooms: &Rooms) -> Result<bool> {
    let old: Vec<(u64, EventNo)> = trees::REDACTED_ORIGINAL_TIMES
        .range(&rooms.store.read(), (0_u64,), (clock::now_ms(),), Direction::Forward)
        .take(AT_ONCE)
        .map(|row| row.map(|(key, ())| key))
        .collect::<Result<_>>()?;
    if !old.is_empty() {
        rooms.store.write(|tx| {
            for (until, event) in &old {
                trees::REDACTED_ORIGINAL_TIMES.delete(tx, (*until, *event));
                trees::REDACTED_ORIGINALS.delete(tx, *event);
            }
            Ok(())
        })?;
    }
    Ok(old.len() == AT_ONCE)
}

/// Notes that all events of a user are to be redacted, if `event` takes the user out of the room and says so, and its sender
/// has the power to.
///
/// # Errors
/// As [`apply`].
pub(super) fn of_removed(tx: &mut Tx<'_>, room: &Room, event: &Event) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
        #[serde(rename = "org.matrix.msc4293.redact_events", default)]
        redact_events: bool,
    }
    let Some(user) = event.pdu.state_key_of(&TimelineEventType::RoomMember) else { return Ok(()) };
    // Nearly none do: a search is cheaper than parsing them all.
    if !event.pdu.content.get().contains("msc4293.redact_events") {
        return Ok(());
    }
    let Some(content) = event.pdu.content_as::<Content>().filter(|content| content.redact_events) else {
        return Ok(());
    };
    let removes = matches!(content.membership, MembershipState::Leave | MembershipState::Ban);
    let Ok(user) = UserId::parse(user) else { return Ok(()) };
    let waiting = trees::SENDER_REDACTIONS.get(tx, (event.room, &*user))?;
    let is_covered = waiting.is_some_and(|(_, below)| below >= event.order);
    if removes && !is_covered && user != event.pdu.sender && has_power(tx, event.room, room, &event.pdu.sender)? {
        trees::SENDER_REDACTIONS.put(tx, (event.room, &*user), &(event.no, event.order));
    }
    Ok(())
}

/// Redacts some more of a user's events, as [`of_removed`] noted. The room's lock is held. Looks at [`AT_ONCE`] events at
/// most; tells whether there are more.
///
/// # Errors
/// As [`apply`].
pub fn continue_with(rooms: &Rooms, room_no: RoomNo, user: &UserId) -> Result<bool> {
    rooms.store.write(|tx| {
        let Some((by, below)) = trees::SENDER_REDACTIONS.get(tx, (room_no, user))? else { return Ok(false) };
        let (room, by) = (super::get(tx, room_no)?, event::get(tx, by)?);
        // The room may be going away.
        let Some(by) = by else {
            trees::SENDER_REDACTIONS.delete(tx, (room_no, user));
            return Ok(false);
        };
        let places: Vec<(i64, EventNo)> = timeline::before(tx, room_no, below).take(AT_ONCE).collect::<Result<_>>()?;
        for (_, no) in &places {
            let event = event::require(tx, *no)?;
            if event.pdu.sender == user {
                redact(tx, rooms, &room, &by, Arc::unwrap_or_clone(event))?;
            }
        }
        match places.last().filter(|_| places.len() == AT_ONCE) {
            Some((lowest, _)) => trees::SENDER_REDACTIONS.put(tx, (room_no, user), &(by.no, *lowest)),
            None => trees::SENDER_REDACTIONS.delete(tx, (room_no, user)),
        }
        Ok(places.len() == AT_ONCE)
    })
}
