//! Proof that somebody reads the mails to an address (spec: client-server API, "Adding Account Administrative Contact
//! Information", and the identity service's validation sessions, which a homeserver takes the place of).
//!
//! A validation begins with a mail that holds a link; it is proven when a person confirms on the page behind the link; and
//! it ends when it is used: an account is registered with it, the address is added, or a password is reset. It is good for
//! what it was begun for and nothing else, since the mail told the reader what for. The store knows hashes of tokens only.
//!
//! The ID of a validation follows from what it is for, its address and the client's secret, so a client that asks again
//! comes back to the same one. Validations expire, and the oldest go when there are too many.

use std::time::Duration;

use ring::digest;
use ruma::{
    api::error::ErrorKind,
    serde::{Base64, base64::UrlSafe},
};

use super::{
    threepids::EMAIL,
    tokens::{hash, in_ms},
};
use crate::{
    clock,
    error::{Error, Result},
    store::{
        Direction, Read, Tx,
        records::{Purpose, ThreePid, Validation},
        trees::{VALIDATION_TIMES, VALIDATIONS},
    },
};

/// How long a validation lives after its last mail: some mail servers let the first mail from a stranger wait.
pub const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

/// How many there are at most.
const MAX: usize = 10_000;

/// How many expired ones are removed when one begins.
const SWEEP: usize = 100;

/// The links of how many mails work: the mail that comes first may be the one that was sent first.
const MAX_LINKS: usize = 5;

/// How many wrong tokens make a validation void.
const MAX_FAILURES: u32 = 20;

/// Where the page is on which the reader of a mail confirms. Below `/_matrix`, which every reverse proxy passes on.
pub const PAGE: &str = "/_matrix/conduit/confirm-email";

/// The link of a mail, for a server that is reached at `base`.
pub fn link(base: &str, sid: &str, token: &str) -> String {
    format!("{base}{PAGE}?sid={sid}&token={token}")
}

/// What a client asks for.
pub struct Wanted<'a> {
    /// What the address is to be confirmed for.
    pub purpose: Purpose,
    /// The address, in canonical form.
    pub address: &'a str,
    /// The secret that the client made up, and shows again when it uses the validation.
    pub client_secret: &'a str,
    /// Which mail it is; a number that was mailed already is a repeated request.
    pub send_attempt: u64,
    /// Where the reader goes on when the address is confirmed.
    pub next_link: Option<&'a str>,
}

impl Wanted<'_> {
    /// The ID of the validation.
    pub fn sid(&self) -> String {
        let purpose = match self.purpose {
            Purpose::Register => "register",
            Purpose::Add => "add",
            Purpose::ResetPassword => "reset_password",
        };
        let text = [purpose, self.address, self.client_secret].join("\0");
        Base64::<UrlSafe, _>::new(digest::digest(&digest::SHA256, text.as_bytes())).encode()
    }
}

/// Begins a validation, or goes on with it; gives the token for the link of the mail that is to be sent, or nothing if
/// this attempt was mailed already.
///
/// # Errors
/// When the database or the source of randomness fails.
pub fn begin(tx: &mut Tx<'_>, wanted: &Wanted<'_>) -> Result<Option<String>> {
    make_room(tx)?;
    let sid = wanted.sid();
    let known = get(tx, &sid)?;
    if known.as_ref().is_some_and(|known| known.send_attempt >= wanted.send_attempt) {
        return Ok(None);
    }
    let mut row = known.unwrap_or_else(|| Validation {
        purpose: wanted.purpose,
        address: wanted.address.to_owned(),
        client_secret: hash(wanted.client_secret),
        ..Validation::default()
    });
    let token = clock::random_string(32)?;
    row.links.push(hash(&token));
    let too_many = row.links.len().saturating_sub(MAX_LINKS);
    row.links.drain(..too_many);
    row.next_link = wanted.next_link.map(ToOwned::to_owned);
    end(tx, &sid)?;
    row.expires_ts = in_ms(LIFETIME);
    VALIDATION_TIMES.put(tx, (row.expires_ts, &sid), &());
    VALIDATIONS.put(tx, &sid, &row);
    Ok(Some(token))
}

/// Notes that a mail is on its way, so that a repeated request sends none.
///
/// # Errors
/// When the database fails.
pub fn sent(tx: &mut Tx<'_>, sid: &str, send_attempt: u64) -> Result<()> {
    if let Some(row) = get(tx, sid)? {
        VALIDATIONS.put(tx, sid, &Validation { send_attempt: row.send_attempt.max(send_attempt), ..row });
    }
    Ok(())
}

/// The validation that a link leads to.
///
/// # Errors
/// 403 `M_FORBIDDEN` when it leads to none.
pub fn of_link(read: &dyn Read, sid: &str, token: &str) -> Result<Validation> {
    get(read, sid)?.filter(|row| row.links.contains(&hash(token))).ok_or_else(|| {
        Error::forbidden("This link is not valid any more. Ask for a new mail, and use the link in the newest one.")
    })
}

/// Notes that the reader of the mail confirmed it; gives the validation. A wrong token counts against it.
///
/// # Errors
/// When the database fails. Whether the link is right, [`of_link`] says before.
pub fn confirm(tx: &mut Tx<'_>, sid: &str, token: &str) -> Result<Option<Validation>> {
    let Some(mut row) = get(tx, sid)? else { return Ok(None) };
    let right = row.links.contains(&hash(token));
    if right {
        row.validated_ts.get_or_insert(clock::now_ms());
    } else {
        row.failures += 1;
    }
    VALIDATIONS.put(tx, sid, &row);
    Ok(right.then_some(row))
}

/// The confirmed address that a client has a validation of.
///
/// # Errors
/// 400 `M_THREEPID_AUTH_FAILED` when there is none for this purpose, or it is not confirmed yet.
pub fn proven(read: &dyn Read, purpose: Purpose, sid: &str, client_secret: &str) -> Result<Validation> {
    get(read, sid)?
        .filter(|row| row.purpose == purpose && row.client_secret == hash(client_secret) && row.validated_ts.is_some())
        .ok_or_else(unconfirmed)
}

fn unconfirmed() -> Error {
    let message = "The address is not confirmed yet. Open the link in the mail, and confirm there.";
    Error::bad_request(ErrorKind::ThreepidAuthFailed, message)
}

/// The address that a validation is of.
///
/// # Errors
/// 400 `M_THREEPID_AUTH_FAILED` when there is none such any more.
pub fn address(read: &dyn Read, sid: &str) -> Result<String> {
    get(read, sid)?.map(|row| row.address).ok_or_else(unconfirmed)
}

/// Ends a validation, and gives the identifier that it proved.
///
/// # Errors
/// As [`address`].
pub fn redeem(tx: &mut Tx<'_>, sid: &str) -> Result<ThreePid> {
    let Some(Validation { address, validated_ts: Some(validated_at), .. }) = get(tx, sid)? else {
        return Err(unconfirmed());
    };
    end(tx, sid)?;
    Ok(ThreePid { medium: EMAIL.to_owned(), address, validated_at, added_at: clock::now_ms() })
}

fn end(tx: &mut Tx<'_>, sid: &str) -> Result<()> {
    if let Some(row) = VALIDATIONS.get(tx, sid)? {
        VALIDATION_TIMES.delete(tx, (row.expires_ts, sid));
        VALIDATIONS.delete(tx, sid);
    }
    Ok(())
}

/// The validation with the given ID, unless it has expired or is void.
fn get(read: &dyn Read, sid: &str) -> Result<Option<Validation>> {
    let row = VALIDATIONS.get(read, sid)?;
    Ok(row.filter(|row| row.expires_ts > clock::now_ms() && row.failures < MAX_FAILURES))
}

/// Removes what has expired, and the oldest if there is no place for another one.
fn make_room(tx: &mut Tx<'_>) -> Result<()> {
    let mut gone: Vec<String> = VALIDATION_TIMES
        .range(tx, (0_u64,), (clock::now_ms(),), Direction::Forward)
        .take(SWEEP)
        .map(|row| row.map(|((_, sid), ())| sid))
        .collect::<Result<_>>()?;
    if gone.is_empty() && VALIDATION_TIMES.scan(tx, (), Direction::Forward).take(MAX).count() == MAX {
        let oldest = VALIDATION_TIMES.scan(tx, (), Direction::Forward).next().transpose()?;
        gone.extend(oldest.map(|((_, sid), ())| sid));
    }
    gone.iter().try_for_each(|sid| end(tx, sid))
}
