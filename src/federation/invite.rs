//! Invitations from server to server
//! ([spec](https://spec.matrix.org/latest/server-server-api/#inviting-to-a-room)).
//!
//! An invitation is signed by both sides: the inviting server makes it and sends it to the invited user's, which signs it
//! too and tells its user; only then it goes into the room. [`invite`] is the one side, [`receive`] the other.

use std::{collections::BTreeSet, sync::Arc};

use http::StatusCode;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{RawStrippedState, create_invite::v2},
    },
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{Failure, Federation, handshake, policy};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    rooms::{
        self, Draft, Event, Outcome, Pdu, Room, Signed, blocks, members, membership,
        outside::{self, Told},
        template::{self, Wanted},
    },
    store::{
        Read,
        records::{Account, UserRoom},
        trees::ACCOUNTS,
    },
    users::invite_permissions,
};

/// The most events of an invitation's preview that are looked at, and the most bytes of them that are kept.
const MAX_PREVIEW: usize = 50;
const MAX_PREVIEW_BYTES: usize = 128 * 1024;

/// How many invitations into rooms that this server is not in wait for a user at most: far more than anybody reads.
const MAX_WAITING: usize = 1_000;

/// Invites `target` to a room that this server is in. Who is invited already stays so, without a new event.
///
/// # Errors
/// 403 `M_FORBIDDEN` when `user` may not, or `target` is in the room or banned; those of [`membership::invite`] and of the
/// room's policy server; for a user of another server, what that server refuses it with, and 502 or 504 if it does not
/// answer as it should.
pub async fn invite(
    federation: &Federation,
    room: &RoomId,
    user: &UserId,
    target: &UserId,
    reason: Option<String>,
    is_direct: bool,
) -> Result<()> {
    blocks::check(&federation.rooms.store.read(), room)?;
    if target.server_name() == federation.server_name() {
        let draft = |read: &dyn Read, no, _: &Room| membership::invite(read, no, user, target, reason, is_direct);
        return policy::send_if(federation, room, user, draft).await;
    }
    let draft = {
        let read = federation.rooms.store.read();
        let (no, _) = rooms::require(&read, room)?;
        membership::invite(&read, no, user, target, reason, is_direct)?
    };
    match draft {
        Some(draft) => send(federation, room, user, target, draft).await.map(drop),
        None => Ok(()),
    }
}

/// Makes the member event that `draft` describes and that invites `target`, of another server, has it signed there, and
/// sends it into the room; gives its ID.
///
/// # Errors
/// As [`invite`].
pub async fn send(
    federation: &Federation,
    room: &RoomId,
    user: &UserId,
    target: &UserId,
    draft: Draft,
) -> Result<OwnedEventId> {
    let rooms = &*federation.rooms;
    let (version, pdu, preview) = {
        let guard = rooms.lock(room).await;
        let pdu = policy::prepare(federation, &guard, user, draft).await?.into_pdu();
        let read = rooms.store.read();
        let (no, record) = rooms::require(&read, room)?;
        let preview = pdus(&outside::preview(&read, no, &pdu)?)?;
        (record.version, pdu, preview)
    };
    let event = RawValue::from_string(pdu.json.clone())?;
    let request = v2::Request::new(room.to_owned(), pdu.event_id.clone(), version.clone(), event, preview);
    // Asked without the room's lock, since it can take long. Whatever else happens in the room meanwhile stands beside the
    // invitation.
    let answer = federation.send(target.server_name(), request).await.map_err(refused)?;
    let signed = with_signature(federation, &version, &pdu, target.server_name(), &answer.event).await?;
    let guard = rooms.lock(room).await;
    match rooms.receive(&guard, signed.relayed()).await? {
        Outcome::Accepted(_) | Outcome::Known => Ok(pdu.event_id),
        Outcome::SoftFailed(_) => Err(Error::forbidden("The room no longer allows you to invite.")),
        Outcome::Rejected(why) => Err(Error::forbidden(format!("The rules of the room do not allow this: {why}."))),
        Outcome::Missing { .. } => Err(Error::internal("an event of our own follows events that are not here")),
    }
}

/// What a client is told when the other server does not sign its invitation: that server's words, unless they are about
/// this server's request, of which the client knows nothing
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid)).
fn refused(failure: Failure) -> Error {
    match failure {
        Failure::Status { kind: Some(ErrorKind::InvalidParam | ErrorKind::MissingParam), message, .. } => {
            let message = format!("The other server did not take the invitation: {message}");
            Error::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
        }
        failure => failure.into(),
    }
}

/// The event of our own with the signature that the invited server has added. Of its answer nothing else is taken.
async fn with_signature(
    federation: &Federation,
    version: &RoomVersionId,
    pdu: &Pdu,
    server: &ServerName,
    answer: &RawValue,
) -> Result<Signed> {
    #[derive(Deserialize)]
    struct Answer {
        signatures: Map<String, Value>,
    }
    let bad = |why: &str| Error::from(Failure::Malformed(why.to_owned()));
    let answer: Answer = serde_json::from_str(answer.get()).map_err(|_| bad("it did not sign the invitation"))?;
    let theirs = answer.signatures.get(server.as_str()).ok_or_else(|| bad("it did not sign the invitation"))?;
    let mut event: Map<String, Value> = serde_json::from_str(&pdu.json)?;
    if let Some(Value::Object(signatures)) = event.get_mut("signatures") {
        signatures.insert(server.to_string(), theirs.clone());
    }
    let (_, signed) = federation
        .verify(version, vec![to_raw_value(&event)?])
        .await?
        .pop()
        .ok_or_else(|| Error::internal("no event was verified"))?;
    signed.map_err(|why| bad(&format!("with its signature, the invitation is none: {why}")))
}

/// What is sent of a room to who is invited to it or knocks on its door: whole events, of which the receiver makes
/// stripped ones.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn preview(read: &dyn Read, member: &Event) -> Result<Vec<RawStrippedState>> {
    pdus(&outside::preview(read, member.room, &member.pdu)?)
}

fn pdus(events: &[Arc<Event>]) -> Result<Vec<RawStrippedState>> {
    let pdu = |event: &Arc<Event>| Ok(RawStrippedState::Pdu(RawValue::from_string(event.pdu.json.clone())?));
    events.iter().map(pdu).collect()
}

/// An invitation as another server sends it.
pub struct Invitation {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The ID of the event.
    pub event_id: OwnedEventId,
    /// The room's version.
    pub version: RoomVersionId,
    /// The member event.
    pub event: Box<RawValue>,
    /// Events of the room's state.
    pub preview: Vec<RawStrippedState>,
}

/// Takes in an invitation of a user of this server, which `origin` sends; gives the event with this server's signature.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it is no invitation of a user of this server by one of `origin`, or its preview not one of
/// the room; 400 `M_INCOMPATIBLE_ROOM_VERSION`; 403 `M_FORBIDDEN` when there is no such user, or the room does not let
/// `origin` take part, or the user is in it or banned from it; 403 `M_INVITE_BLOCKED` when the user wants no invitations.
pub async fn receive(federation: &Federation, origin: &ServerName, invitation: Invitation) -> Result<Box<RawValue>> {
    let Invitation { room_id, event_id, version, event, preview } = invitation;
    if version.rules().is_none() {
        let message = format!("This server does not know room version {version}.");
        let data = IncompatibleRoomVersionErrorData::new(version);
        return Err(Error::bad_request(ErrorKind::IncompatibleRoomVersion(data), message));
    }
    let signed = verified(federation, &version, &room_id, event, &preview).await?;
    let pdu = signed.pdu();
    let target = pdu.state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let target = target.filter(|user| user.server_name() == federation.server_name());
    let target = target.ok_or_else(|| Error::invalid_param("The invitation is for nobody of this server."))?;
    Wanted { room: &room_id, user: &target, membership: &MembershipState::Invite }.check(pdu)?;
    if pdu.event_id != event_id || pdu.sender.server_name() != origin {
        return Err(Error::invalid_param(format!("The invitation is another one than said, or not one by {origin}.")));
    }
    let rooms = &*federation.rooms;
    let guard = rooms.lock(&room_id).await;
    let read = rooms.store.read();
    check_target(&read, &target, &pdu.sender)?;
    blocks::check(&read, &room_id)?;
    let room = rooms::find(&read, &room_id)?.map(|no| rooms::get(&read, no)).transpose()?;
    if room.is_some_and(|room| room.is_resident()) {
        // The event itself comes with a transaction, since this server is in the room.
        let (no, _) = handshake::resident(&read, &room_id, origin)?;
        let membership = members::get(&read, no, &target)?.map(|member| member.membership);
        if matches!(membership, Some(MembershipState::Join | MembershipState::Ban)) {
            return Err(Error::forbidden(format!("{target} is in the room already, or banned from it.")));
        }
    } else {
        check_waiting(&read, &target)?;
        let servers = servers_of(&preview, origin, &room_id, federation.server_name());
        let preview = Some(stripped_preview(&preview));
        drop(read);
        rooms.store.write(|tx| outside::note(tx, Told { version: &version, event: &signed, preview, servers }))?;
    }
    drop(guard);
    template::co_sign(&rooms.keys, &version, &pdu.json)
}

/// The invitation, its signatures verified, and those of the preview where the room's version wants that
/// ([MSC4311](https://github.com/matrix-org/matrix-spec-proposals/pull/4311)).
async fn verified(
    federation: &Federation,
    version: &RoomVersionId,
    room: &RoomId,
    event: Box<RawValue>,
    preview: &[RawStrippedState],
) -> Result<Signed> {
    let strict = version.rules().is_some_and(|rules| !rules.event_format.require_room_create_room_id);
    let mut pdus = vec![event];
    if strict {
        if preview.len() > MAX_PREVIEW {
            return Err(Error::invalid_param(format!("invite_room_state has more than {MAX_PREVIEW} events.")));
        }
        pdus.extend(preview.iter().map(raw).map(ToOwned::to_owned));
    }
    let mut verified = federation.verify(version, pdus).await?.into_iter().map(|(_, signed)| signed);
    let invitation = verified.next().ok_or_else(|| Error::internal("no event was verified"))?;
    let invitation = invitation.map_err(|why| Error::invalid_param(format!("The invitation is no event: {why}.")))?;
    let mut has_create = !strict;
    for signed in verified {
        let signed =
            signed.map_err(|why| Error::invalid_param(format!("invite_room_state has a wrong event: {why}.")))?;
        if signed.pdu().room_id != room {
            return Err(Error::invalid_param("invite_room_state has an event of another room."));
        }
        has_create |= signed.pdu().kind == TimelineEventType::RoomCreate;
    }
    if has_create { Ok(invitation) } else { Err(Error::invalid_param("invite_room_state has no m.room.create event.")) }
}

fn raw(event: &RawStrippedState) -> &RawValue {
    match event {
        RawStrippedState::Pdu(json) => json,
        #[allow(deprecated)] // older servers send nothing else
        RawStrippedState::Stripped(event) => event.json(),
        #[allow(unreachable_patterns)] // the type may get more forms
        _ => RawValue::NULL,
    }
}

fn check_target(read: &dyn Read, target: &UserId, sender: &UserId) -> Result<()> {
    if ACCOUNTS.get(read, target)?.is_none_or(|account: Account| account.deactivated) {
        return Err(Error::forbidden(format!("There is no user {target}.")));
    }
    invite_permissions::check(read, target, sender)
}

/// That there are not too many invitations for the user already.
fn check_waiting(read: &dyn Read, target: &UserId) -> Result<()> {
    let waits = |row: &Result<(RoomNo, UserRoom)>| {
        row.as_ref().is_ok_and(|(_, own)| own.outside.is_some() && own.membership == MembershipState::Invite)
    };
    if members::rooms_of(read, target).filter(waits).count() >= MAX_WAITING {
        return Err(Error::forbidden(format!("Too many invitations wait for {target}.")));
    }
    Ok(())
}

/// The fields of a stripped event; the time is kept of the create event alone.
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<Value>,
    sender: String,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The events as clients see them; what is no state event is left out, and what is too much.
pub(super) fn stripped_preview(events: &[RawStrippedState]) -> Vec<Box<RawValue>> {
    let mut room = MAX_PREVIEW_BYTES;
    let stripped = |event: &RawStrippedState| {
        let mut event: Stripped = serde_json::from_str(raw(event).get()).ok()?;
        event.origin_server_ts = event.origin_server_ts.filter(|ts| ts.is_u64() && event.kind == "m.room.create");
        let event = to_raw_value(&event).ok()?;
        room = room.checked_sub(event.get().len())?;
        Some(event)
    };
    events.iter().take(MAX_PREVIEW).filter_map(stripped).collect()
}

/// The servers that may know more of a room of which `origin` told: itself first, then those of the users that its
/// preview names, and the one that the room's ID names.
pub(super) fn servers_of(
    preview: &[RawStrippedState],
    origin: &ServerName,
    room: &RoomId,
    own: &ServerName,
) -> Vec<OwnedServerName> {
    let sender = |event: &RawStrippedState| {
        let event: Stripped = serde_json::from_str(raw(event).get()).ok()?;
        Some(UserId::parse(event.sender).ok()?.server_name().to_owned())
    };
    let named = preview.iter().take(MAX_PREVIEW).filter_map(sender).chain(room.server_name().map(ToOwned::to_owned));
    let others: BTreeSet<_> = named.filter(|server| server != origin && server != own).collect();
    std::iter::once(origin.to_owned()).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(content: &str) -> RawStrippedState {
        let event = json!({
            "type": "m.room.topic", "state_key": "", "sender": "@a:b", "content": { "topic": content }, "depth": 7,
        });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn previews_are_bounded_and_hold_only_what_clients_need() {
        let shown =
            stripped_preview(&[event("tea"), serde_json::from_value(json!({ "type": "m.room.name" })).unwrap()]);
        let expected = json!({
            "type": "m.room.topic", "state_key": "", "sender": "@a:b", "content": { "topic": "tea" },
        });
        assert_eq!(shown.len(), 1);
        assert_eq!(serde_json::from_str::<Value>(shown[0].get()).unwrap(), expected);
        let large = "x".repeat(MAX_PREVIEW_BYTES / 2);
        assert_eq!(stripped_preview(&[event(&large), event(&large), event("small")]).len(), 2);
        assert_eq!(stripped_preview(&vec![event("many"); 200]).len(), MAX_PREVIEW);
    }
}
