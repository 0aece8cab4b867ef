//! One-time and fallback keys, with which others start encrypted sessions with a device.
//!
//! Invariants: a one-time key is handed out at most once: handing it out and deleting it is one transaction, and the
//! IDs of keys handed out lately are remembered, so that a device which repeats an upload (its answer was lost) does not
//! bring them back. Keys are handed out in the order in which they came. What `/sync` tells the device is one row,
//! [`KeySupply`], kept in step.

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OneTimeKeyId, UInt, UserId,
    api::{
        error::ErrorKind,
        federation::keys::claim_keys::v1::{OneTimeKeyClaims, OneTimeKeys},
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    ids::Position,
    store::{
        Direction, Read, Tx,
        records::{FallbackKey, KeySupply},
        trees,
    },
};

/// How many one-time keys a device can have here. Clients keep 50 to 100.
const MAX_KEYS: u64 = 1000;

/// The longest key, in bytes of JSON. One with a signature takes about 200.
const MAX_BYTES: usize = 4 * 1024;

/// How many IDs of keys that were handed out are remembered for each device.
const REMEMBERED: usize = 256;

/// The algorithm whose count is told even when it is zero; clients that are told nothing make no new keys.
const TOLD_AT_ZERO: &str = "signed_curve25519";

/// Keeps new one-time keys. A key that is here already, or was handed out lately, is no error.
///
/// # Errors
/// 400 `M_UNKNOWN` when another key goes by one of the IDs; `M_TOO_LARGE`, `M_INVALID_PARAM` (too many).
pub fn upload<'a>(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    keys: impl IntoIterator<Item = (&'a OneTimeKeyId, &'a RawValue)>,
) -> Result<()> {
    let mut keys = keys.into_iter().peekable();
    if keys.peek().is_none() {
        return Ok(());
    }
    let mut here = BTreeMap::new();
    for row in trees::ONE_TIME_KEYS.scan(tx, (user, device), Direction::Forward) {
        let ((_, _, _, _, id), key) = row?;
        here.insert(id, key);
    }
    let order = tx.next("one_time_keys")?;
    let mut supply = supply(tx, user, device)?;
    for (id, key) in keys {
        check_size(key)?;
        if let Some(earlier) = here.get(id.as_str()) {
            if same(earlier, key) {
                continue;
            }
            let message = format!("There is another one-time key with the ID {id} already.");
            return Err(Error::bad_request(ErrorKind::Unknown, message));
        }
        if trees::CLAIMED_KEYS.contains(tx, (user, device, id.as_str()))? {
            continue;
        }
        let algorithm = id.algorithm().to_string();
        let count = supply.counts.entry(algorithm.clone()).or_default();
        *count += 1;
        if supply.counts.values().sum::<u64>() > MAX_KEYS {
            return Err(Error::invalid_param(format!("A device can have at most {MAX_KEYS} one-time keys.")));
        }
        trees::ONE_TIME_KEYS.put(tx, (user, device, &algorithm, order, id.as_str()), &key.to_owned());
    }
    put_supply(tx, user, device, supply)
}

/// Keeps new fallback keys, each in place of the one of its algorithm.
///
/// # Errors
/// 400 `M_TOO_LARGE`, `M_INVALID_PARAM` (too many algorithms).
pub fn upload_fallback<'a>(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    keys: impl IntoIterator<Item = (&'a OneTimeKeyId, &'a RawValue)>,
) -> Result<()> {
    let mut supply = supply(tx, user, device)?;
    let mut any = false;
    for (id, key) in keys {
        check_size(key)?;
        let algorithm = id.algorithm().to_string();
        let row_key = (user, device, algorithm.as_str());
        let earlier = trees::FALLBACK_KEYS.get(tx, row_key)?;
        // The same key once more stays used.
        if earlier.is_some_and(|earlier| earlier.id == id.as_str() && same(&earlier.key, key)) {
            continue;
        }
        let row = FallbackKey { id: id.to_string(), key: key.to_owned(), used: false };
        trees::FALLBACK_KEYS.put(tx, row_key, &row);
        supply.unused_fallback.insert(algorithm);
        any = true;
    }
    if supply.unused_fallback.len() > 16 {
        return Err(Error::invalid_param("These are fallback keys of too many algorithms."));
    }
    if any { put_supply(tx, user, device, supply) } else { Ok(()) }
}

fn check_size(key: &RawValue) -> Result<()> {
    if key.get().len() > MAX_BYTES {
        return Err(Error::too_large(format!("A one-time key must not be longer than {MAX_BYTES} bytes.")));
    }
    Ok(())
}

/// Whether two keys are the same JSON, however it is written.
fn same(a: &RawValue, b: &RawValue) -> bool {
    a.get() == b.get() || {
        let value = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
        value(a) == value(b)
    }
}

/// Hands out a key of a device: the oldest one-time key, which is gone then, or else the fallback key.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions below.
pub fn claim(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    algorithm: &OneTimeKeyAlgorithm,
) -> Result<Option<(String, Box<RawValue>)>> {
    let algorithm = algorithm.as_str();
    let oldest = trees::ONE_TIME_KEYS.scan(tx, (user, device, algorithm), Direction::Forward).next().transpose()?;
    if let Some((row_key, key)) = oldest {
        trees::ONE_TIME_KEYS.delete(tx, &row_key);
        let (_, _, _, _, id) = row_key;
        remember(tx, user, device, &id)?;
        let mut supply = supply(tx, user, device)?;
        let count = supply.counts.entry(algorithm.to_owned()).or_default();
        *count = count.saturating_sub(1);
        put_supply(tx, user, device, supply)?;
        return Ok(Some((id, key)));
    }
    let Some(mut fallback) = trees::FALLBACK_KEYS.get(tx, (user, device, algorithm))? else { return Ok(None) };
    if !fallback.used {
        fallback.used = true;
        trees::FALLBACK_KEYS.put(tx, (user, device, algorithm), &fallback);
        let mut supply = supply(tx, user, device)?;
        supply.unused_fallback.remove(algorithm);
        put_supply(tx, user, device, supply)?;
    }
    Ok(Some((fallback.id, fallback.key)))
}

/// Hands out a key of each of many devices; those that have none are left out.
///
/// # Errors
/// As [`claim`].
pub fn claim_all(tx: &mut Tx<'_>, wanted: &OneTimeKeyClaims) -> Result<OneTimeKeys> {
    let mut claimed = OneTimeKeys::new();
    for (user, devices) in wanted {
        for (device, algorithm) in devices {
            let Some((id, key)) = claim(tx, user, device, algorithm)? else { continue };
            let Ok(id) = id.try_into() else { continue };
            let keys = claimed.entry(user.clone()).or_default().entry(device.clone()).or_default();
            keys.insert(id, Raw::from_json(key));
        }
    }
    Ok(claimed)
}

/// Remembers that a key was handed out, and forgets those handed out long ago.
fn remember(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId, id: &str) -> Result<()> {
    let at = tx.next("claimed_keys")?;
    trees::CLAIMED_KEYS.put(tx, (user, device, id), &at);
    if at % 64 != 0 {
        return Ok(());
    }
    let mut claimed = Vec::new();
    for row in trees::CLAIMED_KEYS.scan(tx, (user, device), Direction::Forward) {
        let ((_, _, id), at) = row?;
        claimed.push((at, id));
    }
    claimed.sort_unstable();
    let superfluous = claimed.len().saturating_sub(REMEMBERED);
    for (_, id) in claimed.iter().take(superfluous) {
        trees::CLAIMED_KEYS.delete(tx, (user, device, id.as_str()));
    }
    Ok(())
}

/// How the device is supplied with keys, and when that changed last.
///
/// # Errors
/// As [`claim`].
pub fn supply(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<KeySupply> {
    Ok(trees::KEY_SUPPLIES.get(read, (user, device))?.unwrap_or_default())
}

fn put_supply(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId, mut supply: KeySupply) -> Result<()> {
    supply.changed = tx.next_position()?;
    trees::KEY_SUPPLIES.put(tx, (user, device), &supply);
    tx.wake_device(user, device);
    Ok(())
}

/// The number of one-time keys of the device by algorithm, with an explicit zero where clients look for it.
///
/// # Errors
/// As [`claim`].
pub fn counts(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>> {
    let mut counts = supply(read, user, device)?.counts;
    counts.entry(TOLD_AT_ZERO.to_owned()).or_default();
    let told = |(algorithm, count): (String, u64)| (algorithm.into(), UInt::new_saturating(count));
    Ok(counts.into_iter().map(told).collect())
}

/// The algorithms for which the device has a fallback key that was not handed out yet.
///
/// # Errors
/// As [`claim`].
pub fn unused_fallback(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Vec<OneTimeKeyAlgorithm>> {
    Ok(supply(read, user, device)?.unused_fallback.into_iter().map(Into::into).collect())
}

/// When what [`counts`] and [`unused_fallback`] say changed last.
///
/// # Errors
/// As [`claim`].
pub fn last_change(read: &dyn Read, user: &UserId, device: &DeviceId) -> Result<Position> {
    Ok(supply(read, user, device)?.changed)
}

/// Forgets the keys of a device that is being deleted.
///
/// # Errors
/// As [`claim`].
pub fn forget(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    if !trees::KEY_SUPPLIES.contains(tx, (user, device))? {
        return Ok(());
    }
    trees::KEY_SUPPLIES.delete(tx, (user, device));
    trees::ONE_TIME_KEYS.delete_all(tx, (user, device))?;
    trees::FALLBACK_KEYS.delete_all(tx, (user, device))?;
    trees::CLAIMED_KEYS.delete_all(tx, (user, device))
}
