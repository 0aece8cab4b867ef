//! Asking policy servers what they think of events
//! ([spec](https://spec.matrix.org/latest/server-server-api/#asking-for-a-policy-server-signature-on-an-event)).

use std::time::Duration;

use ruma::{
    RoomId, UserId, api::federation::policy::sign_event::v1::Request,
    events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID, room_version_rules::RedactionRules,
};
use serde_json::value::RawValue;

use super::{Federation, Limits};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    rooms::{
        self, Authorized, Draft, Event, Pdu, Room, RoomGuard, build,
        policy::{self, PolicyServer},
        receive::Signed,
    },
    store::{Read, Tx},
};

/// What a policy server may take to sign one event.
const LIMITS: Limits = Limits { body: 64 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// Sends an event of a user of this server, as [`Rooms::send_and`](crate::rooms::Rooms::send_and) does; in a room with a
/// policy server only with its signature. But nobody is kept in a room against their will: who leaves, leaves.
///
/// The room stays locked while that is asked, since the event names those that it follows. So who chooses a slow policy
/// server has a slow room, and nobody else.
///
/// # Errors
/// As there; what the policy server answers if it refuses; those of [`Failure`](super::Failure) when it cannot be asked.
pub async fn send_and(
    federation: &Federation,
    guard: &RoomGuard,
    sender: &UserId,
    draft: Draft,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<Event> {
    let authorized = prepare(federation, guard, sender, draft).await?;
    federation.rooms.append(authorized, also)
}

/// Makes an event of a user of this server in the locked room, with the signature of its policy server.
///
/// # Errors
/// As [`send_and`].
pub async fn prepare(federation: &Federation, guard: &RoomGuard, sender: &UserId, draft: Draft) -> Result<Authorized> {
    let engine = &federation.rooms;
    let mut authorized = engine.prepare(guard, sender, draft)?;
    let chosen = policy::of_room(&engine.store.read(), authorized.room())?;
    if let Some(server) = chosen.filter(|_| policy::concerns(authorized.pdu())) {
        let (_, room) = rooms::require(&engine.store.read(), guard.room())?;
        let rules = build::rules(&room.version)?.redaction;
        match ask(federation, &server, authorized.pdu(), &rules).await {
            Ok(signature) => authorized.add_signature(&server.name, KEY_ID, signature)?,
            Err(error) if policy::is_departure(authorized.pdu()) => {
                tracing::debug!("{sender} leaves {} without a signature of {}: {error}", guard.room(), server.name);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(authorized)
}

/// Sends the event that `draft` makes of a room as it is now, if it makes one.
///
/// # Errors
/// As [`send_and`]; 404 `M_NOT_FOUND` when the server does not know the room; what `draft` returns.
pub async fn send_if(
    federation: &Federation,
    room: &RoomId,
    sender: &UserId,
    draft: impl FnOnce(&dyn Read, RoomNo, &Room) -> Result<Option<Draft>>,
) -> Result<()> {
    let guard = federation.rooms.lock(room).await;
    let draft = {
        let read = federation.rooms.store.read();
        let (no, record) = rooms::require(&read, room)?;
        draft(&read, no, &record)?
    };
    let Some(draft) = draft else { return Ok(()) };
    send_and(federation, &guard, sender, draft, |_, _| Ok(())).await.map(drop)
}

/// An event of another server, looked at by the room's policy server, if it has one: without its signature, it is asked
/// for one, and what it does not sign is not recommended.
///
/// # Errors
/// When a row is damaged or the database fails.
pub async fn looked_at(federation: &Federation, room: &RoomId, event: Signed) -> Result<Signed> {
    let (chosen, rules) = {
        let read = federation.rooms.store.read();
        let (no, room) = rooms::require(&read, room)?;
        (policy::of_room(&read, no)?, build::rules(&room.version)?.redaction)
    };
    let Some(server) = chosen.filter(|_| policy::concerns(event.pdu())) else { return Ok(event) };
    if server.signed(event.pdu(), &rules) {
        return Ok(event);
    }
    match ask(federation, &server, event.pdu(), &rules).await {
        Ok(_) => Ok(event),
        Err(error) => {
            tracing::debug!("event {} is not recommended by {}: {error}", event.pdu().event_id, server.name);
            Ok(event.not_recommended())
        }
    }
}

/// The signature of a room's policy server for an event.
async fn ask(federation: &Federation, server: &PolicyServer, pdu: &Pdu, rules: &RedactionRules) -> Result<String> {
    if server.name == federation.server_name() {
        return Err(Error::forbidden("The room has chosen this server as its policy server, but it is none."));
    }
    let request = Request::new(RawValue::from_string(pdu.json.clone())?);
    // At once: a room asks one question at a time, and that we ask others for a lot must not speak against the event.
    let ask = federation.exchange(&server.name, request, LIMITS);
    let answer = federation.answers.policy.unless_unreachable(&server.name, ask).await?;
    let signature = answer.ed25519_signature(&server.name).filter(|text| server.is_signature(text, pdu, rules));
    signature.map(ToOwned::to_owned).ok_or_else(|| {
        Error::forbidden(format!("The room's policy server {} did not sign the event as it must.", server.name))
    })
}
