//! Access tokens and refresh tokens.
//!
//! The store holds SHA-256 hashes, so that a stolen database logs nobody in; tokens carry more than 200 random bits, so
//! a plain hash is enough. A device uses one pair of tokens (`Device::tokens`). A refresh makes a second pair
//! (`Device::next_tokens`) and leaves the first valid, for the answer may get lost; the first use of a token of the
//! second pair drops the first (spec: client-server API, "Refreshing access tokens"). So a device never has more than
//! two pairs, and a refresh can be repeated until it worked.
//!
//! A token that has expired keeps its row as long as its device lives: that is how the client is told that it is
//! merely soft-logged-out.

use std::time::Duration;

use http::StatusCode;
use ring::digest;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::error::ErrorKind,
    serde::{Base64, base64::UrlSafe},
};

use crate::{
    clock,
    error::{Error, Result},
    store::{
        Read, Tx,
        records::{Account, Device, Token, TokenPair},
        trees::{ACCESS_TOKENS, ACCOUNTS, DEVICES, REFRESH_TOKENS},
    },
};

/// The length of tokens: 238 random bits.
const TOKEN_LENGTH: usize = 40;

/// How long the tokens of a client that can refresh them live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Of an access token.
    pub access: Duration,
    /// Of a refresh token that is not used; none for ever.
    pub refresh: Option<Duration>,
}

/// Tokens as they are told to the client, once.
#[derive(Debug)]
pub struct Issued {
    /// The access token.
    pub access: String,
    /// The refresh token, if the client can use one.
    pub refresh: Option<String>,
    /// How long the access token lives, if not for ever.
    pub expires_in: Option<Duration>,
}

/// Whom an access token stands for.
#[derive(Clone, Debug)]
pub struct Session {
    /// The account.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// Whether the account is a guest.
    pub guest: bool,
    /// Whether the account is locked: nothing works but logging out.
    pub locked: bool,
    /// Whether the account is suspended: it can look, but say nothing.
    pub suspended: bool,
    /// Whether this is the first use of a refreshed token: then [`confirm`] must be called.
    pub unconfirmed: bool,
    /// The hash of the token.
    pub hash: String,
}

/// The hash that stands for a token in the store.
pub fn hash(token: &str) -> String {
    Base64::<UrlSafe, _>::new(digest::digest(&digest::SHA256, token.as_bytes())).encode()
}

/// Whom `token` stands for: two point reads.
///
/// # Errors
/// 401 `M_UNKNOWN_TOKEN`, as a soft logout when the token has expired.
pub fn authenticate(read: &dyn Read, token: &str) -> Result<Session> {
    let unknown = || Error::unknown_token(false, "This access token is not known. Log in again.");
    let hash = hash(token);
    let token = ACCESS_TOKENS.get(read, &hash)?.ok_or_else(unknown)?;
    let account = ACCOUNTS.get(read, &token.user)?.ok_or_else(unknown)?;
    if account.deactivated {
        return Err(unknown());
    }
    if has_expired(&token) {
        return Err(Error::unknown_token(true, "The access token has expired. Refresh it, or log in again."));
    }
    let Account { guest, locked, suspended, .. } = account;
    let Token { user, device, next: unconfirmed, .. } = token;
    Ok(Session { user, device, guest, locked, suspended, unconfirmed, hash })
}

/// 401 `M_USER_LOCKED` (spec: "Account locking"), which is always a soft logout.
pub fn locked() -> Error {
    Error::new(StatusCode::UNAUTHORIZED, ErrorKind::UserLocked, "This account is locked by an administrator.")
}

/// 403 `M_USER_SUSPENDED` (spec: "Account suspension").
pub fn suspended() -> Error {
    let message = "Your account is suspended by an administrator: you can read, but not write.";
    Error::new(StatusCode::FORBIDDEN, ErrorKind::UserSuspended, message)
}

/// Gives `device` new tokens; all that it had before are void. `lifetimes` is there if the client can refresh.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn issue(
    tx: &mut Tx<'_>,
    user: &UserId,
    device_id: &DeviceId,
    device: &mut Device,
    lifetimes: Option<Lifetimes>,
) -> Result<Issued> {
    revoke(tx, device);
    let (pair, issued) = make(tx, user, device_id, lifetimes, false)?;
    device.tokens = Some(pair);
    Ok(issued)
}

/// Makes all tokens of `device` void.
pub fn revoke(tx: &mut Tx<'_>, device: &mut Device) {
    for pair in [device.tokens.take(), device.next_tokens.take()].into_iter().flatten() {
        delete(tx, &pair);
    }
}

/// Exchanges a refresh token for a new pair. Until one of the new pair is used, the old pair stays valid, and the same
/// refresh token can be exchanged again.
///
/// # Errors
/// 401 `M_UNKNOWN_TOKEN`, as a soft logout when the token has expired; 401 `M_USER_LOCKED`.
pub fn refresh(tx: &mut Tx<'_>, refresh_token: &str, lifetimes: Lifetimes) -> Result<Issued> {
    let unknown = || Error::unknown_token(false, "This refresh token is not known. Log in again.");
    let hash = hash(refresh_token);
    let token = REFRESH_TOKENS.get(tx, &hash)?.ok_or_else(unknown)?;
    let mut device = DEVICES.get(tx, (&token.user, &token.device))?.ok_or_else(unknown)?;
    if ACCOUNTS.get(tx, &token.user)?.is_none_or(|account| account.locked) {
        return Err(locked());
    }
    if has_expired(&token) {
        return Err(Error::unknown_token(true, "The refresh token has expired. Log in again."));
    }
    if token.next {
        promote(tx, &mut device)?;
    } else if let Some(unused) = device.next_tokens.take() {
        delete(tx, &unused); // the answer with these got lost
    }
    let (pair, issued) = make(tx, &token.user, &token.device, Some(lifetimes), true)?;
    device.next_tokens = Some(pair);
    DEVICES.put(tx, (&token.user, &token.device), &device);
    Ok(issued)
}

/// Notes that the client uses the tokens of its last refresh: those before are void from now on.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn confirm(tx: &mut Tx<'_>, user: &UserId, device_id: &DeviceId) -> Result<()> {
    let Some(mut device) = DEVICES.get(tx, (user, device_id))? else { return Ok(()) };
    promote(tx, &mut device)?;
    DEVICES.put(tx, (user, device_id), &device);
    Ok(())
}

fn promote(tx: &mut Tx<'_>, device: &mut Device) -> Result<()> {
    let Some(next) = device.next_tokens.take() else { return Ok(()) };
    if let Some(old) = device.tokens.take() {
        delete(tx, &old);
    }
    if let Some(mut token) = ACCESS_TOKENS.get(tx, &next.access)? {
        token.next = false;
        ACCESS_TOKENS.put(tx, &next.access, &token);
    }
    if let Some(hash) = &next.refresh
        && let Some(mut token) = REFRESH_TOKENS.get(tx, hash)?
    {
        token.next = false;
        REFRESH_TOKENS.put(tx, hash, &token);
    }
    device.tokens = Some(next);
    Ok(())
}

fn make(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    lifetimes: Option<Lifetimes>,
    next: bool,
) -> Result<(TokenPair, Issued)> {
    let access = clock::random_string(TOKEN_LENGTH)?;
    let refresh = lifetimes.map(|_| clock::random_string(TOKEN_LENGTH)).transpose()?;
    let row = |ttl: Option<Duration>| Token {
        user: user.to_owned(),
        device: device.to_owned(),
        expires_ts: ttl.map(in_ms),
        next,
    };
    let pair = TokenPair { access: hash(&access), refresh: refresh.as_deref().map(hash) };
    ACCESS_TOKENS.put(tx, &pair.access, &row(lifetimes.map(|lifetimes| lifetimes.access)));
    if let Some(hash) = &pair.refresh {
        REFRESH_TOKENS.put(tx, hash, &row(lifetimes.and_then(|lifetimes| lifetimes.refresh)));
    }
    Ok((pair, Issued { access, refresh, expires_in: lifetimes.map(|lifetimes| lifetimes.access) }))
}

fn delete(tx: &mut Tx<'_>, pair: &TokenPair) {
    ACCESS_TOKENS.delete(tx, &pair.access);
    if let Some(refresh) = &pair.refresh {
        REFRESH_TOKENS.delete(tx, refresh);
    }
}

fn has_expired(token: &Token) -> bool {
    token.expires_ts.is_some_and(|expires| expires <= clock::now_ms())
}

/// The time `ttl` from now, in milliseconds since the Unix epoch.
pub(super) fn in_ms(ttl: Duration) -> u64 {
    clock::now_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}
