//! Small questions about rooms that the parts of an answer ask.

use std::collections::HashSet;

use ruma::{
    OwnedMxcUri, OwnedRoomId, OwnedUserId, RoomId,
    events::{
        GlobalAccountDataEventType, RoomAccountDataEventType, StateEventType, direct::DirectEventContent,
        room::member::MembershipState, tag::TagEventContent,
    },
};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{View, response::Json};
use crate::{
    error::Result,
    ids::RoomNo,
    push::rules,
    rooms::{self, Event, event, members, notifications, state},
    store::records::UserRoom,
    users::{
        account_data,
        invite_permissions::{self, Permission},
    },
};

/// The rooms that `m.direct` names.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn direct_rooms(view: &View<'_>) -> Result<HashSet<OwnedRoomId>> {
    let kind = GlobalAccountDataEventType::Direct.to_string();
    let content = account_data::get(view.read, view.user, None, &kind)?;
    let content = content.and_then(|content| serde_json::from_str::<DirectEventContent>(content.get()).ok());
    Ok(content.into_iter().flat_map(|content| content.0.into_values().flatten()).collect())
}

/// The names of the tags that the user gave a room.
///
/// # Errors
/// As [`direct_rooms`].
pub fn tags(view: &View<'_>, room: RoomNo) -> Result<Vec<String>> {
    let kind = RoomAccountDataEventType::Tag.to_string();
    let content = account_data::get(view.read, view.user, Some(room), &kind)?;
    let content = content.and_then(|content| serde_json::from_str::<TagEventContent>(content.get()).ok());
    Ok(content.into_iter().flat_map(|content| content.tags.into_keys()).map(|tag| tag.to_string()).collect())
}

/// The rooms that one of the given spaces, as far as the user is joined to them, has as a child.
///
/// # Errors
/// As [`direct_rooms`].
pub fn children_of_spaces(view: &View<'_>, spaces: &[OwnedRoomId]) -> Result<HashSet<RoomNo>> {
    let mut children = HashSet::new();
    for space in spaces {
        let Some(space) = rooms::find(view.read, space)? else { continue };
        if !members::is_joined(view.read, space, view.user)? {
            continue;
        }
        for (key, no) in state::all_but_members(view.read, space)? {
            let (kind, child) = state::key_of(view.read, key)?;
            if kind == StateEventType::SpaceChild
                && is_child(&*event::require(view.read, no)?)
                && let Ok(child) = RoomId::parse(&child)
            {
                children.extend(rooms::find(view.read, &child)?);
            }
        }
    }
    Ok(children)
}

/// An `m.space.child` event without a `via` takes the child away.
fn is_child(event: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content {
        via: Vec<serde_json::Value>,
    }
    event.pdu.content_as::<Content>().is_some_and(|content| !content.via.is_empty())
}

#[derive(Deserialize)]
struct StrippedEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    sender: Option<OwnedUserId>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The content of a stripped state event with an empty state key, of a room that the user is not in.
///
/// # Errors
/// As [`direct_rooms`].
pub fn stripped_content(view: &View<'_>, room: RoomNo, kind: &str) -> Result<Option<serde_json::Value>> {
    let own = members::user_room(view.read, view.user, room)?;
    let stripped = own.and_then(|own| own.stripped).unwrap_or_default();
    let content = stripped.iter().find_map(|event| {
        let event: StrippedEvent<'_> = serde_json::from_str(event.get()).ok()?;
        (event.kind == kind && event.state_key.is_empty()).then(|| serde_json::from_str(event.content.get()).ok())?
    });
    Ok(content)
}

/// Whether a room is one that an ignored user invited the user to
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ignoring-users)), or one whose invitations the user ignores.
///
/// # Errors
/// As [`direct_rooms`].
pub fn is_ignored_invite(view: &View<'_>, own: &UserRoom) -> Result<bool> {
    if own.membership != MembershipState::Invite {
        return Ok(false);
    }
    for event in own.stripped.iter().flatten() {
        let Ok(event) = serde_json::from_str::<StrippedEvent<'_>>(event.get()) else { continue };
        let invites = event.kind == "m.room.member" && event.state_key == view.user.as_str();
        if let Some(sender) = event.sender.filter(|_| invites)
            && (view.ignored.contains(&sender)
                || invite_permissions::of(view.read, view.user, &sender)? == Permission::Ignored)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The type of a room, as its creation says.
///
/// # Errors
/// As [`direct_rooms`].
pub fn room_type(view: &View<'_>, room: RoomNo) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let create = rooms::get(view.read, room)?.create;
    let create = create.map(|no| event::get(view.read, no)).transpose()?.flatten();
    let content = create.and_then(|event| event.pdu.content_as::<Content>());
    Ok(content.and_then(|content| content.kind))
}

/// The name that was given to a room; an empty one is none.
///
/// # Errors
/// As [`direct_rooms`].
pub fn room_name(view: &View<'_>, room: RoomNo) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Content {
        name: Option<String>,
    }
    let content = state::content::<Content>(view.read, room, &StateEventType::RoomName, "")?;
    Ok(content.and_then(|content| content.name).filter(|name| !name.is_empty()))
}

/// The avatar that was given to a room.
///
/// # Errors
/// As [`direct_rooms`].
pub fn room_avatar(view: &View<'_>, room: RoomNo) -> Result<Option<OwnedMxcUri>> {
    #[derive(Deserialize)]
    struct Content {
        url: Option<OwnedMxcUri>,
    }
    let content = state::content::<Content>(view.read, room, &StateEventType::RoomAvatar, "")?;
    Ok(content.and_then(|content| content.url).filter(|url| !url.as_str().is_empty()))
}

/// Whether a room has a canonical alias.
///
/// # Errors
/// As [`direct_rooms`].
pub fn has_alias(view: &View<'_>, room: RoomNo) -> Result<bool> {
    #[derive(Deserialize)]
    struct Content {
        alias: Option<String>,
    }
    let content = state::content::<Content>(view.read, room, &StateEventType::RoomCanonicalAlias, "")?;
    Ok(content.and_then(|content| content.alias).is_some_and(|alias| !alias.is_empty()))
}

/// Whether the target of a membership event was joined before it.
///
/// # Errors
/// As [`direct_rooms`].
pub fn was_joined_before(view: &View<'_>, event: &Event) -> Result<bool> {
    let Some(target) = event.pdu.state_key.as_deref().filter(|_| event.is_placed()) else { return Ok(false) };
    let before = state::at_key(view.read, event.state_before, &StateEventType::RoomMember, target)?;
    let Some(before) = before else { return Ok(false) };
    Ok(membership(&*event::require(view.read, before)?) == Some(MembershipState::Join))
}

/// The membership that a membership event sets.
pub fn membership(event: &Event) -> Option<MembershipState> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    event.pdu.content_as::<Content>().map(|content| content.membership)
}

/// An event that stands in no room's timeline: its type and content.
///
/// # Errors
/// As [`direct_rooms`].
pub fn plain_event(kind: &str, content: &RawValue) -> Result<Json> {
    #[derive(serde::Serialize)]
    struct Plain<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        content: &'a RawValue,
    }
    Ok(to_raw_value(&Plain { kind, content })?)
}

/// The user's account data of the types that `wants` lets through, globally or in a room, but for what was deleted. Push
/// rules are there even if the user never set any: clients need the server's.
///
/// # Errors
/// As [`direct_rooms`].
pub fn account_data(view: &View<'_>, room: Option<RoomNo>, wants: impl Fn(&str) -> bool) -> Result<Vec<Json>> {
    let mut events = Vec::new();
    if room.is_none() && wants(rules::ACCOUNT_DATA) {
        let rules = to_raw_value(&json!({ "global": notifications::ruleset(view.read, view.user)? }))?;
        events.push(plain_event(rules::ACCOUNT_DATA, &rules)?);
    }
    for entry in account_data::all(view.read, view.user, room) {
        let (kind, content) = entry?;
        let told = room.is_none() && kind == rules::ACCOUNT_DATA;
        if !told && wants(&kind) && !account_data::is_deleted(&content) {
            events.push(plain_event(&kind, &content)?);
        }
    }
    Ok(events)
}

/// The users to name a room by, where it has neither name nor alias.
///
/// # Errors
/// As [`direct_rooms`].
pub fn heroes(view: &View<'_>, no: RoomNo) -> Result<Option<Vec<OwnedUserId>>> {
    if room_name(view, no)?.is_some() || has_alias(view, no)? {
        return Ok(None);
    }
    members::heroes(view.read, no, view.user).map(Some)
}
