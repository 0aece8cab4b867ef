//! Typing and receipts, as `/sync` tells them.

use serde_json::{json, value::to_raw_value};

use super::{View, response::Json};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::receipts,
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
    let receipts = receipts::since(view.read, room, since.unwrap_or_default(), view.user)?;
    if receipts.is_empty() {
        return Ok(None);
    }
    Ok(Some(to_raw_value(&json!({ "type": "m.receipt", "content": receipts }))?))
}
