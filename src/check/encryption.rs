//! Keys of devices, their supplies, messages that wait, key backups.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, any};
use crate::{
    error::Result,
    store::{
        Direction,
        trees::{
            ACCOUNTS, BACKED_UP_KEYS, CLAIMED_KEYS, CROSS_SIGNING_KEYS, DEVICE_KEYS, DEVICE_LIST_RESYNCS, DEVICE_LISTS,
            DEVICES, FALLBACK_KEYS, KEY_BACKUPS, KEY_CHANGES, KEY_SUPPLIES, KEYS_CHANGED, ONE_TIME_KEYS,
            RECEIVED_MESSAGES, TO_DEVICE, TO_DEVICE_BYTES, TO_DEVICE_WAITING,
        },
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    keys(checker)?;
    checker.has(KEYS_CHANGED, KEY_CHANGES, |_, at| *at, |user, _, changed| changed == user)?;
    checker.has(KEY_CHANGES, KEYS_CHANGED, |_, user| user.clone(), |at, _, latest| latest == at)?;
    checker.each(KEY_CHANGES, |checker, position, _| checker.given_out("position", position.0))?;
    supplies(checker)?;
    to_device(checker)?;
    backups(checker)
}

/// Keys belong to a device or an account of this server, or to a user of another whose list is kept.
fn keys(checker: &mut Checker<'_>) -> Result<()> {
    checker.each(DEVICE_KEYS, |checker, (user, device), _| {
        let own = DEVICES.contains(checker.read, (&user, &device))?;
        let kept = own || DEVICE_LISTS.contains(checker.read, &user)?;
        checker.expect(kept, format_args!("DEVICE_KEYS has keys of {device} of {user}, which is nobody's here"));
        Ok(())
    })?;
    checker.each(CROSS_SIGNING_KEYS, |checker, (user, usage), _| {
        let kept = ACCOUNTS.contains(checker.read, &user)? || DEVICE_LISTS.contains(checker.read, &user)?;
        checker.expect(kept, format_args!("CROSS_SIGNING_KEYS has a {usage} key of {user}, who is nobody here"));
        Ok(())
    })?;
    checker.each(DEVICE_LISTS, |checker, user, list| {
        let foreign = user.server_name() != checker.server_name;
        checker.expect(foreign, format_args!("{user} of this server is in DEVICE_LISTS"));
        checker.given_out("position", list.asked.0)
    })?;
    checker.each(DEVICE_LIST_RESYNCS, |checker, _, resync| checker.given_out("position", resync.wanted.0))?;
    checker.each(RECEIVED_MESSAGES, |checker, _, number| checker.given_out("received_messages", number))
}

/// A device is told the numbers of the keys that it has here.
fn supplies(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(KEY_SUPPLIES, DEVICES, |key, _| key.clone(), any)?;
    checker.each(KEY_SUPPLIES, |checker, (user, device), supply| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for row in ONE_TIME_KEYS.scan(checker.read, (&user, &device), Direction::Forward) {
            let ((_, _, algorithm, ..), _) = row?;
            *counts.entry(algorithm).or_default() += 1;
        }
        let told: BTreeMap<_, _> = supply.counts.into_iter().filter(|(_, count)| *count > 0).collect();
        checker.expect(told == counts, format_args!("{device} of {user} has {counts:?} one-time keys, not {told:?}"));
        let mut unused = BTreeSet::new();
        for row in FALLBACK_KEYS.scan(checker.read, (&user, &device), Direction::Forward) {
            let ((_, _, algorithm), key) = row?;
            unused.extend((!key.used).then_some(algorithm));
        }
        let fault = format!("the unused fallback keys of {device} of {user} are not as noted");
        checker.expect(supply.unused_fallback == unused, fault);
        Ok(())
    })?;
    checker.has(ONE_TIME_KEYS, KEY_SUPPLIES, |(user, device, ..), _| (user.clone(), device.clone()), any)?;
    checker.has(FALLBACK_KEYS, KEY_SUPPLIES, |(user, device, _), _| (user.clone(), device.clone()), any)?;
    checker.has(CLAIMED_KEYS, KEY_SUPPLIES, |(user, device, _), _| (user.clone(), device.clone()), any)
}

fn to_device(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(TO_DEVICE, TO_DEVICE_WAITING, |(user, device, _), _| (user.clone(), device.clone()), any)?;
    checker.each(TO_DEVICE, |checker, (_, _, position), _| checker.given_out("position", position.0))?;
    checker.has(TO_DEVICE_WAITING, DEVICES, |key, _| key.clone(), any)?;
    checker.each(TO_DEVICE_WAITING, |checker, (user, device), noted| {
        let waiting = TO_DEVICE.scan(checker.read, (&user, &device), Direction::Forward).count() as u64;
        let fault = format_args!("{waiting} messages wait for {device} of {user}, not {noted}").to_string();
        checker.expect(waiting == noted && noted > 0, fault);
        Ok(())
    })?;
    checker.has(TO_DEVICE_BYTES, TO_DEVICE_WAITING, |key, _| key.clone(), any)?;
    checker.each(TO_DEVICE_BYTES, |checker, (user, device), noted| {
        let waiting = TO_DEVICE.scan(checker.read, (&user, &device), Direction::Forward);
        let bytes = waiting.map(|row| row.map(|(_, message)| message.get().len() as u64)).sum::<Result<u64>>()?;
        let fault = format_args!("{bytes} bytes of messages wait for {device} of {user}, not {noted}").to_string();
        checker.expect(bytes == noted, fault);
        Ok(())
    })
}

fn backups(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(KEY_BACKUPS, ACCOUNTS, |(user, _), _| user.clone(), any)?;
    checker.each(KEY_BACKUPS, |checker, (user, version), backup| {
        let keys = BACKED_UP_KEYS.scan(checker.read, (&user, version), Direction::Forward).count() as u64;
        let fault = format_args!("backup {version} of {user} has {keys} keys, not {}", backup.count).to_string();
        checker.expect(keys == backup.count, fault);
        Ok(())
    })?;
    checker.has(
        BACKED_UP_KEYS,
        KEY_BACKUPS,
        |(user, version, ..), _| (user.clone(), *version),
        |_, _, backup| !backup.deleted,
    )
}
