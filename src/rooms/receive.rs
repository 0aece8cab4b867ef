//! An event from another server, up to its signatures: the first half of the
//! [checks on receipt of a PDU](https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu).
//!
//! [`parse`] is the event's format, size and hashes, and gives a [`Received`]; [`verify`] is its signatures, and gives a
//! [`Signed`], which is all that the room engine takes from outside (`graph.rs` has the other half). Both are pure: the
//! keys that [`Received::signers`] asks for are fetched by the caller in between.
//!
//! Invariant: a [`Signed`] has the ID that its content hashes to and the signatures that its room version wants; if its
//! content hash was wrong, it is the redacted copy. `unsigned` is dropped, since nobody signed it.

use std::collections::BTreeMap;

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, OwnedServerSigningKeyId, RoomId, RoomVersionId,
    ServerSigningKeyId, SigningKeyAlgorithm, UserId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};
use serde_json::{Map, Value, value::RawValue};

use super::{Event, Pdu, canonical};
use crate::error::Error;

/// The largest event in federation format, in bytes
/// ([Size limits](https://spec.matrix.org/latest/client-server-api/#size-limits)).
pub const MAX_EVENT: usize = 65_536;

/// The longest type, state key, sender, room ID and event ID, in bytes.
pub const MAX_FIELD: usize = 255;

/// The most events that an event can follow.
pub const MAX_PREV_EVENTS: usize = 20;

/// The most events that can allow an event.
pub const MAX_AUTH_EVENTS: usize = 10;

/// The deepest that an event of ours can be: what canonical JSON can hold.
pub const MAX_DEPTH: u64 = (1 << 53) - 1;

/// An event of the right format, whose signatures are still to be verified.
#[derive(Debug)]
pub struct Received {
    pdu: Pdu,
    /// What the signatures are made over.
    signed_text: String,
    /// The signatures that the event needs, by server and key.
    signatures: BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, String>>,
}

/// An event that its servers signed; made by [`verify`] and by signing one's own alone.
#[derive(Debug, Clone)]
pub struct Signed {
    pub(super) pdu: Pdu,
    /// Whether the room's policy server, if there is one, has nothing against it.
    pub(super) recommended: bool,
    /// Whether it came about through this server, which therefore tells the others in the room.
    pub(super) relayed: bool,
}

/// What became of a received event.
#[derive(Debug)]
pub enum Outcome {
    /// It was here already; nothing changed.
    Known,
    /// It is part of the room now.
    Accepted(Event),
    /// It was allowed where it stands in the graph, but the room's current state does not allow it: kept, and not shown.
    SoftFailed(Event),
    /// The rules refuse it, for this reason: kept, so that what names it is refused as well.
    Rejected(String),
    /// Nothing was stored: these events are needed first.
    Missing {
        /// The events it follows that are not here.
        prev: Vec<OwnedEventId>,
        /// The events it names as what allows it that are not here.
        auth: Vec<OwnedEventId>,
    },
}

impl Received {
    /// The event's ID, computed where the room version does.
    pub fn event_id(&self) -> &EventId {
        &self.pdu.event_id
    }

    /// The room that it says it is in.
    pub fn room_id(&self) -> &RoomId {
        &self.pdu.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.pdu.sender
    }

    /// When its server says that it was made; the keys must have been valid then, from room version 5 on.
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.pdu.origin_server_ts
    }

    /// The servers that must have signed it, each with the keys that it did so with. Of each, one that verifies is enough.
    pub fn signers(&self) -> impl Iterator<Item = (&OwnedServerName, Vec<&ServerSigningKeyId>)> {
        self.signatures.iter().map(|(server, keys)| (server, keys.keys().map(|id| &**id).collect()))
    }
}

impl Signed {
    /// The event.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The event, against which the room's policy server has something: it will soft-fail
    /// ([spec](https://spec.matrix.org/latest/server-server-api/#validating-policy-server-signatures)).
    pub fn not_recommended(self) -> Self {
        Self { recommended: false, ..self }
    }

    /// The event, which came about through this server: if it is accepted, the others in the room hear of it from here, as
    /// of this server's own events
    /// ([spec](https://spec.matrix.org/latest/server-server-api/#joining-rooms)).
    pub fn relayed(self) -> Self {
        Self { relayed: true, ..self }
    }
}

/// Reads an event of a room of this version: checks its format and size, computes its ID, and compares its content hash,
/// the redacted copy being what is left if that is wrong.
///
/// # Errors
/// Why the event is to be dropped.
pub fn parse(json: &RawValue, version: &RoomVersionId) -> Result<Received, String> {
    let rules = version.rules().ok_or_else(|| format!("the room version {version} is unknown"))?;
    if json.get().len() > 4 * MAX_EVENT {
        return Err("it is too large".to_owned());
    }
    let mut event: Map<String, Value> =
        serde_json::from_str(json.get()).map_err(|error| format!("it is no object: {error}"))?;
    event.remove("unsigned");
    check_format(&event, version, &rules)?;
    let text = |event: &Map<String, Value>| serde_json::to_string(event).map_err(|error| error.to_string());
    let whole = text(&event)?;
    if whole.len() > MAX_EVENT {
        return Err(format!("it is larger than {MAX_EVENT} bytes"));
    }
    let hash_is_right = event.get("hashes").and_then(|hashes| hashes.get("sha256")).and_then(Value::as_str)
        == Some(&*content_hash(event.clone())?);

    let mut redacted = canonical::redacted(event, &rules.redaction).map_err(private)?;
    let kept = if hash_is_right { whole } else { text(&redacted)? };
    let signatures = redacted.remove("signatures");
    let signed_text = text(&redacted)?;
    let event_id = match rules.event_id_format {
        EventIdFormatVersion::V1 => redacted.get("event_id").and_then(Value::as_str).unwrap_or_default().to_owned(),
        format => canonical::event_id(&signed_text, format),
    };
    let event_id = EventId::parse(event_id).map_err(|error| format!("its ID is none: {error}"))?;
    let pdu = Pdu::parse(event_id, kept, rules.redaction.content_field_redacts)
        .ok_or("a field that every event has is missing or wrong")?;
    // Only where events choose their IDs.
    if pdu.prev_events.iter().chain(&pdu.auth_events).any(|id| *id == pdu.event_id) {
        return Err("it refers to itself".to_owned());
    }
    let signatures = signatures_of(&pdu, signatures.as_ref(), &rules)?;
    Ok(Received { pdu, signed_text, signatures })
}

/// The cause of an error of ours, for the log.
fn private(error: Error) -> String {
    error.to_string()
}

/// The fields, as far as [`Pdu::parse`] does not see to them
/// ([Event format](https://spec.matrix.org/latest/rooms/v12/#event-format)).
fn check_format(event: &Map<String, Value>, version: &RoomVersionId, rules: &RoomVersionRules) -> Result<(), String> {
    if rules.authorization.strict_canonical_json && !event.values().all(canonical::is_canonical) {
        return Err("a number in it is not canonical".to_owned());
    }
    let is_create = event.get("type").and_then(Value::as_str) == Some("m.room.create");
    let required = [
        ("type", true),
        ("sender", true),
        ("room_id", !is_create || rules.event_format.require_room_create_room_id),
        ("event_id", rules.event_format.require_event_id),
        ("state_key", false),
    ];
    for (name, required) in required {
        match event.get(name) {
            Some(Value::String(value)) if is_too_long(value, version) => {
                return Err(format!("its {name} is longer than {MAX_FIELD} bytes"));
            }
            Some(Value::String(_)) => {}
            Some(_) => return Err(format!("its {name} is no string")),
            None if required => return Err(format!("it has no {name}")),
            None => {}
        }
    }
    if !event.get("content").is_some_and(Value::is_object) {
        return Err("it has no content".to_owned());
    }
    // Rooms of versions that take any number have events as deep as 2^63 - 1.
    if event.get("depth").and_then(Value::as_u64).is_none() {
        return Err("it has no depth".to_owned());
    }
    check_references(event, "prev_events", MAX_PREV_EVENTS, rules)?;
    check_references(event, "auth_events", MAX_AUTH_EVENTS, rules)
}

/// Whether a field is longer than it may be. Before room version 11 other servers count characters instead of bytes, and
/// there are rooms whose state has such keys: who refuses them there sees another room than all others.
fn is_too_long(value: &str, version: &RoomVersionId) -> bool {
    use RoomVersionId::{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10};
    let counts_characters = matches!(version, V1 | V2 | V3 | V4 | V5 | V6 | V7 | V8 | V9 | V10);
    value.len() > MAX_FIELD && (!counts_characters || value.chars().count() > MAX_FIELD)
}

/// References are IDs, and pairs of ID and hashes in room versions 1 and 2. From room version 12 on, the create event is
/// the room's ID and must not be named.
fn check_references(
    event: &Map<String, Value>,
    name: &str,
    most: usize,
    rules: &RoomVersionRules,
) -> Result<(), String> {
    let Some(Value::Array(references)) = event.get(name) else { return Err(format!("it has no {name}")) };
    if references.len() > most {
        return Err(format!("it has more than {most} {name}"));
    }
    let pairs = rules.events_reference_format == EventsReferenceFormatVersion::V1;
    let fits = |reference: &Value| match reference {
        Value::String(id) => !pairs && id.len() <= MAX_FIELD,
        Value::Array(pair) => {
            pairs && matches!(&pair[..], [Value::String(id), hashes] if id.len() <= MAX_FIELD && hashes.is_object())
        }
        _ => false,
    };
    if !references.iter().all(fits) {
        return Err(format!("its {name} are not as the room version wants them"));
    }
    if name == "auth_events" && !rules.event_format.allow_room_create_in_auth_events {
        let room = event.get("room_id").and_then(Value::as_str).and_then(|room| room.strip_prefix('!'));
        let is_create = |id: &Value| room.is_some() && id.as_str().and_then(|id| id.strip_prefix('$')) == room;
        if references.iter().any(is_create) {
            return Err("it names the create event as what allows it".to_owned());
        }
    }
    Ok(())
}

/// The hash over all but itself and the signatures
/// ([Content hash](https://spec.matrix.org/latest/server-server-api/#calculating-the-content-hash-for-an-event)).
fn content_hash(mut event: Map<String, Value>) -> Result<String, String> {
    event.remove("signatures");
    event.remove("hashes");
    Ok(canonical::hash(&serde_json::to_string(&event).map_err(|error| error.to_string())?))
}

/// The signatures of the servers that have to sign: the sender's, but for invites through a third party; in room versions
/// 1 and 2 that of the event's ID; and the one that let somebody join a restricted room
/// ([Validating hashes and
/// signatures](https://spec.matrix.org/latest/server-server-api/#validating-hashes-and-signatures-on-received-events)).
fn signatures_of(
    pdu: &Pdu,
    signatures: Option<&Value>,
    rules: &RoomVersionRules,
) -> Result<BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, String>>, String> {
    let content: Map<String, Value> = pdu.content_as().unwrap_or_default();
    let is_member = pdu.kind.to_string() == "m.room.member";
    let membership = content.get("membership").and_then(Value::as_str).filter(|_| is_member);
    let mut servers: Vec<OwnedServerName> = Vec::with_capacity(2);
    if membership != Some("invite") || !content.get("third_party_invite").is_some_and(Value::is_object) {
        servers.push(pdu.sender.server_name().to_owned());
    }
    if rules.signatures.check_event_id_server {
        let server = pdu.event_id.server_name().ok_or("its ID names no server")?;
        servers.push(server.to_owned());
    }
    let authoriser = content.get("join_authorised_via_users_server").filter(|_| membership == Some("join"));
    if rules.signatures.check_join_authorised_via_users_server
        && let Some(authoriser) = authoriser
    {
        let user = authoriser.as_str().and_then(|user| UserId::parse(user).ok());
        servers.push(user.ok_or("who authorised the joining is no user")?.server_name().to_owned());
    }
    let mut found = BTreeMap::new();
    for server in servers {
        let of_server = signatures.and_then(|all| all.get(server.as_str())).and_then(Value::as_object);
        let keys: BTreeMap<_, _> = of_server.into_iter().flatten().filter_map(signature).collect();
        if keys.is_empty() {
            return Err(format!("{server} did not sign it"));
        }
        found.insert(server, keys);
    }
    Ok(found)
}

/// A signature of an algorithm that the specification has.
fn signature((id, signature): (&String, &Value)) -> Option<(OwnedServerSigningKeyId, String)> {
    let id = OwnedServerSigningKeyId::try_from(id.as_str()).ok()?;
    (id.algorithm() == SigningKeyAlgorithm::Ed25519).then_some(())?;
    Some((id, signature.as_str()?.to_owned()))
}

/// Verifies the signatures: of each server that has to sign, at least one made with a key in `keys`, and none that is
/// wrong. `keys` holds, by server name and key ID, the keys that may have signed at the event's time.
///
/// # Errors
/// Why the event is to be dropped.
pub fn verify(received: Received, keys: &PublicKeyMap) -> Result<Signed, String> {
    for (server, signatures) in &received.signatures {
        let known = keys.get(server.as_str());
        let mut verified = false;
        for (id, signature) in signatures {
            let Some(key) = known.and_then(|keys| keys.get(id.as_str())) else { continue };
            let signature =
                Base64::<Standard>::parse(signature).map_err(|_| format!("{server}'s signature is none"))?;
            let algorithm = SigningKeyAlgorithm::Ed25519;
            let text = received.signed_text.as_bytes();
            verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), text)
                .map_err(|_| format!("{server}'s signature is wrong"))?;
            verified = true;
        }
        if !verified {
            return Err(format!("no key is known that {server} signed it with"));
        }
    }
    Ok(Signed { pdu: received.pdu, recommended: true, relayed: false })
}
