//! The devices and cross-signing keys of other servers' users, as far as they are kept here
//! ([spec](https://spec.matrix.org/latest/server-server-api/#device-management)).
//!
//! A user's list is kept once the user's server was asked for it, if the user shares a room with a user of this server;
//! from then on that server says what changes. The keys themselves stand where those of this server's users do
//! (`device_keys.rs`, `cross_signing.rs`), so whatever shows keys or tells of their changes need not know the difference.
//!
//! A list is *fresh*, and may be shown without asking, if nothing says otherwise: no update of it is missing
//! (`DEVICE_LIST_RESYNCS`), and since it was asked for there has been a room in which a user of this server and the user
//! were all the time, since else updates were not sent here. The latter is seen from the memberships, so nothing needs to
//! be done when somebody leaves or comes back.
//!
//! An answer that was under way while something changed is not kept ([`Asked`]). Deliberately absent: asking
//! (`federation/devices.rs`).

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    events::room::member::MembershipState,
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{cross_signing, device_keys, joined_rooms, signed_json};
use crate::{
    clock,
    error::Result,
    ids::Position,
    store::{
        Direction, Read, Snapshot, Tx,
        records::{DeviceList, Resync},
        trees::{
            DEVICE_KEYS, DEVICE_LIST_RESYNCS, DEVICE_LISTS, KEY_CHANGES, KEYS_CHANGED, LOCAL_MEMBERS, MEMBERS,
            USER_ROOMS,
        },
    },
};

/// How many bytes of JSON the devices of one user may take. Beyond that, devices are left out. A device takes about 700.
const MAX_LIST_BYTES: usize = 1024 * 1024;

/// The longest name of a device that is kept, in bytes.
const MAX_NAME: usize = 256;

/// How many numbers of updates are remembered beside the latest.
const REMEMBERED: usize = 32;

/// The longest pause between two attempts to ask a server, in milliseconds.
const MAX_PAUSE: u64 = 60 * 60 * 1000;

/// The pause after the first failure, in milliseconds.
const FIRST_PAUSE: u64 = 15 * 1000;

/// What a server says of one of its users.
#[derive(Default)]
pub struct Told {
    /// The newest update that it includes.
    pub stream_id: Option<u64>,
    /// The identity keys of each device, and its name unless that stands in `unsigned`.
    pub devices: BTreeMap<OwnedDeviceId, (Box<RawValue>, Option<String>)>,
    /// The master key.
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    pub self_signing_key: Option<Box<RawValue>>,
}

/// A moment at which a user's server is about to be asked.
#[derive(Clone, Debug)]
pub struct Asked {
    at: Position,
    versions: (Option<Position>, Option<Position>),
}

impl Asked {
    /// The moment that `read` shows.
    ///
    /// # Errors
    /// When the database fails or a row is damaged; so for all functions here.
    pub fn new(read: &Snapshot<'_>, user: &UserId) -> Result<Self> {
        Ok(Self { at: read.position()?, versions: versions(read, user)? })
    }
}

/// Grows with whatever may make an answer outdated that is under way.
fn versions(read: &dyn Read, user: &UserId) -> Result<(Option<Position>, Option<Position>)> {
    let wanted = DEVICE_LIST_RESYNCS.get(read, user)?.map(|resync| resync.wanted);
    Ok((KEYS_CHANGED.get(read, user)?, wanted))
}

/// Whether the list that is kept of `user` may be shown without asking.
///
/// # Errors
/// As [`Asked::new`].
pub fn is_fresh(read: &dyn Read, user: &UserId) -> Result<bool> {
    let Some(list) = DEVICE_LISTS.get(read, user)? else { return Ok(false) };
    Ok(!DEVICE_LIST_RESYNCS.contains(read, user)? && are_together_since(read, user, list.asked)?)
}

/// Whether any list is kept of `user`, fresh or not.
///
/// # Errors
/// As [`Asked::new`].
pub fn is_kept(read: &dyn Read, user: &UserId) -> Result<bool> {
    DEVICE_LISTS.contains(read, user)
}

/// Whether `user` and a user of this server have both been in a room from `since` until now.
fn are_together_since(read: &dyn Read, user: &UserId, since: Position) -> Result<bool> {
    for room in joined_rooms(read, user)? {
        if MEMBERS.get(read, (room, user))?.is_none_or(|member| member.position > since) {
            continue;
        }
        for row in LOCAL_MEMBERS.scan(read, (room,), Direction::Forward) {
            let ((_, local), ()) = row?;
            let own = USER_ROOMS.get(read, (&local, room))?;
            if own.is_some_and(|own| own.membership == MembershipState::Join && own.position <= since) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Keeps what the user's server answered, if the user shares a room with a user of this server and nothing changed since
/// it was asked; gives whether it is kept. Tells the users of this server if they may have heard otherwise before.
///
/// # Errors
/// As [`Asked::new`].
pub fn keep(tx: &mut Tx<'_>, user: &UserId, asked: &Asked, told: &Told) -> Result<bool> {
    if versions(tx, user)? != asked.versions || !are_together_since(tx, user, asked.at)? {
        return Ok(false);
    }
    // Who heard of no list before hears of this one by asking for it; who asked in vain must be told to ask again.
    let in_vain = DEVICE_LIST_RESYNCS.get(tx, user)?.is_some_and(|resync| resync.failures > 0);
    let told_before = in_vain || DEVICE_LISTS.contains(tx, user)?;
    let mut changed = replace_devices(tx, user, told)?;
    changed |= cross_signing::replace(tx, user, told.master_key.as_deref(), told.self_signing_key.as_deref())?;
    DEVICE_LIST_RESYNCS.delete(tx, user);
    let list = DeviceList { stream_id: told.stream_id, earlier: Vec::new(), asked: asked.at };
    DEVICE_LISTS.put(tx, user, &list);
    if changed && told_before {
        device_keys::changed(tx, user, None)?;
    }
    Ok(true)
}

/// Puts the devices in place of those kept so far; gives whether they are others.
fn replace_devices(tx: &mut Tx<'_>, user: &UserId, told: &Told) -> Result<bool> {
    let mut earlier = devices(tx, user)?;
    let (mut changed, mut bytes) = (false, 0);
    for (device, (keys, name)) in &told.devices {
        let Some(keys) = checked(user, device, keys, name.as_deref()) else { continue };
        let keys = signed_json::to_raw(&keys)?;
        bytes += keys.get().len();
        if bytes > MAX_LIST_BYTES {
            tracing::debug!("{user} has too many devices; some are left out");
            break;
        }
        if earlier.remove(device).is_none_or(|earlier| earlier.get() != keys.get()) {
            DEVICE_KEYS.put(tx, (user, device), &keys);
            changed = true;
        }
    }
    for device in earlier.keys() {
        DEVICE_KEYS.delete(tx, (user, device));
        changed = true;
    }
    Ok(changed)
}

fn devices(read: &dyn Read, user: &UserId) -> Result<BTreeMap<OwnedDeviceId, Box<RawValue>>> {
    DEVICE_KEYS
        .scan(read, (user,), Direction::Forward)
        .map(|row| row.map(|((_, device), keys)| (device, keys)))
        .collect()
}

/// A device's keys as they are kept: with its user's signatures and its name; nothing if they are not its keys.
fn checked(user: &UserId, device: &DeviceId, keys: &RawValue, name: Option<&str>) -> Option<CanonicalJsonObject> {
    if keys.get().len() > device_keys::MAX_BYTES {
        return None;
    }
    let mut keys = signed_json::parse(keys, "device_keys").ok()?;
    device_keys::check(&keys, user, device).ok()?;
    let unsigned = keys.get("unsigned").and_then(CanonicalJsonValue::as_object);
    let name = name.or_else(|| signed_json::text(unsigned?, "device_display_name"));
    let name = name.filter(|name| name.len() <= MAX_NAME).map(str::to_owned);
    signed_json::keep_signatures_by(&mut keys, user);
    if let Some(name) = name {
        device_keys::put_name(&mut keys, name);
    }
    Some(keys)
}

/// What became of an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Updated {
    /// It is known already, or of no interest: nobody here shares a room with the user.
    Ignored,
    /// It was noted.
    Noted,
    /// The list must be asked for anew.
    Resync,
}

/// Takes an `m.device_list_update` by the user's server. It applies to the list that is kept if it follows the newest
/// update which that includes; if not, the list must be asked for. Of whom no list is kept, the users of this server are
/// told that there is something new to ask for.
///
/// # Errors
/// As [`Asked::new`].
pub fn update(tx: &mut Tx<'_>, update: &DeviceListUpdateContent) -> Result<Updated> {
    let user = &*update.user_id;
    if joined_rooms(tx, user)?.is_empty() {
        return Ok(Updated::Ignored);
    }
    let Some(mut list) = DEVICE_LISTS.get(tx, user)? else {
        device_keys::changed(tx, user, None)?;
        return Ok(Updated::Noted);
    };
    let stream_id = u64::from(update.stream_id);
    let knows = |id: u64| list.stream_id == Some(id) || list.earlier.contains(&id);
    let waits = DEVICE_LIST_RESYNCS.contains(tx, user)?;
    if !waits && knows(stream_id) {
        return Ok(Updated::Ignored);
    }
    // An update without a predecessor is the first of its kind, or by a server that keeps no order.
    let follows = !update.prev_id.is_empty() && update.prev_id.iter().all(|&id| knows(id.into()));
    if waits || !follows || list.stream_id.is_none_or(|newest| stream_id < newest) {
        want_resync(tx, user)?;
        return Ok(Updated::Resync);
    }
    apply(tx, update)?;
    list.earlier.extend(list.stream_id.replace(stream_id));
    let superfluous = list.earlier.len().saturating_sub(REMEMBERED);
    list.earlier.drain(..superfluous);
    DEVICE_LISTS.put(tx, user, &list);
    device_keys::changed(tx, user, None)?;
    Ok(Updated::Noted)
}

/// Puts one device's keys in place of those kept so far. Without valid keys it is of no use to others, so it goes.
fn apply(tx: &mut Tx<'_>, update: &DeviceListUpdateContent) -> Result<()> {
    let (user, device) = (&*update.user_id, &*update.device_id);
    let keys = update.keys.as_ref().filter(|_| update.deleted != Some(true));
    let name = update.device_display_name.as_deref();
    let Some(keys) = keys.and_then(|keys| checked(user, device, keys.json(), name)) else {
        DEVICE_KEYS.delete(tx, (user, device));
        return Ok(());
    };
    let keys = signed_json::to_raw(&keys)?;
    let mut bytes = keys.get().len();
    for (other, keys) in devices(tx, user)? {
        bytes += if other == device { 0 } else { keys.get().len() };
    }
    if bytes <= MAX_LIST_BYTES {
        DEVICE_KEYS.put(tx, (user, device), &keys);
    }
    Ok(())
}

/// Takes an `m.signing_key_update` by the user's server.
///
/// # Errors
/// As [`Asked::new`].
pub fn signing_keys_updated(tx: &mut Tx<'_>, update: &SigningKeyUpdateContent) -> Result<Updated> {
    let user = &*update.user_id;
    if joined_rooms(tx, user)?.is_empty() {
        return Ok(Updated::Ignored);
    }
    if !DEVICE_LISTS.contains(tx, user)? {
        device_keys::changed(tx, user, None)?;
        return Ok(Updated::Noted);
    }
    let (master, self_signing) = (update.master_key.as_ref(), update.self_signing_key.as_ref());
    let keys = [master.map(Raw::json), self_signing.map(Raw::json), None];
    let upload = cross_signing::Upload::parse(user, keys);
    match upload.and_then(|upload| upload.check(tx, user).map(|()| upload)) {
        // Without a number, it cannot be told whether it or what is under way is newer.
        Ok(upload) if !DEVICE_LIST_RESYNCS.contains(tx, user)? => {
            upload.store(tx, user)?;
            Ok(Updated::Noted)
        }
        _ => {
            want_resync(tx, user)?;
            Ok(Updated::Resync)
        }
    }
}

/// Notes that the list of `user`, of another server, is to be asked for before a client needs it, unless it is fresh or is
/// to be asked for already; gives whether it is from now on.
///
/// # Errors
/// As [`Asked::new`].
pub fn want(tx: &mut Tx<'_>, user: &UserId) -> Result<bool> {
    if DEVICE_LIST_RESYNCS.contains(tx, user)? || is_fresh(tx, user)? {
        return Ok(false);
    }
    want_resync(tx, user).map(|()| true)
}

/// Notes that the list of `user` must be asked for, at once.
fn want_resync(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    let wanted = tx.next_position()?;
    DEVICE_LIST_RESYNCS.put(tx, user, &Resync { wanted, ..Resync::default() });
    Ok(())
}

/// Notes that the server of `user` could not be asked, so that it is asked again later if the user shares a room with a
/// user of this server.
///
/// # Errors
/// As [`Asked::new`].
pub fn failed(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    if joined_rooms(tx, user)?.is_empty() {
        return forget(tx, user);
    }
    let mut resync = match DEVICE_LIST_RESYNCS.get(tx, user)? {
        Some(resync) => resync,
        None => Resync { wanted: tx.next_position()?, ..Resync::default() },
    };
    let pause = FIRST_PAUSE.saturating_mul(1 << resync.failures.min(16)).min(MAX_PAUSE);
    resync.failures = resync.failures.saturating_add(1);
    resync.retry_at = clock::now_ms() + pause;
    DEVICE_LIST_RESYNCS.put(tx, user, &resync);
    Ok(())
}

/// Whether the list of `user` must still be asked for; one that is of no use any more is forgotten.
///
/// # Errors
/// As [`Asked::new`].
pub fn is_wanted(tx: &mut Tx<'_>, user: &UserId) -> Result<bool> {
    if joined_rooms(tx, user)?.is_empty() {
        forget(tx, user)?;
    }
    DEVICE_LIST_RESYNCS.contains(tx, user)
}

/// Whether it is time to ask for a list.
pub fn is_due(resync: &Resync) -> bool {
    clock::time_until(resync.retry_at, Duration::from_millis(MAX_PAUSE)).is_zero()
}

/// Whose lists must be asked for, with when to.
pub fn waiting(read: &dyn Read) -> impl Iterator<Item = Result<(OwnedUserId, Resync)>> + '_ {
    DEVICE_LIST_RESYNCS.scan(read, (), Direction::Forward)
}

/// The users of whom a list is kept that is of no use any more, since nobody here has shared a room with them all the
/// time.
///
/// # Errors
/// As [`Asked::new`].
pub fn useless(read: &dyn Read) -> Result<Vec<OwnedUserId>> {
    let mut users = Vec::new();
    for row in DEVICE_LISTS.scan(read, (), Direction::Forward) {
        let (user, list) = row?;
        if !are_together_since(read, &user, list.asked)? {
            users.push(user);
        }
    }
    Ok(users)
}

/// Forgets what is kept of `user`, and that it was to be asked for. Whoever asks for it again asks the user's server.
///
/// # Errors
/// As [`Asked::new`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    DEVICE_LIST_RESYNCS.delete(tx, user);
    DEVICE_LISTS.delete(tx, user);
    DEVICE_KEYS.delete_all(tx, (user,))?;
    cross_signing::drop_all(tx, user)?;
    if joined_rooms(tx, user)?.is_empty()
        && let Some(changed) = KEYS_CHANGED.get(tx, user)?
    {
        KEYS_CHANGED.delete(tx, user);
        KEY_CHANGES.delete(tx, changed);
    }
    Ok(())
}
