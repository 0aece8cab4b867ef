//! What is pushed to a user's devices: which events, and how much is unread.
//!
//! Push gateways follow the stream by themselves (`delivery/gateways.rs`) and ask here, once for each event and user who
//! has a pusher.

use ruma::{UserId, events::TimelineEventType, push::Action};

use super::{counts, is_read, list, rules::ruleset, thread_of};
use crate::{
    error::Result,
    push::compile::Compiled,
    rooms::{self, Event, event::Status, members},
    store::{Read, trees},
    users::{
        account_data,
        invite_permissions::{self, Permission},
    },
};

/// What the user's push rules do about an event, if they notify: nothing for the user's own events, those of ignored
/// users, those from before joining, and those that are no longer what they were.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn actions(read: &dyn Read, user: &UserId, event: &Event) -> Result<Option<Vec<Action>>> {
    let is_own = event.pdu.state_key_of(&TimelineEventType::RoomMember) == Some(user.as_str());
    // Of an invitation into a room that this server is not in nothing more is known than the event.
    let counts = event.status == Status::Accepted || (is_own && event.status == Status::Outlier);
    if !counts || event.redacted_by.is_some() || event.pdu.sender == user {
        return Ok(None);
    }
    let joined = trees::READ_MARKS.get(read, (event.room, user))?.map_or(0, |marks| marks.joined);
    let before_joining = (1..=joined).contains(&event.order);
    if before_joining || account_data::ignored_users(read, user)?.contains(&event.pdu.sender) {
        return Ok(None);
    }
    if is_own && invite_permissions::of(read, user, &event.pdu.sender)? == Permission::Ignored {
        return Ok(None);
    }
    let (rules, record) = (ruleset(read, user)?, rooms::get(read, event.room)?);
    let compiled = Compiled::new(&rules, user, &record.id);
    list::actions(read, user, &rules, &(record, compiled, joined), event, false)
}

/// Whether the user has not read the event. One outside the timeline, an invitation into a room that this server is not in,
/// is unread for as long as it stands.
///
/// # Errors
/// As [`actions`].
pub fn is_unread(read: &dyn Read, user: &UserId, event: &Event) -> Result<bool> {
    if event.order <= 0 {
        return Ok(members::user_room(read, user, event.room)?.is_some_and(|own| own.event == event.no));
    }
    Ok(!is_read(read, user, event.room, thread_of(read, event)?, event.order)?)
}

/// How many events notify the user in all rooms that the user is joined to: what an icon's badge shows.
///
/// # Errors
/// As [`actions`].
pub fn unread_everywhere(read: &dyn Read, user: &UserId) -> Result<u64> {
    let mut sum = 0;
    for room in members::joined_rooms(read, user)? {
        sum += counts(read, user, room)?.total().notification;
    }
    Ok(sum)
}
