//! Member events that two servers make together
//! ([Joining rooms](https://spec.matrix.org/latest/server-server-api/#joining-rooms) and what follows there).
//!
//! A server that is not in a room cannot know what its next event follows. It asks one that is, which answers with a
//! [`template`]: an event that the room's rules allow, but unsigned. The asking server [`complete`]s it with its user's
//! profile, signs it and sends it back. An invitation, and a join that somebody on another server authorises, are
//! signed by both servers ([`co_sign`]).

use ruma::{EventId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Rooms,
    build::{self, rules},
    canonical, membership,
    membership::{AUTHORISER, Content},
    pdu::Pdu,
    receive::{MAX_AUTH_EVENTS, MAX_DEPTH, MAX_PREV_EVENTS, Signed},
    text::{Parts, Reference},
};
use crate::{
    clock,
    error::{Error, Result},
    ids::RoomNo,
    signing::SigningKeys,
    store::Read,
};

/// What a member event of such a handshake must say.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Whose membership it is about.
    pub user: &'a UserId,
    /// The membership.
    pub membership: &'a MembershipState,
}

impl Wanted<'_> {
    /// Checks that `pdu` is the member event that is wanted; who sent it is not looked at.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it is not, which is what the specification wants of those who receive one.
    pub fn check(&self, pdu: &Pdu) -> Result<()> {
        let fits = pdu.state_key_of(&"m.room.member".into()) == Some(self.user.as_str())
            && pdu.room_id == self.room
            && pdu.membership().as_ref() == Some(self.membership);
        let wanted = || {
            let Self { room, user, membership } = self;
            Error::invalid_param(format!(
                "The event must be the m.room.member event of {user} in {room}: {membership}."
            ))
        };
        if fits { Ok(()) } else { Err(wanted()) }
    }
}

/// The event with which `user`, of another server, would come into the locked room or leave it, as far as this server
/// makes it: checked, but unsigned.
///
/// # Errors
/// As [`build::prepare`]: 403 `M_FORBIDDEN` when the room's rules refuse it.
pub fn template(
    rooms: &Rooms,
    read: &dyn Read,
    room: RoomNo,
    user: &UserId,
    content: Content,
) -> Result<Box<RawValue>> {
    let authorized = build::prepare(rooms, read, room, user, membership::draft(user, content)?)?;
    let mut event: Map<String, Value> = serde_json::from_str(&authorized.pdu.json)?;
    for field in ["signatures", "hashes", "event_id"] {
        event.remove(field);
    }
    Ok(to_raw_value(&event)?)
}

/// The fields of a template that are taken from it, or compared.
#[derive(Deserialize)]
struct Template {
    #[serde(rename = "type")]
    kind: String,
    room_id: String,
    sender: String,
    state_key: String,
    content: TemplateContent,
    depth: u64,
    prev_events: Vec<Named>,
    auth_events: Vec<Named>,
}

#[derive(Deserialize)]
struct TemplateContent {
    membership: String,
    #[serde(default)]
    join_authorised_via_users_server: Option<String>,
}

/// A reference to an event as its room's version writes it: an ID, or in versions 1 and 2 an ID and hashes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Id(String),
    WithHashes(String, Hashes),
}

#[derive(Deserialize)]
struct Hashes {
    sha256: String,
}

/// Makes this server's event from another server's template, with `content` beyond the membership.
///
/// # Errors
/// Why the template is none for what is `wanted`.
pub fn complete(
    keys: &SigningKeys,
    version: &RoomVersionId,
    template: &RawValue,
    mut content: Content,
    wanted: &Wanted<'_>,
) -> Result<Signed, String> {
    let template: Template =
        serde_json::from_str(template.get()).map_err(|error| format!("the template is no event: {error}"))?;
    let fits = template.kind == "m.room.member"
        && template.room_id == wanted.room.as_str()
        && template.sender == wanted.user.as_str()
        && template.state_key == wanted.user.as_str()
        && template.content.membership == wanted.membership.as_str();
    if !fits {
        return Err("the template is for something else".to_owned());
    }
    if template.prev_events.len() > MAX_PREV_EVENTS || template.auth_events.len() > MAX_AUTH_EVENTS {
        return Err("the template refers to too many events".to_owned());
    }
    content.insert("membership".to_owned(), template.content.membership.into());
    if let Some(authoriser) = template.content.join_authorised_via_users_server {
        content.insert(AUTHORISER.to_owned(), authoriser.into());
    }
    let follows = Place {
        depth: template.depth.min(MAX_DEPTH),
        prev_events: template.prev_events.into_iter().map(Named::reference).collect::<Result<_, _>>()?,
        auth_events: template.auth_events.into_iter().map(Named::reference).collect::<Result<_, _>>()?,
    };
    sign(keys, version, wanted, content, &follows).map_err(|error| error.to_string())
}

impl Named {
    fn reference(self) -> Result<Reference, String> {
        let (id, hash) = match self {
            Self::Id(id) => (id, None),
            Self::WithHashes(id, hashes) => (id, Some(hashes.sha256)),
        };
        let id = EventId::parse(id).map_err(|error| format!("the template refers to no event: {error}"))?;
        Ok(Reference { id, hash })
    }
}

/// Where in a room's graph an event stands.
struct Place {
    depth: u64,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
}

/// The event with which `user` leaves a room that this server is not in, where no server that is gives a template: it
/// follows the event that brought the user there, an invitation or a knock. Only clients of this server see it.
///
/// # Errors
/// When the version is unknown or no random bytes are left.
pub fn departure(
    keys: &SigningKeys,
    version: &RoomVersionId,
    from: &Pdu,
    user: &UserId,
    content: Content,
) -> Result<Signed> {
    let reference = build::reference(from, &rules(version)?)?;
    let place = Place {
        depth: from.depth.saturating_add(1).min(MAX_DEPTH),
        prev_events: vec![reference.clone()],
        auth_events: vec![reference],
    };
    let wanted = Wanted { room: &from.room_id, user, membership: &MembershipState::Leave };
    sign(keys, version, &wanted, content, &place)
}

fn sign(
    keys: &SigningKeys,
    version: &RoomVersionId,
    wanted: &Wanted<'_>,
    mut content: Content,
    place: &Place,
) -> Result<Signed> {
    let rules = rules(version)?;
    content.retain(|_, value| !value.is_null());
    let kind = "m.room.member";
    let parts = Parts {
        kind,
        state_key: Some(wanted.user.as_str()),
        sender: wanted.user.as_str(),
        room_id: Some(wanted.room.as_str()),
        content: &to_raw_value(&content)?,
        redacted_content: canonical::redacted_content(&content, kind, &rules.redaction),
        depth: place.depth,
        origin_server_ts: clock::now(),
        prev_events: &place.prev_events,
        auth_events: &place.auth_events,
        redacts: None,
        sticky: None,
    };
    Ok(Signed { pdu: build::sign_parts(keys, &parts, &rules)?, recommended: true, relayed: false })
}

/// The event `json` of another server with this server's signature beside those that it has.
///
/// # Errors
/// 400 `M_BAD_JSON` when it is no object, or its signatures are none.
pub fn co_sign(keys: &SigningKeys, version: &RoomVersionId, json: &str) -> Result<Box<RawValue>> {
    let signature = keys.sign(canonical::reference_text(json, &rules(version)?.redaction)?.as_bytes());
    let bad = || Error::bad_json("The event's signatures are no object of objects.");
    let mut event: Map<String, Value> = serde_json::from_str(json).map_err(|_| bad())?;
    let signatures = event.entry("signatures").or_insert_with(|| Map::new().into());
    let ours = signatures.as_object_mut().ok_or_else(bad)?.entry(keys.server_name().as_str());
    let ours = ours.or_insert_with(|| Map::new().into()).as_object_mut().ok_or_else(bad)?;
    ours.insert(keys.id().to_owned(), signature.into());
    Ok(to_raw_value(&event)?)
}
