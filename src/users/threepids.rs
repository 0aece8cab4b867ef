//! Third-party identifiers: the e-mail addresses and phone numbers that are proven to be a user's
//! ([spec](https://spec.matrix.org/latest/appendices/#3pid-types)).
//!
//! An identifier belongs to one account of this server. That it is also known to an identity server as the user's is a
//! *binding*; those that were made through this server are kept, so that they can be taken back.

use ruma::{
    OwnedUserId, UserId,
    api::{client::push::PusherIds, error::ErrorKind},
};

use super::{accounts, pushers};
use crate::{
    error::{Error, Result},
    store::{
        Read, Tx,
        records::{Account, Binding, ThreePid},
        trees::{ACCOUNTS, THREEPIDS},
    },
};

/// The medium of e-mail addresses.
pub const EMAIL: &str = "email";

/// The medium of phone numbers.
pub const PHONE: &str = "msisdn";

/// How many digits a phone number has at most (E.164).
const MAX_DIGITS: usize = 15;

/// How many bindings of one account are remembered.
const MAX_BINDINGS: usize = 100;

/// An address as it is compared: letters of either case are the same.
pub fn canonical(address: &str) -> String {
    address.trim().to_lowercase()
}

/// An e-mail address in canonical form.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it is none.
pub fn parse_email(text: &str) -> Result<String> {
    let address = canonical(text);
    match address.parse::<lettre::Address>() {
        Ok(_) => Ok(address),
        Err(_) => Err(Error::invalid_param("This is no e-mail address.")),
    }
}

/// The address of an identifier in canonical form: of a phone number its digits, which begin with those of the country.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it is none, or there are no identifiers of this medium.
pub fn parse(medium: &str, address: &str) -> Result<String> {
    match medium {
        EMAIL => parse_email(address),
        PHONE => parse_phone(address),
        _ => Err(Error::invalid_param(format!("medium must be {EMAIL} or {PHONE}."))),
    }
}

fn parse_phone(text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '+' | ' ' | '-' | '(' | ')')).collect();
    match digits.len() {
        1..=MAX_DIGITS if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(digits),
        _ => Err(Error::invalid_param("This is no phone number in international form.")),
    }
}

/// The account with the identifier, its address in canonical form.
///
/// # Errors
/// When the database fails.
pub fn find(read: &dyn Read, medium: &str, address: &str) -> Result<Option<(OwnedUserId, Account)>> {
    let Some(user) = THREEPIDS.get(read, (medium, address))? else { return Ok(None) };
    Ok(ACCOUNTS.get(read, &user)?.map(|account| (user, account)))
}

/// Adds an identifier that is proven to be the user's.
///
/// # Errors
/// 400 `M_THREEPID_IN_USE` when another account has it; 404 `M_NOT_FOUND`.
pub fn add(tx: &mut Tx<'_>, user: &UserId, threepid: ThreePid) -> Result<()> {
    let owner = THREEPIDS.get(tx, (&threepid.medium, &threepid.address))?;
    if owner.is_some_and(|owner| owner != user) {
        return Err(in_use());
    }
    THREEPIDS.put(tx, (&threepid.medium, &threepid.address), &user.to_owned());
    accounts::update(tx, user, |account| {
        account.threepids.retain(|old| (&old.medium, &old.address) != (&threepid.medium, &threepid.address));
        account.threepids.push(threepid);
    })
}

/// 400 `M_THREEPID_IN_USE`.
pub fn in_use() -> Error {
    Error::bad_request(ErrorKind::ThreepidInUse, "This address belongs to an account already.")
}

/// Removes an identifier of the user's, if it is one; no mails go there any more.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such user.
pub fn remove(tx: &mut Tx<'_>, user: &UserId, medium: &str, address: &str) -> Result<()> {
    if THREEPIDS.get(tx, (medium, address))?.is_some_and(|owner| owner == user) {
        THREEPIDS.delete(tx, (medium, address));
        pushers::delete(tx, user, &PusherIds::new(address.to_owned(), pushers::EMAIL_APP.to_owned()))?;
    }
    accounts::update(tx, user, |account| {
        account.threepids.retain(|own| (own.medium.as_str(), own.address.as_str()) != (medium, address));
    })
}

/// Notes that an identity server knows an identifier as the user's.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 400 `M_INVALID_PARAM` when too many are noted.
pub fn bound(tx: &mut Tx<'_>, user: &UserId, binding: Binding) -> Result<()> {
    unbound(tx, user, &binding)?;
    if accounts::require(tx, user)?.bindings.len() >= MAX_BINDINGS {
        return Err(Error::invalid_param("Too many of your addresses are known to identity servers."));
    }
    accounts::update(tx, user, |account| account.bindings.push(binding))
}

/// Notes that an identity server does not know an identifier as the user's any more.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn unbound(tx: &mut Tx<'_>, user: &UserId, binding: &Binding) -> Result<()> {
    accounts::update(tx, user, |account| account.bindings.retain(|own| own != binding))
}
