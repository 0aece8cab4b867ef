//! How many accounts people make by themselves: so many from one address and altogether in a day, and where everybody
//! may register, so many in an hour, after which registration closes until an administrator opens it again.
//!
//! Every registration is a row for a day ([`SIGN_UPS`]), written in the transaction that makes the account; so a
//! restart forgives nothing. Tokens that are good for a number of accounts are a limit of their own and count here as
//! nothing. Guests are counted apart, since every passer-by is one. What administrators and application services make,
//! and who comes with a JSON Web Token of the administrator's own service, is not counted at all. The limits are of
//! `rate_limits`, and off with it.
//!
//! Every way on which people make accounts by themselves (`/register`, the page, the identity provider) leads through
//! [`admit`].

use std::{net::IpAddr, time::Duration};

use ruma::UserId;

use super::{
    accounts::{self, server_user},
    registration_tokens,
};
use crate::{
    clock,
    config::{Config, Registration},
    error::{Error, Result},
    http::limits::network,
    store::{
        Direction, Read, Tx,
        records::{RegistrationToken, SignUp},
        trees::{COUNTERS, SIGN_UPS},
    },
};

const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The counter with the time, in milliseconds since the Unix epoch, at which registration closed by itself; no row while
/// it is open.
pub const CLOSED: &str = "registration_closed";

/// The counter with the time at which an administrator opened it again: what was before counts no more.
const REOPENED: &str = "registration_reopened";

/// What somebody registers with.
#[derive(Clone, Copy)]
pub enum With<'a> {
    /// Nothing: everybody may.
    Nothing,
    /// A registration token.
    Token(&'a str),
    /// An identity at the identity provider, for whom registration is never closed.
    Identity,
    /// Nothing, for an account that is a guest's.
    Guest,
}

/// Who can register now: what the configuration says, but nobody without a token while registration is closed by itself.
///
/// # Errors
/// When the database fails; so for all functions here.
pub fn registration(read: &dyn Read, config: &Config) -> Result<Registration> {
    Ok(match config.registration() {
        Registration::Open if config.rate_limits.enabled && COUNTERS.contains(read, CLOSED)? => Registration::Token,
        other => other,
    })
}

/// Whether one more account can be made from `address`.
///
/// # Errors
/// 429 `M_LIMIT_EXCEEDED` when not; 403 `M_FORBIDDEN` when registration closed while somebody was at it.
pub fn check(read: &dyn Read, config: &Config, address: IpAddr, with: With<'_>) -> Result<()> {
    if matches!(with, With::Nothing) && registration(read, config)? != Registration::Open {
        return Err(Error::forbidden("Registration is closed at present but for those who have a token."));
    }
    if !is_counted(read, config, with)? {
        return Ok(());
    }
    let (now, network) = (clock::now_ms(), network(address));
    let (mut all, mut here) = (Vec::new(), Vec::new());
    for row in SIGN_UPS.range(read, (now.saturating_sub(DAY_MS),), (u64::MAX,), Direction::Forward) {
        let ((at, _), row) = row?;
        if row.guest == matches!(with, With::Guest) {
            all.push(at);
            here.extend((row.network == network).then_some(at));
        }
    }
    let limits = [
        (&here, config.rate_limits.accounts_per_address, "from your network"),
        (&all, config.rate_limits.accounts_per_day, "on this server"),
    ];
    for (times, limit, whence) in limits {
        // The oldest of those that must be older than a day first.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let blocking = times.len().checked_sub(limit).map(|over| times.get(over).copied().unwrap_or(now));
        if let Some(at) = blocking {
            let wait = Duration::from_millis((at + DAY_MS).saturating_sub(now));
            let message = format!("Too many accounts were registered {whence} today. Try again tomorrow.");
            return Err(Error::limit_exceeded_since(wait, message));
        }
    }
    Ok(())
}

fn is_counted(read: &dyn Read, config: &Config, with: With<'_>) -> Result<bool> {
    Ok(config.rate_limits.enabled
        && match with {
            With::Nothing | With::Identity | With::Guest => true,
            With::Token(token) => !registration_tokens::is_limited(read, token)?,
        })
}

/// Lets `user` register from `address`, in the transaction that makes the account: counts it, uses the token up, and
/// has the new user brought into the rooms that it is for. Gives whether the token makes an administrator.
///
/// # Errors
/// As [`check`]; those of [`registration_tokens::redeem`].
pub fn admit(tx: &mut Tx<'_>, config: &Config, user: &UserId, address: IpAddr, with: With<'_>) -> Result<bool> {
    note(tx, config, user, address, with)?;
    let token = match with {
        With::Token(token) => registration_tokens::redeem(tx, config, token)?,
        With::Guest => return Ok(false),
        With::Nothing | With::Identity => RegistrationToken::default(),
    };
    accounts::welcome(tx, config, user, token.rooms)?;
    Ok(token.admin)
}

/// Notes that `user` registers, before the token is used up. Closes registration when that makes too many.
fn note(tx: &mut Tx<'_>, config: &Config, user: &UserId, address: IpAddr, with: With<'_>) -> Result<()> {
    check(tx, config, address, with)?;
    if !is_counted(tx, config, with)? {
        return Ok(());
    }
    let now = clock::now_ms();
    forget_before(tx, now.saturating_sub(DAY_MS))?;
    let open = matches!(with, With::Nothing);
    let row = SignUp { network: network(address), guest: matches!(with, With::Guest), open };
    SIGN_UPS.put(tx, (now, user), &row);
    if open && opened_in_last_hour(tx, now)? >= u64::from(config.rate_limits.open_registrations_per_hour) {
        close(tx, config, now)?;
    }
    Ok(())
}

fn forget_before(tx: &mut Tx<'_>, time: u64) -> Result<()> {
    let old = SIGN_UPS.range(tx, (0_u64,), (time,), Direction::Forward).map(|row| row.map(|(key, _)| key));
    for (at, user) in old.collect::<Result<Vec<_>>>()? {
        SIGN_UPS.delete(tx, (at, &*user));
    }
    Ok(())
}

/// How many registered with nothing within the hour, or since registration was opened again.
fn opened_in_last_hour(tx: &Tx<'_>, now: u64) -> Result<u64> {
    let since = COUNTERS.get(tx, REOPENED)?.unwrap_or(0).max(now.saturating_sub(HOUR_MS));
    let mut count = 0;
    for row in SIGN_UPS.range(tx, (since,), (u64::MAX,), Direction::Forward) {
        count += u64::from(row?.1.open);
    }
    Ok(count)
}

/// From now on, people need a token. Administrators are told in their room (`admin/room.rs`).
fn close(tx: &mut Tx<'_>, config: &Config, now: u64) -> Result<()> {
    COUNTERS.put(tx, CLOSED, &now);
    tx.wake(&server_user(&config.server_name)?);
    let text = closing_words(config);
    tx.on_commit(move || tracing::warn!("{text}"));
    Ok(())
}

/// What administrators are told when registration has closed.
pub fn closing_words(config: &Config) -> String {
    format!(
        "{} accounts were registered without a token within an hour, so registration is closed now but for those who have \
         one. Look through the newest accounts; then let everybody register again with: server open-registration",
        config.rate_limits.open_registrations_per_hour
    )
}

/// Lets everybody register again. Gives whether registration had closed by itself.
pub fn reopen(tx: &mut Tx<'_>) -> Result<bool> {
    let was_closed = COUNTERS.contains(tx, CLOSED)?;
    COUNTERS.delete(tx, CLOSED);
    COUNTERS.put(tx, REOPENED, &clock::now_ms());
    Ok(was_closed)
}
