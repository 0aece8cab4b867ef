//! Tokens that accounts are registered with (spec: client-server API, "Token-authenticated registration").
//!
//! There is the one of the configuration, good for any number of accounts; those that administrators make, with a
//! number of uses and an expiry; and the one of the first start, good for one account, which becomes an administrator.
//! A use that has begun (the token was accepted, the account is not there yet) counts as one, so that a token for five
//! accounts never makes six; such uses are counted by the caller, since they live in memory.

use crate::{
    clock,
    config::{Config, Registration},
    error::{Error, Result},
    store::{
        Direction, Read, Store, Tx,
        records::RegistrationToken,
        trees::{ACCOUNTS, REGISTRATION_TOKENS},
    },
};

/// The length of tokens that we make; long enough that nobody guesses one, short enough to be typed.
const LENGTH: usize = 24;

/// The longest token that can be chosen.
const MAX_LENGTH: usize = 64;

/// Whether `token` is good for one more account, when `pending` uses of it have begun.
///
/// # Errors
/// When the database fails.
pub fn is_valid(read: &dyn Read, config: &Config, token: &str, pending: u64) -> Result<bool> {
    let open = config.registration() != Registration::Closed;
    if open && config.registration_token.as_ref().is_some_and(|secret| secret.matches(token)) {
        return Ok(true);
    }
    let Some(row) = REGISTRATION_TOKENS.get(read, token)? else { return Ok(false) };
    let unused = row.uses_allowed.is_none_or(|allowed| row.completed.saturating_add(pending) < allowed);
    let fresh = row.expires_ts.is_none_or(|expires| expires > clock::now_ms());
    Ok(unused && fresh && (open || row.admin))
}

/// Whether `token` is good for a number of accounts only.
///
/// # Errors
/// When the database fails.
pub fn is_limited(read: &dyn Read, token: &str) -> Result<bool> {
    Ok(REGISTRATION_TOKENS.get(read, token)?.is_some_and(|row| row.uses_allowed.is_some()))
}

/// Counts one use of `token`; gives it as it is then. The one of the configuration has nothing to say.
///
/// # Errors
/// 403 `M_FORBIDDEN` when it is not valid any more.
pub fn redeem(tx: &mut Tx<'_>, config: &Config, token: &str) -> Result<RegistrationToken> {
    if !is_valid(tx, config, token, 0)? {
        return Err(Error::forbidden("This registration token is not valid any more."));
    }
    let Some(mut row) = REGISTRATION_TOKENS.get(tx, token)? else { return Ok(RegistrationToken::default()) };
    if row.admin {
        REGISTRATION_TOKENS.delete(tx, token);
    } else {
        row.completed += 1;
        REGISTRATION_TOKENS.put(tx, token, &row);
    }
    Ok(row)
}

/// Keeps a token, one that is made up if there is none; gives it.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it is not what a token can be
/// ([spec](https://spec.matrix.org/latest/client-server-api/#token-authenticated-registration)), or is there already.
pub fn create(tx: &mut Tx<'_>, token: Option<String>, row: &RegistrationToken) -> Result<String> {
    let token = token.map_or_else(|| clock::random_string(LENGTH), Ok)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-');
    if token.is_empty() || token.len() > MAX_LENGTH || !token.bytes().all(allowed) {
        let message = format!("A token has 1 to {MAX_LENGTH} letters, digits and characters of . _ ~ -");
        return Err(Error::invalid_param(message));
    }
    if REGISTRATION_TOKENS.contains(tx, &token)? {
        return Err(Error::invalid_param("There is such a token already."));
    }
    REGISTRATION_TOKENS.put(tx, &token, row);
    Ok(token)
}

/// Whether the token of the first start is still to be used.
///
/// # Errors
/// When the database fails.
pub fn awaits_administrator(read: &dyn Read) -> Result<bool> {
    Ok(of_first_start(read)?.is_some())
}

fn of_first_start(read: &dyn Read) -> Result<Option<String>> {
    for row in REGISTRATION_TOKENS.scan(read, (), Direction::Forward) {
        let (token, row) = row?;
        if row.admin {
            return Ok(Some(token));
        }
    }
    Ok(None)
}

/// The token with which the first account, an administrator, is registered: made if there are no accounts but guests,
/// and the same at every start until it is used. With accounts there is none, and an unused one is removed.
///
/// # Errors
/// When the database or the source of randomness fails.
pub fn first_start(store: &Store) -> Result<Option<String>> {
    store.write(|tx| {
        let has_accounts = has_accounts(tx)?;
        match (of_first_start(tx)?, has_accounts) {
            (None, true) => Ok(None),
            (Some(token), false) => Ok(Some(token)),
            (Some(token), true) => {
                REGISTRATION_TOKENS.delete(tx, token);
                Ok(None)
            }
            (None, false) => {
                let token = clock::random_string(LENGTH)?;
                let row = RegistrationToken {
                    uses_allowed: Some(1),
                    admin: true,
                    created_ts: clock::now_ms(),
                    ..RegistrationToken::default()
                };
                REGISTRATION_TOKENS.put(tx, &token, &row);
                Ok(Some(token))
            }
        }
    })
}

fn has_accounts(read: &dyn Read) -> Result<bool> {
    for row in ACCOUNTS.scan(read, (), Direction::Forward) {
        if !row?.1.guest {
            return Ok(true);
        }
    }
    Ok(false)
}
