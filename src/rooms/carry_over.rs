//! What a user has set for a room goes on in the room that replaces it
//! ([spec](https://spec.matrix.org/latest/client-server-api/#server-behaviour-17)): push rules, tags, and whether it is a
//! direct chat.
//!
//! Push rules are copied for all members of this server when a room is upgraded, so that nobody is woken by a room they
//! silenced; the rest when a user joins the new room. Copying again changes nothing, and what the user has set for the
//! new room stays.

use ruma::{
    OwnedRoomId, RoomId, UserId,
    push::{
        ConditionalPushRule, NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, RuleKind, Ruleset,
    },
};
use serde::Deserialize;
use serde_json::{Map, Value, value::to_raw_value};

use super::{Event, Room, Rooms, find, members, notifications, upgrade};
use crate::{
    error::{Reason, Result},
    ids::RoomNo,
    push::rules,
    store::Tx,
    users::account_data,
};

/// The types of account data that are copied and changed here.
const TAGS: &str = "m.tag";
const DIRECT: &str = "m.direct";

/// Carries everything over for a user who joined `room`, if it replaces one they were in.
///
/// # Errors
/// When the store fails.
pub fn on_join(tx: &mut Tx<'_>, rooms: &Rooms, user: &UserId, no: RoomNo, room: &Room) -> Result<()> {
    let Some(old_id) = upgrade::predecessor(tx, room)? else { return Ok(()) };
    let Some(old) = find(tx, &old_id)? else { return Ok(()) };
    // A room can claim any predecessor; that it was replaced by this one is the old room's to say.
    if members::user_room(tx, user, old)?.is_none() || !upgrade::is_replaced_by(tx, old, &room.id)? {
        return Ok(());
    }
    push_rules(tx, rooms, user, &old_id, &room.id)?;
    if account_data::get(tx, user, Some(no), TAGS)?.is_none()
        && let Some(tags) = account_data::get(tx, user, Some(old), TAGS)?
    {
        account_data::put(tx, user, Some(no), TAGS, tags)?;
    }
    direct_chat(tx, user, &old_id, &room.id)
}

/// Carries over what the tombstone of the room `old` asks for: push rules for all members of this server, and everything
/// for those who are in the new room already.
///
/// # Errors
/// When the store fails.
pub fn on_tombstone(tx: &mut Tx<'_>, rooms: &Rooms, old: &RoomId, tombstone: &Event) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        replacement_room: OwnedRoomId,
    }
    let Some(Content { replacement_room: new_id }) = tombstone.pdu.content_as() else { return Ok(()) };
    let Some(new_no) = find(tx, &new_id)? else { return Ok(()) };
    let new = super::get(tx, new_no)?;
    // The other way round as well: a tombstone can name any room.
    if upgrade::predecessor(tx, &new)?.is_none_or(|predecessor| predecessor != old) {
        return Ok(());
    }
    for user in members::local_joined(tx, tombstone.room)? {
        push_rules(tx, rooms, &user, old, &new_id)?;
    }
    for user in members::local_joined(tx, new_no)? {
        on_join(tx, rooms, &user, new_no, &new)?;
    }
    Ok(())
}

/// Wherever the old room is a direct chat, the new one is too.
fn direct_chat(tx: &mut Tx<'_>, user: &UserId, old: &RoomId, new: &RoomId) -> Result<()> {
    let Some(content) = account_data::get(tx, user, None, DIRECT)? else { return Ok(()) };
    let Ok(mut direct) = serde_json::from_str::<Map<String, Value>>(content.get()) else { return Ok(()) };
    let mut changed = false;
    for chats in direct.values_mut().filter_map(Value::as_array_mut) {
        let has = |room: &RoomId| chats.iter().any(|chat| chat.as_str() == Some(room.as_str()));
        if has(old) && !has(new) {
            chats.push(new.as_str().into());
            changed = true;
        }
    }
    if changed {
        account_data::put(tx, user, None, DIRECT, to_raw_value(&direct)?)?;
    }
    Ok(())
}

/// Copies the rules that name the old room: its own rule, and those with a condition on it, by which clients silence
/// rooms.
fn push_rules(tx: &mut Tx<'_>, rooms: &Rooms, user: &UserId, old: &RoomId, new: &RoomId) -> Result<()> {
    let mut ruleset = notifications::ruleset(tx, user)?;
    let copies = copies(&ruleset, old, new);
    if copies.is_empty() {
        return Ok(());
    }
    let result = copies
        .into_iter()
        .try_for_each(|(rule, enabled)| {
            let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
            rules::insert(&mut ruleset, rule, None, None)?;
            rules::set_enabled(&mut ruleset, kind, &id, enabled)
        })
        .and_then(|()| notifications::set_ruleset(tx, &rooms.rosters, user, &ruleset));
    match result {
        // A ruleset that is full already stays as it is; nobody joins or upgrades a room for its sake.
        Err(error) if matches!(error.reason(), Reason::Matrix { .. }) => Ok(()),
        other => other,
    }
}

/// The rules to add, and whether they are enabled.
fn copies(ruleset: &Ruleset, old: &RoomId, new: &RoomId) -> Vec<(NewPushRule, bool)> {
    let mut copies = Vec::new();
    if let Some(rule) = ruleset.room.iter().find(|rule| rule.rule_id == old)
        && ruleset.get(RuleKind::Room, new).is_none()
    {
        let copy = NewSimplePushRule::new(new.to_owned(), rule.actions.clone());
        copies.push((NewPushRule::Room(copy), rule.enabled));
    }
    for (kind, list) in [(RuleKind::Override, &ruleset.override_), (RuleKind::Underride, &ruleset.underride)] {
        let names_old =
            |rule: &&ConditionalPushRule| rule.conditions.iter().any(|condition| is_of_room(condition, old));
        let Some(rule) = list.iter().find(names_old) else { continue };
        if ruleset.get(kind.clone(), new).is_some() {
            continue;
        }
        let mut conditions = rule.conditions.clone();
        for condition in conditions.iter_mut().filter(|condition| is_of_room(condition, old)) {
            if let PushCondition::EventMatch(condition) = condition {
                condition.pattern = new.to_string();
            }
        }
        let copy = NewConditionalPushRule::new(new.to_string(), conditions, rule.actions.clone());
        let copy = if kind == RuleKind::Override { NewPushRule::Override(copy) } else { NewPushRule::Underride(copy) };
        copies.push((copy, rule.enabled));
    }
    copies
}

fn is_of_room(condition: &PushCondition, room: &RoomId) -> bool {
    matches!(condition, PushCondition::EventMatch(condition)
        if condition.key == "room_id" && condition.pattern == room.as_str())
}
