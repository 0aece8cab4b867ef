//! The invariants between the rows of accounts and devices, checked over the whole database: for `conduit check` and the
//! ends of tests.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    store::{Direction, Read, trees},
};

/// Everything about accounts and devices that does not fit together, in sentences; nothing if all is well.
///
/// # Errors
/// `Corrupt` when a row does not decode; when the database fails.
pub fn check(read: &dyn Read) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    one_time_keys(read, &mut faults)?;
    to_device(read, &mut faults)?;
    backups(read, &mut faults)?;
    key_changes(read, &mut faults)?;
    Ok(faults)
}

/// The counts that devices are told are the numbers of their keys.
fn one_time_keys(read: &dyn Read, faults: &mut Vec<String>) -> Result<()> {
    let mut counts: BTreeMap<_, BTreeMap<String, u64>> = BTreeMap::new();
    for row in trees::ONE_TIME_KEYS.scan(read, (), Direction::Forward) {
        let ((user, device, algorithm, ..), _) = row?;
        *counts.entry((user, device)).or_default().entry(algorithm).or_default() += 1;
    }
    for row in trees::KEY_SUPPLIES.scan(read, (), Direction::Forward) {
        let ((user, device), mut supply) = row?;
        supply.counts.retain(|_, count| *count > 0);
        let found = counts.remove(&(user.clone(), device.clone())).unwrap_or_default();
        if supply.counts != found {
            faults.push(format!("device {device} of {user}: its one-time keys are not as many as it is told"));
        }
    }
    for (user, device) in counts.into_keys() {
        faults.push(format!("device {device} of {user}: it has one-time keys and is told nothing"));
    }
    Ok(())
}

/// The queues are as long as they say, and their devices exist.
fn to_device(read: &dyn Read, faults: &mut Vec<String>) -> Result<()> {
    let mut waiting: BTreeMap<_, u64> = BTreeMap::new();
    for row in trees::TO_DEVICE.scan(read, (), Direction::Forward) {
        let ((user, device, _), _) = row?;
        *waiting.entry((user, device)).or_default() += 1;
    }
    for row in trees::TO_DEVICE_WAITING.scan(read, (), Direction::Forward) {
        let ((user, device), count) = row?;
        if waiting.remove(&(user.clone(), device.clone())) != Some(count) {
            faults.push(format!("device {device} of {user}: its queue is not as long as it says"));
        }
        if !trees::DEVICES.contains(read, (&user, &device))? {
            faults.push(format!("device {device} of {user}: messages wait for it, but it is gone"));
        }
    }
    for (user, device) in waiting.into_keys() {
        faults.push(format!("device {device} of {user}: its queue has no length"));
    }
    Ok(())
}

/// Backups hold as many keys as they say, and deleted ones none.
fn backups(read: &dyn Read, faults: &mut Vec<String>) -> Result<()> {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for row in trees::BACKED_UP_KEYS.scan(read, (), Direction::Forward) {
        let ((user, version, ..), _) = row?;
        *counts.entry((user, version)).or_default() += 1;
    }
    for row in trees::KEY_BACKUPS.scan(read, (), Direction::Forward) {
        let ((user, version), backup) = row?;
        let found = counts.remove(&(user.clone(), version)).unwrap_or(0);
        if found != backup.count || (backup.deleted && found > 0) {
            faults.push(format!("backup {version} of {user}: it has {found} keys and says {}", backup.count));
        }
    }
    for (user, version) in counts.into_keys() {
        faults.push(format!("backup {version} of {user}: there are keys, but no backup"));
    }
    Ok(())
}

/// The log of changes of keys has each user once, where the user's own row says.
fn key_changes(read: &dyn Read, faults: &mut Vec<String>) -> Result<()> {
    let mut listed = 0;
    for row in trees::KEY_CHANGES.scan(read, (), Direction::Forward) {
        let (position, user) = row?;
        listed += 1;
        if trees::KEYS_CHANGED.get(read, &user)? != Some(position) {
            faults.push(format!("{user}: the log of changed keys has a row too many, at {position}"));
        }
    }
    if trees::KEYS_CHANGED.scan(read, (), Direction::Forward).count() != listed {
        faults.push("the log of changed keys lacks a user".to_owned());
    }
    Ok(())
}
