//! Cross-signing keys and the signatures that they and devices make
//! ([spec](https://spec.matrix.org/latest/client-server-api/#cross-signing)).
//!
//! A user has at most one key of each [`Usage`]. Signatures that came with a key stay in its row; those uploaded later
//! are rows of `KEY_SIGNATURES`, by the key they sign and by who signed. Invariants: every row there was verified when
//! it came; the self-signing and user-signing keys are signed by the master key that the user has now.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, DeviceId, UserId};
use serde_json::{Value as JsonValue, json, value::RawValue};

use super::{device_keys, signed_json};
use crate::{
    error::{Error, Reason, Result},
    store::{Direction, Read, Tx, trees},
};

/// The longest cross-signing key that is kept, in bytes of JSON.
const MAX_BYTES: usize = 8 * 1024;

/// What a cross-signing key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// Signs the other two.
    Master,
    /// Signs the user's own devices.
    SelfSigning,
    /// Signs other users' master keys.
    UserSigning,
}

impl Usage {
    /// All of them, the master key first.
    pub const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// The name in a key's `usage`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// A key that a client uploads, found to be of the right shape.
struct NewKey {
    usage: Usage,
    public_key: String,
    object: CanonicalJsonObject,
}

/// The keys of one `/keys/device_signing/upload`.
pub struct Upload(Vec<NewKey>);

impl Upload {
    /// Takes the uploaded keys, whose order is that of [`Usage::ALL`].
    ///
    /// # Errors
    /// 400 `M_BAD_JSON`, `M_INVALID_PARAM`.
    pub fn parse(user: &UserId, keys: [Option<&RawValue>; 3]) -> Result<Self> {
        let given = Usage::ALL.into_iter().zip(keys).filter_map(|(usage, key)| Some((usage, key?)));
        given.map(|(usage, key)| NewKey::parse(user, usage, key)).collect::<Result<_>>().map(Self)
    }

    /// Whether the user must authenticate once more: a master key is there already, and the request holds a key that
    /// is not there yet.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn needs_authentication(&self, read: &dyn Read, user: &UserId) -> Result<bool> {
        if public_key(read, user, Usage::Master)?.is_none() {
            return Ok(false);
        }
        for key in &self.0 {
            if public_key(read, user, key.usage)?.as_ref() != Some(&key.public_key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks the signatures: the self-signing and user-signing keys by the master key that comes with them or, failing
    /// that, the one that is there. Of signatures by the user's devices, those that fit.
    ///
    /// # Errors
    /// 400 `M_MISSING_PARAM` without a master key, `M_INVALID_SIGNATURE`; 403 `M_FORBIDDEN` when one of the user's
    /// devices is called like a key.
    pub fn check(&self, read: &dyn Read, user: &UserId) -> Result<()> {
        let new_master = self.0.iter().find(|key| key.usage == Usage::Master).map(|key| key.public_key.clone());
        let master = match new_master {
            Some(master) => master,
            None => public_key(read, user, Usage::Master)?
                .ok_or_else(|| Error::missing_param("Upload a master signing key first, or along with the others."))?,
        };
        let master_id = format!("ed25519:{master}");
        for key in &self.0 {
            if trees::DEVICES.contains(read, (user, <&DeviceId>::from(key.public_key.as_str())))? {
                return Err(Error::forbidden("One of your devices is called like a key. Make another key."));
            }
            if key.usage != Usage::Master {
                let mut signatures = signed_json::signatures_by(&key.object, user);
                if !signatures.any(|(id, sig)| id == master_id && signed_json::verifies(&key.object, &master, sig)) {
                    let usage = key.usage.name();
                    return Err(signed_json::invalid_signature(format!(
                        "The {usage} key must be signed by the master signing key."
                    )));
                }
            }
        }
        Ok(())
    }

    /// Keeps the keys, and tells those who share a room with the user if they changed.
    ///
    /// # Errors
    /// As [`check`](Self::check), which it does once more under the writer's lock.
    pub fn store(self, tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
        if self.keep(tx, user)? { device_keys::changed(tx, user, None) } else { Ok(()) }
    }

    /// Keeps the keys; gives whether they are others than before. A new master key voids the other two unless they came
    /// with it, and whatever signed the old one.
    fn keep(self, tx: &mut Tx<'_>, user: &UserId) -> Result<bool> {
        self.check(tx, user)?;
        let mut any = false;
        for mut key in self.0 {
            let stored = get(tx, user, key.usage)?;
            let earlier = stored.as_ref().and_then(public_key_of).map(str::to_owned);
            if earlier.as_ref() != Some(&key.public_key)
                && let Some(earlier) = earlier
            {
                trees::KEY_SIGNATURES.delete_all(tx, (user, earlier.as_str()))?;
                if key.usage == Usage::Master {
                    trees::CROSS_SIGNING_KEYS.delete(tx, (user, Usage::SelfSigning.name()));
                    trees::CROSS_SIGNING_KEYS.delete(tx, (user, Usage::UserSigning.name()));
                }
            }
            signed_json::keep_signatures_by(&mut key.object, user);
            if stored.as_ref() != Some(&key.object) {
                trees::CROSS_SIGNING_KEYS.put(tx, (user, key.usage.name()), &signed_json::to_raw(&key.object)?);
                any = true;
            }
        }
        Ok(any)
    }
}

/// Keeps the cross-signing keys that the server of a user of another server names, in place of those kept so far; gives
/// whether they are others than before. Keys that are not what they should be count as absent.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn replace(
    tx: &mut Tx<'_>,
    user: &UserId,
    master: Option<&RawValue>,
    self_signing: Option<&RawValue>,
) -> Result<bool> {
    let valid = |tx: &Tx<'_>, self_signing| {
        let upload = Upload::parse(user, [Some(master?), self_signing, None]).ok()?;
        upload.check(tx, user).is_ok().then_some(upload)
    };
    let both = self_signing.and_then(|key| valid(tx, Some(key)));
    let keeps_self_signing = both.is_some();
    let Some(upload) = both.or_else(|| valid(tx, None)) else { return drop_all(tx, user) };
    let mut changed = upload.keep(tx, user)?;
    let key = (user, Usage::SelfSigning.name());
    if !keeps_self_signing && trees::CROSS_SIGNING_KEYS.contains(tx, key)? {
        trees::CROSS_SIGNING_KEYS.delete(tx, key);
        changed = true;
    }
    Ok(changed)
}

/// Drops the keys that are kept of a user of another server; gives whether there were any. What users of this server
/// signed stays: it is valid again when the keys come back.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn drop_all(tx: &mut Tx<'_>, user: &UserId) -> Result<bool> {
    let any = trees::CROSS_SIGNING_KEYS.scan(tx, (user,), Direction::Forward).next().transpose()?.is_some();
    trees::CROSS_SIGNING_KEYS.delete_all(tx, (user,))?;
    Ok(any)
}

impl NewKey {
    fn parse(user: &UserId, usage: Usage, json: &RawValue) -> Result<Self> {
        let name = usage.name();
        let wrong = |what: &str| Error::invalid_param(format!("The {name} key {what}."));
        if json.get().len() > MAX_BYTES {
            return Err(Error::too_large(format!("A cross-signing key must not be longer than {MAX_BYTES} bytes.")));
        }
        let object = signed_json::parse(json, "A cross-signing key")?;
        if signed_json::text(&object, "user_id") != Some(user.as_str()) {
            return Err(wrong("must name the user as user_id"));
        }
        let usages = object.get("usage").and_then(CanonicalJsonValue::as_array);
        if !usages.is_some_and(|usages| usages.iter().any(|usage| usage.as_str() == Some(name))) {
            return Err(wrong("must name its usage"));
        }
        let public_key = public_key_of(&object).ok_or_else(|| wrong("must hold one ed25519 public key"))?.to_owned();
        Ok(Self { usage, public_key, object })
    }
}

/// The public key of a cross-signing key: "There must be only one key", and its ID is itself.
fn public_key_of(object: &CanonicalJsonObject) -> Option<&str> {
    let mut keys = object.get("keys")?.as_object()?.iter();
    let (id, key) = keys.next()?;
    let key = key.as_str()?;
    let fits = keys.next().is_none() && id.strip_prefix("ed25519:") == Some(key) && signed_json::is_public_key(key);
    fits.then_some(key)
}

/// The user's key of this usage as it was uploaded.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions below.
fn get(read: &dyn Read, user: &UserId, usage: Usage) -> Result<Option<CanonicalJsonObject>> {
    Ok(trees::CROSS_SIGNING_KEYS.get(read, (user, usage.name()))?.map(|row| signed_json::stored(&row)))
}

/// The public part of the user's key of this usage.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn public_key(read: &dyn Read, user: &UserId, usage: Usage) -> Result<Option<String>> {
    Ok(get(read, user, usage)?.as_ref().and_then(public_key_of).map(str::to_owned))
}

/// Whether `id` is the public part of one of the user's keys.
///
/// # Errors
/// As [`public_key`].
pub fn is_key_of(read: &dyn Read, user: &UserId, id: &str) -> Result<bool> {
    for usage in Usage::ALL {
        if public_key(read, user, usage)?.as_deref() == Some(id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The user's key as `viewer` may see it; user-signing keys are for their owner's eyes.
///
/// # Errors
/// As [`public_key`].
pub fn shown(read: &dyn Read, user: &UserId, usage: Usage, viewer: &UserId) -> Result<Option<Box<RawValue>>> {
    if usage == Usage::UserSigning && user != viewer {
        return Ok(None);
    }
    let Some(mut key) = get(read, user, usage)? else { return Ok(None) };
    if let Some(public_key) = public_key_of(&key).map(str::to_owned) {
        lay_on_signatures(read, &mut key, user, &public_key, viewer)?;
    }
    signed_json::to_raw(&key).map(Some)
}

/// A master key that another server showed, with the signatures that `viewer` made of it.
///
/// # Errors
/// As [`public_key`].
pub fn shown_by_others(read: &dyn Read, user: &UserId, key: Box<RawValue>, viewer: &UserId) -> Result<Box<RawValue>> {
    let Ok(mut object) = signed_json::parse(&key, "A cross-signing key") else { return Ok(key) };
    let Some(public_key) = public_key_of(&object).map(str::to_owned) else { return Ok(key) };
    lay_on_signatures(read, &mut object, user, &public_key, viewer)?;
    signed_json::to_raw(&object)
}

/// Lays onto a key of `user` the signatures that `viewer` may see: those by its owner and those by the viewer. Other
/// users' signatures would show whom they know
/// ([spec](https://spec.matrix.org/latest/client-server-api/#key-and-signature-security)).
///
/// # Errors
/// As [`public_key`].
pub fn lay_on_signatures(
    read: &dyn Read,
    key: &mut CanonicalJsonObject,
    user: &UserId,
    key_name: &str,
    viewer: &UserId,
) -> Result<()> {
    let signers = std::iter::once(user).chain((viewer != user).then_some(viewer));
    for signer in signers {
        for row in trees::KEY_SIGNATURES.scan(read, (user, key_name, signer), Direction::Forward) {
            let ((_, _, _, key_id), signature) = row?;
            signed_json::add_signature(key, signer, &key_id, &signature);
        }
    }
    Ok(())
}

/// Keeps the signatures by `signer` that an uploaded key carries. `key_name` is a device ID or a public master key of
/// `user`; the uploaded object must be that key.
///
/// # Errors
/// 404 `M_NOT_FOUND` when `user` has no such key; 400 `M_INVALID_PARAM` when it is another than the one here,
/// `M_INVALID_SIGNATURE` when there is no signature by a key that may sign it, or one that does not fit.
pub fn add_signatures(
    tx: &mut Tx<'_>,
    signer: &UserId,
    user: &UserId,
    key_name: &str,
    signed: &RawValue,
) -> Result<()> {
    if signed.get().len() > MAX_BYTES * 2 {
        return Err(Error::too_large("The signed key is too long."));
    }
    let signed = signed_json::parse(signed, "A signed key")?;
    let (target, is_device) = target(tx, user, key_name)?;
    if !signed_json::same_content(&target, &signed) {
        return Err(Error::invalid_param("The signed key is not the one that the server has."));
    }
    let mut new = Vec::new();
    for (key_id, signature) in signed_json::signatures_by(&signed, signer) {
        let known = signed_json::signatures_by(&target, signer).any(|known| known == (key_id, signature));
        if known {
            continue;
        }
        match signing_key(tx, signer, user, is_device, key_id)? {
            Some(key) if signed_json::verifies(&target, &key, signature) => new.push((key_id, signature)),
            _ => return Err(signed_json::invalid_signature(format!("The signature by {key_id} is invalid."))),
        }
    }
    if new.is_empty() && signed_json::signatures_by(&signed, signer).next().is_none() {
        return Err(signed_json::invalid_signature("The key carries no signature of yours."));
    }
    let mut any = false;
    for (key_id, signature) in new {
        let key = (user, key_name, signer, key_id);
        if trees::KEY_SIGNATURES.get(tx, key)?.as_deref() != Some(signature) {
            trees::KEY_SIGNATURES.put(tx, key, &signature.to_owned());
            any = true;
        }
    }
    match any {
        false => Ok(()),
        true if user == signer => device_keys::changed(tx, user, is_device.then_some(<&DeviceId>::from(key_name))),
        true => note_own_change(tx, signer, user),
    }
}

/// The key that a signature is for, and whether it is a device's.
fn target(read: &dyn Read, user: &UserId, key_name: &str) -> Result<(CanonicalJsonObject, bool)> {
    if let Some(row) = trees::DEVICE_KEYS.get(read, (user, <&DeviceId>::from(key_name)))? {
        return Ok((signed_json::stored(&row), true));
    }
    let master = get(read, user, Usage::Master)?.filter(|key| public_key_of(key) == Some(key_name));
    master.map(|key| (key, false)).ok_or_else(|| Error::not_found("There is no such key."))
}

/// The public key that goes by `key_id`, if it may sign: a user's self-signing key signs the user's devices, the user's
/// devices sign the user's master key, and the user-signing key signs others' master keys.
fn signing_key(
    read: &dyn Read,
    signer: &UserId,
    user: &UserId,
    is_device: bool,
    key_id: &str,
) -> Result<Option<String>> {
    let Some(name) = key_id.strip_prefix("ed25519:") else { return Ok(None) };
    let usage = match (signer == user, is_device) {
        (true, true) => Usage::SelfSigning,
        (true, false) => return device_keys::fingerprint(read, user, <&DeviceId>::from(name)),
        (false, false) => Usage::UserSigning,
        (false, true) => return Ok(None),
    };
    Ok(public_key(read, signer, usage)?.filter(|key| key == name))
}

/// Notes that `signer`, and nobody else, sees another signature on a key of `user` now.
fn note_own_change(tx: &mut Tx<'_>, signer: &UserId, user: &UserId) -> Result<()> {
    let position = tx.next_position()?;
    trees::OWN_KEY_CHANGES.put(tx, (signer, position), &user.to_owned());
    tx.wake(signer);
    Ok(())
}

/// Forgets the keys of an account that is being deactivated.
///
/// # Errors
/// As [`public_key`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    trees::CROSS_SIGNING_KEYS.delete_all(tx, (user,))?;
    trees::KEY_SIGNATURES.delete_all(tx, (user,))?;
    trees::OWN_KEY_CHANGES.delete_all(tx, (user,))?;
    device_keys::changed(tx, user, None)
}

/// What `/keys/signatures/upload` says under `failures` of a key whose signature was not added.
pub fn failure(error: &Error) -> JsonValue {
    match error.reason() {
        Reason::Matrix { kind, message, .. } => json!({ "errcode": kind.errcode().as_str(), "error": message }),
        _ => json!({ "errcode": "M_UNKNOWN", "error": "The server failed to store the signature." }),
    }
}
