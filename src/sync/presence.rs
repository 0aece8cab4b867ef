//! Whose presence a client is told of: that of its own user, and of those who share a room with them.

use ruma::presence::PresenceState;
use serde_json::value::to_raw_value;

use super::{View, company::Company, device_lists::DeviceLists, filter, response::Json, v3::Query};
use crate::error::Result;

/// The presence events for an answer: of whom it changed, and of those whom the user met since (they are among those
/// whose device lists changed); without a `since`, of everyone who is not offline.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn events(view: &View<'_>, query: &Query, lists: &DeviceLists) -> Result<Vec<Json>> {
    let presence = view.live.presence;
    let wanted = &query.filter.presence;
    let mut company = Company::new(view.read, view.user);
    let mut events = match query.position() {
        Some(since) => presence.changed(since, view.now),
        None => presence.present(),
    };
    for user in &lists.changed {
        let content = presence.get(user);
        if content.presence != PresenceState::Offline && !events.iter().any(|event| event.sender == *user) {
            events.push(ruma::events::presence::PresenceEvent { content, sender: user.clone() });
        }
    }
    let mut shown = Vec::new();
    for event in events {
        if filter::allows_global(wanted, "m.presence", &event.sender) && company.has(&event.sender)? {
            shown.push(to_raw_value(&event)?);
        }
    }
    Ok(shown)
}
