//! Inviting an e-mail address ([spec](https://spec.matrix.org/latest/client-server-api/#third-party-invites)).
//!
//! If an identity server knows whose the address is, that is an invitation like any other. Else it stands in the room as an
//! `m.room.third_party_invite` event ([`invite`]), until the identity server has heard from the address's owner and signs
//! who that is; then the server of the user who invited turns it into an invitation of that user ([`issue`]). The owner's
//! server hears of that from the identity server, the owner's client from the link in the mail ([`exchange`]).

use std::time::Duration;

use http::StatusCode;
use ruma::{
    CanonicalJsonObject, OwnedUserId, RoomId, SigningKeyAlgorithm, UserId,
    api::{error::ErrorKind, federation::thirdparty::exchange_invite, identity_service::invitation::store_invitation},
    events::{
        StateEventType,
        room::{
            member::MembershipState,
            third_party_invite::{PublicKey, RoomThirdPartyInviteEventContent as Invite},
        },
    },
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Federation, identity, identity::IdentityServer, invite, policy};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    rooms::{self, Draft, join_rules, members, membership, power_levels, state, summary},
    store::Read,
    users::{invite_permissions, profiles},
};

/// Invites whoever has an address, in canonical form.
///
/// # Errors
/// 403 `M_FORBIDDEN` when `user` may not invite; what the identity server refuses it with; those of [`invite::invite`].
pub async fn invite(
    federation: &Federation,
    room: &RoomId,
    user: &UserId,
    identity_server: &IdentityServer,
    medium: &str,
    address: &str,
) -> Result<()> {
    // Before anybody is told of the address.
    let request = prepare(&federation.rooms.store.read(), room, user, medium, address)?;
    if let Some(known) = identity_server.lookup(federation, medium, address).await? {
        return invite::invite(federation, room, user, &known, None, false).await;
    }
    let stored = identity_server.ask(federation, request).await?;
    let keys: Vec<PublicKey> = vec![stored.public_keys.server_key.into(), stored.public_keys.ephemeral_key.into()];
    let [first, ..] = &keys[..] else { return Err(Error::internal("two keys are two keys")) };
    let url = first.key_validity_url.clone().unwrap_or_default();
    let mut content = Invite::new(stored.display_name, url, first.public_key.clone());
    content.public_keys = Some(keys);
    let guard = federation.rooms.lock(room).await;
    let draft = Draft::state(StateEventType::RoomThirdPartyInvite, stored.token, &content)?;
    policy::send_and(federation, &guard, user, draft, |_, _| Ok(())).await.map(drop)
}

/// What the identity server is told for its mail, if `user` may invite.
fn prepare(
    read: &dyn Read,
    room: &RoomId,
    user: &UserId,
    medium: &str,
    address: &str,
) -> Result<store_invitation::v2::Request> {
    let (no, record) = rooms::require(read, room)?;
    if !members::is_joined(read, no, user)? {
        return Err(Error::forbidden("You are not in this room."));
    }
    if !power_levels::of_room(read, no, &record)?.user_can_invite(user) {
        return Err(Error::forbidden("You do not have the power to invite people to this room."));
    }
    let summary = summary::of(read, no, &record)?;
    let profile = profiles::get(read, user)?;
    let mut request =
        store_invitation::v2::Request::new(medium.into(), address.to_owned(), room.to_owned(), user.to_owned());
    request.room_alias = summary.canonical_alias;
    request.room_avatar_url = summary.avatar_url;
    request.room_join_rules = Some(summary.join_rule);
    request.room_name = summary.name;
    request.room_type = summary.room_type.map(Into::into);
    request.sender_display_name = profile.display_name().map(ToOwned::to_owned);
    request.sender_avatar_url = profile.avatar_url().map(Into::into);
    Ok(request)
}

/// How many identity servers' words are worked on at a time, and how long each may take: it has us ask servers of its
/// choice, and need prove nothing for that.
pub(super) const AT_ONCE: usize = 4;
const LONGEST: Duration = Duration::from_secs(60);

/// Does `work` on what an identity server says was bound.
///
/// # Errors
/// 429 `M_LIMIT_EXCEEDED` when there is too much of that; 504 `M_UNKNOWN` when it takes too long.
pub async fn bound(federation: &Federation, work: impl Future<Output = ()>) -> Result<()> {
    let _turn = federation.binding.try_acquire().map_err(|_| Error::limit_exceeded(LONGEST))?;
    let late = |_| {
        let message = "The servers of those who invited did not answer in time.";
        Error::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, message)
    };
    timeout(LONGEST, work).await.map_err(late)
}

/// Has the invitation of `sender` issued that `target` has an identity server's word for: by this server if it can, else by
/// `sender`'s.
///
/// # Errors
/// Those of [`issue`]; those of [`Failure`](super::Failure) when the other server does not do it.
pub async fn exchange(
    federation: &Federation,
    room: &RoomId,
    sender: &OwnedUserId,
    target: &OwnedUserId,
    signed: Value,
) -> Result<()> {
    if sender.server_name() == federation.server_name() {
        return issue(federation, room, sender, target, signed).await;
    }
    let content = json!({ "membership": "invite", "third_party_invite": { "display_name": "", "signed": signed } });
    let content = serde_json::from_value(content)?;
    let request = exchange_invite::v1::Request::new(room.to_owned(), sender.clone(), target.clone(), content);
    federation.send(sender.server_name(), request).await?;
    Ok(())
}

/// Turns the invitation of an address into one of `target`; the identity server's word for that is `signed`. Who is in the
/// room or invited already stays so, without a new event.
///
/// # Errors
/// 403 `M_FORBIDDEN` when there is no such invitation, or the identity server did not sign, or takes its word back; 504
/// `M_UNKNOWN` when that cannot be found out.
pub async fn issue(
    federation: &Federation,
    room: &RoomId,
    sender: &OwnedUserId,
    target: &OwnedUserId,
    signed: Value,
) -> Result<()> {
    if sender.server_name() != federation.server_name() {
        return Err(Error::invalid_param(format!(
            "{sender} is not a user of this server, which cannot sign for them."
        )));
    }
    let rooms = &*federation.rooms;
    let invite = {
        let read = rooms.store.read();
        let (no, _) = rooms::require(&read, room)?;
        if members::is_joined(&read, no, target)? || join_rules::is_invited(&read, no, target)? {
            return Ok(());
        }
        pending(&read, no, &signed)?
    };
    check_key(federation, &invite, &signed).await?;
    let draft = {
        let read = rooms.store.read();
        invite_permissions::check(&read, target, sender)?;
        let mut content = membership::with_profile(&read, target, &MembershipState::Invite)?;
        let proof = json!({ "display_name": invite.display_name, "signed": signed });
        content.insert("third_party_invite".to_owned(), proof);
        membership::draft(target, content)?
    };
    if target.server_name() == federation.server_name() {
        policy::send_if(federation, room, sender, |_, _, _| Ok(Some(draft))).await
    } else {
        invite::send(federation, room, sender, target, draft).await.map(drop)
    }
}

/// The invitation in the room that `signed` answers.
fn pending(read: &dyn Read, room: RoomNo, signed: &Value) -> Result<Invite> {
    let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
    let invite: Option<Invite> = state::content(read, room, &StateEventType::RoomThirdPartyInvite, token)?;
    invite.ok_or_else(|| Error::forbidden("There is no such invitation in the room, or it was used already."))
}

/// Makes sure that the key which signed is valid still. That is for this server alone to find out: those who get the
/// event later check the signature only.
async fn check_key(federation: &Federation, invite: &Invite, signed: &Value) -> Result<()> {
    let first = PublicKey::new(invite.public_key.clone());
    let first = [(&first.public_key, Some(invite.key_validity_url.as_str()).filter(|url| !url.is_empty()))];
    let others = invite.public_keys.iter().flatten().map(|key| (&key.public_key, key.key_validity_url.as_deref()));
    let key = first.into_iter().chain(others).find(|(key, _)| key.decode().is_ok_and(|key| has_signed(&key, signed)));
    let Some((key, url)) = key else {
        return Err(Error::forbidden("The identity server of the invitation did not sign this."));
    };
    // "If this URL is absent, the key must be considered valid indefinitely."
    let Some(url) = url else { return Ok(()) };
    if identity::is_key_valid(federation, url, key).await? {
        Ok(())
    } else {
        Err(Error::forbidden("The identity server of the invitation does not use its key any more."))
    }
}

/// Whether one of the signatures of an object is by the ed25519 key.
fn has_signed(key: &[u8], object: &Value) -> bool {
    let Ok(object) = serde_json::from_value::<CanonicalJsonObject>(object.clone()) else { return false };
    let Ok(text) = to_canonical_json_string_for_signing(&object) else { return false };
    let by_server = object.get("signatures").and_then(|signatures| signatures.as_object());
    let signatures = by_server.into_iter().flatten().filter_map(|(_, keys)| keys.as_object()).flatten();
    let mut signatures = signatures.filter_map(|(_, signature)| Base64::<Standard>::parse(signature.as_str()?).ok());
    signatures.any(|signature| {
        let ed25519 = SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(&ed25519, key, signature.as_bytes(), text.as_bytes()).is_ok()
    })
}
