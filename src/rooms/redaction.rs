//! Redactions: who may, and what they do.
//!
//! A redaction prunes the stored event at once and for good: the row keeps what the room version's
//! [redaction algorithm](https://spec.matrix.org/latest/rooms/v12/#redactions) keeps, and names the redaction. One
//! that arrives before its event waits for it.

use std::sync::Arc;

use ruma::{UserId, events::TimelineEventType};

use super::{
    Room, Rooms, build, canonical, effects,
    event::{self, Event},
    guests, members,
    pdu::Pdu,
    power_levels, relations,
};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{Read, Tx, trees},
};

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
fn has_power(read: &dyn Read, room_no: RoomNo, room: &Room, user: &UserId) -> Result<bool> {
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
        None => {
            trees::WAITING_REDACTIONS.put(tx, target_no, &event.no);
            Ok(())
        }
    }
}

/// Prunes `event` if a redaction waited for it; gives it as it is then.
///
/// # Errors
/// As [`apply`].
pub(super) fn apply_waiting(tx: &mut Tx<'_>, rooms: &Rooms, room: &Room, event: Event) -> Result<Event> {
    let Some(waiting) = trees::WAITING_REDACTIONS.get(tx, event.no)? else { return Ok(event) };
    trees::WAITING_REDACTIONS.delete(tx, event.no);
    let redaction = event::require(tx, waiting)?;
    redact(tx, rooms, room, &redaction, event)
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
    let json = serde_json::from_str(&target.pdu.json)?;
    let json = serde_json::to_string(&canonical::redacted(json, &rules.redaction)?)?;
    target.pdu = Pdu::parse(target.pdu.event_id, json, target.redacts_in_content)
        .ok_or_else(|| Error::corrupt(trees::EVENTS.name, target.no.0.to_be_bytes()))?;
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
