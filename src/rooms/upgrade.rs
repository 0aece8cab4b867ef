//! Replacing a room by one of another version
//! ([spec](https://spec.matrix.org/latest/client-server-api/#room-upgrades)).
//!
//! The new room gets what the specification recommends to carry over ([`begin`]), the old one a [`tombstone`], with
//! which the aliases move ([`hand_over`]), and, where the user may, power levels that end the conversation
//! ([`closing`]). Each of these is one transaction, since the old room's policy server, if it has one, is asked about
//! what is sent there. Without the tombstone nothing is replaced. Members are not carried over: they join the new room
//! themselves.

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Room, Rooms, aliases,
    build::{self, Draft},
    create::Author,
    directory, event, members,
    membership::{self, Content},
    power_levels, spaces, state, timeline,
};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{Read, Tx, records::RoomUpgrade, trees::ROOM_UPGRADES},
};

/// The state that is carried over as it is; power levels and join rules need more thought.
const CARRIED_OVER: [StateEventType; 8] = [
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomJoinRules,
];

/// What the new room is to be.
pub struct Upgrade {
    /// Who upgrades, and so creates the new room.
    pub user: OwnedUserId,
    /// Its version.
    pub version: RoomVersionId,
    /// Its creators beside the user, where the version knows such.
    pub additional_creators: Vec<OwnedUserId>,
}

/// Makes the room that is to replace `no`, and notes that the upgrade is under way.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not send a tombstone into the old room.
pub fn begin(tx: &mut Tx<'_>, rooms: &Rooms, no: RoomNo, room: &Room, upgrade: &Upgrade) -> Result<RoomUpgrade> {
    let user = &upgrade.user;
    let powers = power_levels::of_room(tx, no, room)?;
    if !members::is_joined(tx, no, user)? || !powers.user_can_send_state(user, StateEventType::RoomTombstone) {
        return Err(Error::forbidden("You may not upgrade this room: you cannot send its tombstone."));
    }
    let content = upgrade.create_content(tx, no, room)?;
    let (new_no, _) = build::create(rooms, tx, &upgrade.version, user, &to_raw_value(&content)?)?;
    let new = Author { rooms, room: new_no, sender: user };

    let join = membership::with_profile(tx, user, &MembershipState::Join)?;
    new.send(tx, membership::draft(user, join)?)?;
    let levels = upgrade.power_levels(tx, no)?;
    let first_levels = upgrade.with_all_power(&levels);
    new.set(tx, StateEventType::RoomPowerLevels, &first_levels)?;
    for kind in CARRIED_OVER {
        if let Some(event) = state::get(tx, no, &kind, "")? {
            new.set(tx, kind, &event.pdu.content)?;
        }
    }
    for child in spaces::child_events(tx, no)? {
        let key = child.pdu.state_key.as_deref().unwrap_or_default();
        new.send(tx, Draft::state(StateEventType::SpaceChild, key, &child.pdu.content)?)?;
    }
    if let Some(content) = state::content::<Content>(tx, no, &StateEventType::RoomCanonicalAlias, "")? {
        new.set(tx, StateEventType::RoomCanonicalAlias, content)?;
    }
    if levels != first_levels {
        new.set(tx, StateEventType::RoomPowerLevels, &levels)?;
    }
    let row = RoomUpgrade { user: user.clone(), new: new_no };
    ROOM_UPGRADES.put(tx, no, &row);
    Ok(row)
}

/// The event that ends the old room.
///
/// # Errors
/// When its JSON cannot be written, which does not happen.
pub fn tombstone(successor: &RoomId) -> Result<Draft> {
    let content = json!({ "body": "This room has been replaced.", "replacement_room": successor });
    Draft::state(StateEventType::RoomTombstone, "", &content)
}

/// Gives the new room what only one of them can have, with the tombstone: the aliases, and the place in the directory.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn hand_over(tx: &mut Tx<'_>, old: RoomNo, new: RoomNo) -> Result<()> {
    aliases::move_all(tx, old, new)?;
    if directory::is_published(tx, old)? {
        directory::set_published(tx, old, false);
        directory::set_published(tx, new, true);
    }
    Ok(())
}

/// The events that end the conversation in the old room and are not there yet, as far as the user may send them.
///
/// # Errors
/// As [`hand_over`].
pub fn closing(read: &dyn Read, old: RoomNo, new: RoomNo) -> Result<Vec<Draft>> {
    let mut drafts = Vec::new();
    let moved = aliases::of_room(read, new)?;
    if let Some(content) = state::content::<Content>(read, old, &StateEventType::RoomCanonicalAlias, "")? {
        let kept = without_aliases(content.clone(), |alias| moved.iter().any(|moved| moved == alias));
        if kept != content {
            drafts.push(Draft::state(StateEventType::RoomCanonicalAlias, "", &kept)?);
        }
    }
    let mut levels = levels_of(read, old)?;
    let level = |levels: &Content, key: &str| levels.get(key).and_then(Value::as_i64).unwrap_or(0);
    let silence = level(&levels, "users_default").saturating_add(1).max(50);
    let low: Vec<_> = ["events_default", "invite"].into_iter().filter(|key| level(&levels, key) < silence).collect();
    if !low.is_empty() {
        levels.extend(low.into_iter().map(|key| (key.to_owned(), json!(silence))));
        drafts.push(Draft::state(StateEventType::RoomPowerLevels, "", &levels)?);
    }
    Ok(drafts)
}

/// The content of an `m.room.canonical_alias` event without the aliases that are `gone`.
pub fn without_aliases(mut content: Content, gone: impl Fn(&str) -> bool) -> Content {
    let is_gone = |alias: &Value| alias.as_str().is_some_and(&gone);
    if content.get("alias").is_some_and(is_gone) {
        content.remove("alias");
    }
    if let Some(Value::Array(aliases)) = content.get_mut("alt_aliases") {
        aliases.retain(|alias| !is_gone(alias));
        if aliases.is_empty() {
            content.remove("alt_aliases");
        }
    }
    content
}

impl Upgrade {
    fn privileges_creators(&self) -> bool {
        self.version.rules().is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators)
    }

    /// What the create event says beyond creator and version: the type and reach of the old room, and where it is.
    fn create_content(&self, read: &dyn Read, no: RoomNo, room: &Room) -> Result<Content> {
        let old: Content = super::create_event(read, room)?.pdu.content_as().unwrap_or_default();
        let mut content: Content = ["type", "m.federate"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), old.get(key)?.clone())))
            .collect();
        let mut predecessor = json!({ "room_id": room.id });
        if !self.privileges_creators()
            && let Some(last) = timeline::before(read, no, i64::MAX).next()
        {
            predecessor["event_id"] = json!(event::require(read, last?.1)?.pdu.event_id);
        }
        content.insert("predecessor".to_owned(), predecessor);
        let knows_additional = self.version.rules().is_some_and(|rules| rules.authorization.additional_room_creators);
        let mut creators = self.additional_creators.clone();
        creators.retain(|creator| *creator != self.user);
        if knows_additional && !creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(creators));
        }
        Ok(content)
    }

    /// The new room's power levels: the old one's, but for what differs between versions with and without creators that
    /// stand above all levels and must not be listed.
    fn power_levels(&self, read: &dyn Read, no: RoomNo) -> Result<Content> {
        let room = super::get(read, no)?;
        let old_privileges =
            room.version.rules().is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators);
        let old_creators = power_levels::creators(read, &room)?;
        let mut levels = levels_of(read, no)?;
        let mut users = object(levels.remove("users"));
        if self.privileges_creators() {
            users.retain(|user, _| !self.is_creator(user));
            let state_default = levels.get("state_default").and_then(Value::as_i64).unwrap_or(50);
            let mut events = object(levels.remove("events"));
            let tombstone = events.get("m.room.tombstone").and_then(Value::as_i64).unwrap_or(state_default);
            if tombstone <= state_default.max(100) {
                events.insert("m.room.tombstone".to_owned(), json!(state_default.saturating_add(1).max(150)));
            }
            levels.insert("events".to_owned(), json!(events));
        } else if old_privileges {
            let highest = highest_level(&levels).max(100);
            users.extend(old_creators.iter().map(|creator| (creator.to_string(), json!(highest))));
            users.insert(self.user.to_string(), json!(highest));
        }
        levels.insert("users".to_owned(), json!(users));
        Ok(levels)
    }

    fn is_creator(&self, user: &str) -> bool {
        self.user == user || self.additional_creators.iter().any(|creator| creator == user)
    }

    /// The levels that let the user set the new room up, before the final ones.
    fn with_all_power(&self, levels: &Content) -> Content {
        let mut levels = levels.clone();
        if !self.privileges_creators() {
            let mut users = object(levels.remove("users"));
            let own = users.get(self.user.as_str()).and_then(Value::as_i64).unwrap_or(0);
            let highest = highest_level(&levels).max(100);
            if own < highest {
                users.insert(self.user.to_string(), json!(highest));
            }
            levels.insert("users".to_owned(), json!(users));
        }
        levels
    }
}

/// The room's power levels; what counts without any if it has none. Levels that old versions accept as strings are
/// numbers here, as all versions accept them.
fn levels_of(read: &dyn Read, no: RoomNo) -> Result<Content> {
    let content: Option<Content> = state::content(read, no, &StateEventType::RoomPowerLevels, "")?;
    let mut levels = match content {
        Some(content) => content,
        None => {
            let creators = power_levels::creators(read, &super::get(read, no)?)?;
            let users: Content = creators.into_iter().map(|creator| (creator.to_string(), json!(100))).collect();
            Content::from_iter([("users".to_owned(), json!(users))])
        }
    };
    levels.values_mut().for_each(to_integers);
    Ok(levels)
}

fn to_integers(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(number) = text.trim().parse::<i64>() {
                *value = json!(number);
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(to_integers),
        _ => {}
    }
}

fn object(value: Option<Value>) -> Content {
    match value {
        Some(Value::Object(object)) => object,
        _ => Content::new(),
    }
}

/// The highest level that anything in the room needs.
fn highest_level(levels: &Content) -> i64 {
    let events = levels.get("events").and_then(Value::as_object);
    let of_events = events.into_iter().flat_map(|events| events.values());
    let fields = levels.iter().filter(|(key, _)| *key != "users").map(|(_, value)| value);
    fields.chain(of_events).filter_map(Value::as_i64).max().unwrap_or(0)
}

/// The room that `room` replaces, by its create event.
///
/// # Errors
/// When the store fails.
pub fn predecessor(read: &dyn Read, room: &Room) -> Result<Option<OwnedRoomId>> {
    let content: Option<Value> = super::create_event(read, room)?.pdu.content_as();
    let id = content.as_ref().and_then(|content| content.get("predecessor")?.get("room_id")?.as_str());
    Ok(id.and_then(|id| id.try_into().ok()))
}

/// Whether the tombstone of the room `old` points to the room with this ID.
///
/// # Errors
/// When the store fails.
pub fn is_replaced_by(read: &dyn Read, old: RoomNo, new: &ruma::RoomId) -> Result<bool> {
    let content: Option<Value> = state::content(read, old, &StateEventType::RoomTombstone, "")?;
    Ok(content.is_some_and(|content| content.get("replacement_room").and_then(Value::as_str) == Some(new.as_str())))
}
