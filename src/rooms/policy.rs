//! Policy servers: a server that a room has chosen to look at each event before it is sent, and to sign those that it
//! has nothing against ([Policy Servers](https://spec.matrix.org/latest/server-server-api/#policy-servers)).
//!
//! Here is which server that is, and whether it signed an event. Asking it is `federation/policy.rs`'s matter; that
//! nothing of this server goes into such a room without having been asked about, [`check_local`]'s. This server is
//! never one itself.

use ruma::{
    OwnedServerName, SigningKeyAlgorithm,
    events::{
        StateEventType, TimelineEventType,
        room::{member::MembershipState, policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID},
    },
    room_version_rules::RedactionRules,
    serde::{Base64, base64::Standard},
    signatures::verify_canonical_json_bytes,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Authorized, Pdu, build, canonical, servers, state};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::Read,
};

/// The policy server of a room.
#[derive(Clone, Debug)]
pub struct PolicyServer {
    /// Its name.
    pub name: OwnedServerName,
    key: Base64<Standard>,
}

/// The room's policy server, if it has one: its current state names it with its key, and it has a user in the room
/// ([spec](https://spec.matrix.org/latest/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room)).
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn of_room(read: &dyn Read, room: RoomNo) -> Result<Option<PolicyServer>> {
    #[derive(Deserialize)]
    struct Content {
        via: OwnedServerName,
        public_keys: Keys,
    }
    #[derive(Deserialize)]
    struct Keys {
        ed25519: Base64<Standard>,
    }
    let content: Option<Content> = state::content(read, room, &StateEventType::RoomPolicy, "")?;
    let Some(Content { via: name, public_keys }) = content else { return Ok(None) };
    Ok(servers::is_in(read, room, &name)?.then_some(PolicyServer { name, key: public_keys.ed25519 }))
}

/// Whether policy servers have a say in such an event: in all but those that choose them.
pub fn concerns(pdu: &Pdu) -> bool {
    pdu.state_key_of(&TimelineEventType::RoomPolicy) != Some("")
}

/// Whether an event may go into a room without the signature: nobody is kept in a room against their will.
pub fn is_departure(pdu: &Pdu) -> bool {
    pdu.membership() == Some(MembershipState::Leave) && pdu.state_key.as_deref() == Some(pdu.sender.as_str())
}

/// Checks that an event of this server which is about to go into its room has the signature of the room's policy
/// server.
///
/// # Errors
/// 403 `M_FORBIDDEN` when it should have it and has not; else as [`of_room`].
pub(super) fn check_local(read: &dyn Read, authorized: &Authorized) -> Result<()> {
    let pdu = authorized.pdu();
    if !authorized.is_told || !concerns(pdu) || is_departure(pdu) {
        return Ok(());
    }
    let Some(server) = of_room(read, authorized.room())? else { return Ok(()) };
    let rules = build::rules(&super::get(read, authorized.room())?.version)?.redaction;
    if server.signed(pdu, &rules) {
        return Ok(());
    }
    Err(Error::forbidden(format!("The room's policy server {} did not sign the event.", server.name)))
}

impl PolicyServer {
    /// Whether it signed the event
    /// ([spec](https://spec.matrix.org/latest/server-server-api/#validating-policy-server-signatures)). `rules` are those
    /// of the room's version.
    pub fn signed(&self, pdu: &Pdu, rules: &RedactionRules) -> bool {
        let event: Map<String, Value> = serde_json::from_str(&pdu.json).unwrap_or_default();
        let signature = event.get("signatures").and_then(|all| all.get(self.name.as_str())?.get(KEY_ID)?.as_str());
        signature.is_some_and(|signature| self.is_signature(signature, pdu, rules))
    }

    /// Whether this is its signature of the event.
    pub fn is_signature(&self, signature: &str, pdu: &Pdu, rules: &RedactionRules) -> bool {
        let Ok(signature) = Base64::<Standard>::parse(signature) else { return false };
        let Ok(text) = canonical::reference_text(&pdu.json, rules) else { return false };
        let (key, signature) = (self.key.as_bytes(), signature.as_bytes());
        verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature, text.as_bytes()).is_ok()
    }
}
