//! Filters that clients upload once and name from then on.
//!
//! A filter's ID is made of its content: the same filter has the same ID, however often it is uploaded.

use ring::digest;
use ruma::{
    UserId,
    api::client::filter::{EventFormat, FilterDefinition},
    serde::{Base64, base64::UrlSafe},
};
use serde_json::value::to_raw_value;

use crate::{
    error::{Error, Result},
    store::{Direction, Read, Tx, trees::FILTERS},
};

/// How many filters a user can have.
const MAX_FILTERS: usize = 1_000;

/// The largest filter, in bytes of JSON.
const MAX_SIZE: usize = 64 * 1024;

/// Keeps `filter` for `user`; gives its ID, which never begins with a brace.
///
/// # Errors
/// 400 `M_BAD_JSON`, `M_TOO_LARGE`; 403 `M_USER_LIMIT_EXCEEDED` when the user has very many already.
pub fn put(tx: &mut Tx<'_>, user: &UserId, filter: &FilterDefinition) -> Result<String> {
    check(filter)?;
    let json = to_raw_value(filter)?;
    if json.get().len() > MAX_SIZE {
        return Err(Error::too_large("This filter is too large."));
    }
    let digest = digest::digest(&digest::SHA256, json.get().as_bytes());
    let id: String = Base64::<UrlSafe, _>::new(digest).encode().chars().take(16).collect();
    if !FILTERS.contains(tx, (user, &id))? {
        if FILTERS.scan(tx, (user,), Direction::Forward).take(MAX_FILTERS).count() == MAX_FILTERS {
            return Err(Error::user_limit(user, "You have too many filters."));
        }
        FILTERS.put(tx, (user, &id), &json);
    }
    Ok(id)
}

/// What ruma's types let pass although it means nothing.
fn check(filter: &FilterDefinition) -> Result<()> {
    match filter.event_format {
        EventFormat::Client | EventFormat::Federation => Ok(()),
        _ => Err(Error::bad_json("event_format must be \"client\" or \"federation\".")),
    }
}

/// The filter of `user` with the given ID.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require(read: &dyn Read, user: &UserId, id: &str) -> Result<FilterDefinition> {
    let json = FILTERS.get(read, (user, id))?.ok_or_else(|| Error::not_found("You have no filter with this ID."))?;
    Ok(serde_json::from_str(json.get())?)
}
