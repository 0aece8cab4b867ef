//! Typing and receipts, as `/sync` tells them.

use std::collections::BTreeSet;

use ruma::OwnedEventId;
use serde_json::{json, value::to_raw_value};

use super::{View, response::Json};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::receipts::{self, Receipts},
};

/// The `m.typing` event of a room, if who types changed after `since`; without `since`, if somebody types.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn typing(view: &View<'_>, room: RoomNo, since: Option<Position>) -> Result<Option<Json>> {
    let Some(users) = view.live.typing.since(room, since.unwrap_or_default()) else { return Ok(None) };
    if users.is_empty() && since.is_none() {
        return Ok(None);
    }
    Ok(Some(to_raw_value(&json!({ "type": "m.typing", "content": { "user_ids": users } }))?))
}

/// The `m.receipt` event with the receipts of a room that came after `since`, or all.
///
/// # Errors
/// As [`typing`].
pub fn receipts(view: &View<'_>, room: RoomNo, since: Option<Position>) -> Result<Option<Json>> {
    receipt_event(&receipts::since(view.read, room, since.unwrap_or_default(), view.user)?)
}

/// The `m.receipt` event of a room for a client that has nothing of it but the given events: the receipts for these, and
/// the user's own. Large rooms have one from nearly everybody.
///
/// # Errors
/// As [`typing`].
pub fn receipts_for(view: &View<'_>, room: RoomNo, events: &BTreeSet<OwnedEventId>) -> Result<Option<Json>> {
    let mut receipts = receipts::since(view.read, room, Position::default(), view.user)?;
    receipts.retain(|event, kinds| {
        if !events.contains(event) {
            for users in kinds.values_mut() {
                users.retain(|user, _| user == view.user);
            }
            kinds.retain(|_, users| !users.is_empty());
        }
        !kinds.is_empty()
    });
    receipt_event(&receipts)
}

fn receipt_event(receipts: &Receipts) -> Result<Option<Json>> {
    if receipts.is_empty() {
        return Ok(None);
    }
    Ok(Some(to_raw_value(&json!({ "type": "m.receipt", "content": receipts }))?))
}
