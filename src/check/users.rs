//! Accounts, their devices and tokens, and what users keep here.

use ruma::{OwnedDeviceId, OwnedUserId};

use super::{Checker, any, room_exists};
use crate::{
    error::Result,
    store::{
        records::{Account, Device, TokenPair, Validation},
        trees::{
            ACCESS_TOKENS, ACCOUNT_DATA, ACCOUNT_DATA_CHANGES, ACCOUNTS, DEACTIVATED_USERS, DEHYDRATED_DEVICES,
            DEVICES, ERASED_USERS, ERASURES, FILTERS, LOGIN_TOKENS, NOTICE_ROOMS, OPENID_TOKENS, PASSWORD_RESETS,
            PROFILE_UPDATES, PROFILES, PROVIDER_IDENTITIES, PUSHERS, PUSHKEYS, REFRESH_TOKENS, ROOMS, THREAD_FOLLOWERS,
            THREAD_SUBSCRIPTION_CHANGES, THREAD_SUBSCRIPTIONS, THREEPIDS, TRANSACTION_TIMES, TRANSACTIONS,
            VALIDATION_TIMES, VALIDATIONS, WELCOMES,
        },
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    checker.each(ACCOUNTS, account)?;
    checker.has(
        THREEPIDS,
        ACCOUNTS,
        |_, user| user.clone(),
        |(medium, address), _, account| {
            account.threepids.iter().any(|own| own.medium == *medium && own.address == *address)
        },
    )?;
    checker.has(
        PROVIDER_IDENTITIES,
        ACCOUNTS,
        |_, user| user.clone(),
        |(issuer, subject), _, account| {
            account.identities.iter().any(|own| own.issuer == *issuer && own.subject == *subject)
        },
    )?;
    checker.has(DEVICES, ACCOUNTS, |(user, _), _| user.clone(), |_, _, account| !account.deactivated)?;
    checker.has(DEHYDRATED_DEVICES, DEVICES, |user, row| (user.clone(), row.device.clone()), any)?;
    tokens(checker)?;
    checker.has(WELCOMES, ACCOUNTS, |user, _| user.clone(), any)?;
    checker.has(ERASURES, ERASED_USERS, |user, ()| user.clone(), any)?;
    checker.has(NOTICE_ROOMS, ROOMS, |_, room| *room, any)?;
    checker.has(PROFILES, ACCOUNTS, |user, _| user.clone(), any)?;
    checker.has(PROFILE_UPDATES, ACCOUNTS, |user, _| user.clone(), any)?;
    checker.has(DEACTIVATED_USERS, ACCOUNTS, |user, ()| user.clone(), |_, (), account| account.deactivated)?;
    checker.has(FILTERS, ACCOUNTS, |(user, _), _| user.clone(), any)?;
    checker.has(LOGIN_TOKENS, ACCOUNTS, |_, user| user.clone(), any)?;
    checker.has(OPENID_TOKENS, ACCOUNTS, |_, user| user.clone(), any)?;
    checker.has(PASSWORD_RESETS, ACCOUNTS, |_, user| user.clone(), |_, _, account| !account.deactivated)?;
    checker.has(VALIDATIONS, VALIDATION_TIMES, |sid, row| (row.expires_ts, sid.clone()), any)?;
    let at = |(expires, _): &(u64, String), (): &(), row: &Validation| row.expires_ts == *expires;
    checker.has(VALIDATION_TIMES, VALIDATIONS, |(_, sid), ()| sid.clone(), at)?;
    account_data(checker)?;
    thread_subscriptions(checker)?;
    checker.has(PUSHERS, DEVICES, |(user, ..), row| (user.clone(), row.device.clone()), any)?;
    let swapped = |(a, b, c): &(String, String, OwnedUserId)| (c.clone(), a.clone(), b.clone());
    checker.has(PUSHKEYS, PUSHERS, |key, ()| swapped(key), any)?;
    checker.has(PUSHERS, PUSHKEYS, |(user, app, key), _| (app.clone(), key.clone(), user.clone()), any)?;
    checker.has(TRANSACTIONS, TRANSACTION_TIMES, |key, row| (row.at, key.clone()), any)
}

fn account(checker: &mut Checker<'_>, user: OwnedUserId, account: Account) -> Result<()> {
    let local = user.server_name() == checker.server_name;
    checker.expect(local, format_args!("{user} has an account here, but is of another server"));
    for own in &account.threepids {
        let owner = THREEPIDS.get(checker.read, (&own.medium, &own.address))?;
        checker.expect(owner.as_ref() == Some(&user), format_args!("an address of {user} is not in THREEPIDS"));
    }
    for own in &account.identities {
        let owner = PROVIDER_IDENTITIES.get(checker.read, (&own.issuer, &own.subject))?;
        let there = owner.as_ref() == Some(&user);
        checker.expect(there, format_args!("an identity of {user} is not in PROVIDER_IDENTITIES"));
    }
    Ok(())
}

/// Every token is that of a device, and every device has the tokens that it names.
fn tokens(checker: &mut Checker<'_>) -> Result<()> {
    fn pair(device: &Device, next: bool) -> Option<&TokenPair> {
        if next { device.next_tokens.as_ref() } else { device.tokens.as_ref() }
    }
    checker.has(
        ACCESS_TOKENS,
        DEVICES,
        |_, token| (token.user.clone(), token.device.clone()),
        |hash, token, device| pair(device, token.next).is_some_and(|pair| pair.access == *hash),
    )?;
    checker.has(
        REFRESH_TOKENS,
        DEVICES,
        |_, token| (token.user.clone(), token.device.clone()),
        |hash, token, device| pair(device, token.next).is_some_and(|pair| pair.refresh.as_ref() == Some(hash)),
    )?;
    checker.each(DEVICES, |checker, (user, id): (OwnedUserId, OwnedDeviceId), device| {
        for own in [&device.tokens, &device.next_tokens].into_iter().flatten() {
            let access = ACCESS_TOKENS.contains(checker.read, &own.access)?;
            let refresh = match &own.refresh {
                Some(hash) => REFRESH_TOKENS.contains(checker.read, hash)?,
                None => true,
            };
            checker.expect(access && refresh, format_args!("a token of device {id} of {user} is not there"));
        }
        Ok(())
    })
}

fn account_data(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(ACCOUNT_DATA, ACCOUNTS, |(user, ..), _| user.clone(), any)?;
    checker.each(ACCOUNT_DATA, |checker, (user, room, kind), data| {
        checker.given_out("position", data.position.0)?;
        let there = room.map_or(Ok(true), |room| room_exists(checker, room))?;
        checker.expect(there, format_args!("{user} has {kind} for room {room:?}, which does not exist"));
        Ok(())
    })?;
    checker.has(
        ACCOUNT_DATA,
        ACCOUNT_DATA_CHANGES,
        |(user, ..), data| (user.clone(), data.position),
        |(_, room, kind), _, (of_room, of_kind)| (room, kind) == (of_room, of_kind),
    )?;
    checker.has(
        ACCOUNT_DATA_CHANGES,
        ACCOUNT_DATA,
        |(user, _), (room, kind)| (user.clone(), *room, kind.clone()),
        |(_, position), _, data| data.position == *position,
    )
}

fn thread_subscriptions(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(THREAD_SUBSCRIPTIONS, ACCOUNTS, |(user, _), _| user.clone(), any)?;
    checker.has(
        THREAD_SUBSCRIPTIONS,
        THREAD_SUBSCRIPTION_CHANGES,
        |(user, _), row| (user.clone(), row.changed),
        |(_, root), _, of_root| root == of_root,
    )?;
    checker.has(
        THREAD_SUBSCRIPTION_CHANGES,
        THREAD_SUBSCRIPTIONS,
        |(user, _), root| (user.clone(), *root),
        |(_, position), _, row| row.changed == *position,
    )?;
    checker.has(
        THREAD_FOLLOWERS,
        THREAD_SUBSCRIPTIONS,
        |(root, user), ()| (user.clone(), *root),
        |_, (), row| row.subscribed,
    )?;
    checker.each(THREAD_SUBSCRIPTIONS, |checker, (user, root), row| {
        let found = THREAD_FOLLOWERS.contains(checker.read, (root, &user))?;
        checker.expect(found == row.subscribed, format_args!("who follows thread {root} disagrees with {user}"));
        Ok(())
    })
}
