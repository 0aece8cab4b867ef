//! Links with which a user sets a new password once, on a page of this server. An administrator makes them for users who
//! forgot theirs; so that works without a mail server too.
//!
//! A link is void once it is used, when it expires, and when the password is set in another way
//! ([`accounts::set_password`](super::accounts::set_password)).

use std::time::Duration;

use ruma::{OwnedUserId, UserId};

use super::login_tokens;
use crate::{
    error::{Error, Result},
    store::{Read, Tx, trees::PASSWORD_RESETS},
};

/// Where the page is. Below `/_matrix`, which every reverse proxy passes on.
pub const PAGE: &str = "/_matrix/conduit/reset-password";

/// Makes a link that is good for `ttl`, at a server that is reached at `base`.
///
/// # Errors
/// When the database or the source of randomness fails.
pub fn issue(tx: &mut Tx<'_>, user: &UserId, ttl: Duration, base: &str) -> Result<String> {
    let token = login_tokens::issue(tx, &PASSWORD_RESETS, user, ttl)?;
    Ok(format!("{base}{PAGE}?token={token}"))
}

/// Whose password the token of a link sets.
///
/// # Errors
/// 403 `M_FORBIDDEN` when it sets none, or not any more.
pub fn user_of(read: &dyn Read, token: &str) -> Result<OwnedUserId> {
    login_tokens::user_of(read, &PASSWORD_RESETS, token)?
        .ok_or_else(|| Error::forbidden("This link is not valid any more. Ask the administrator for a new one."))
}
