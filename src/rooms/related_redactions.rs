//! Redacting what relates to a redacted event
//! ([MSC3912](https://github.com/matrix-org/matrix-spec-proposals/pull/3912), a proposal).
//!
//! That may be much, and each needs an event of its own, for which a policy server may have to be asked. So it is noted
//! with the redaction, in one transaction, and done in the background (`federation/chores.rs`), the latest first:
//! `below` says how far. What comes to relate to the event meanwhile is not redacted.

use ruma::OwnedEventId;

use super::{Event, event, redaction};
use crate::{
    clock,
    error::Result,
    ids::{EventNo, RoomNo},
    store::{Direction, Read, Tx, records::RelatedRedaction, trees},
    users::accounts,
};

/// How many related events are looked at in one go.
const AT_ONCE: usize = 50;

/// The place of a row in the queue: the room and the redaction.
pub type Place = (RoomNo, EventNo);

/// What is to be done next of a row.
pub struct Page {
    /// The events that its sender may redact.
    pub events: Vec<OwnedEventId>,
    /// Below which place in the timeline there may be more.
    below: Option<i64>,
}

/// Notes that what relates to the event that `redaction` names, in one of the ways in `kinds` (`*` is any), is to be
/// redacted too.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn note(tx: &mut Tx<'_>, redaction: &Event, reason: Option<String>, kinds: Vec<String>) -> Result<()> {
    let Some(target) = &redaction.pdu.redacts else { return Ok(()) };
    let row = RelatedRedaction {
        target: event::intern(tx, target)?,
        sender: redaction.pdu.sender.clone(),
        reason,
        kinds,
        below: i64::MAX,
        since: clock::now_ms(),
    };
    trees::RELATED_REDACTIONS.put(tx, (redaction.room, redaction.no), &row);
    Ok(())
}

/// All that is noted.
///
/// # Errors
/// As [`note`].
pub fn all(read: &dyn Read) -> Result<Vec<(Place, RelatedRedaction)>> {
    trees::RELATED_REDACTIONS.scan(read, (), Direction::Forward).collect()
}

/// What is to be done next of a row.
///
/// # Errors
/// As [`note`].
pub fn page(read: &dyn Read, room_no: RoomNo, row: &RelatedRedaction) -> Result<Page> {
    let mut page = Page { events: Vec::new(), below: None };
    let room = super::get(read, room_no)?;
    if room.create.is_none() {
        return Ok(page); // it was deleted
    }
    // Who is suspended redacts only what is their own.
    let may_all =
        redaction::has_power(read, room_no, &room, &row.sender)? && !accounts::is_suspended(read, &row.sender)?;
    let related = trees::RELATIONS.range(read, (row.target, i64::MIN), (row.target, row.below), Direction::Backward);
    for (looked_at, related) in related.enumerate() {
        if looked_at == AT_ONCE {
            return Ok(page);
        }
        let ((_, place, child), kind) = related?;
        page.below = Some(place);
        let Some(child) = event::get(read, child)? else { continue };
        let wanted = row.kinds.iter().any(|wanted| *wanted == kind || wanted == "*");
        if wanted && child.redacted_by.is_none() && (may_all || child.pdu.sender == row.sender) {
            page.events.push(child.pdu.event_id.clone());
        }
    }
    page.below = None;
    Ok(page)
}

/// Notes that a page is done; tells whether there are more.
///
/// # Errors
/// As [`note`].
pub fn done(tx: &mut Tx<'_>, place: Place, page: &Page) -> Result<bool> {
    match (page.below, trees::RELATED_REDACTIONS.get(tx, place)?) {
        (Some(below), Some(row)) => {
            trees::RELATED_REDACTIONS.put(tx, place, &RelatedRedaction { below, ..row });
            Ok(true)
        }
        _ => {
            trees::RELATED_REDACTIONS.delete(tx, place);
            Ok(false)
        }
    }
}
