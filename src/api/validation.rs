//! The `requestToken` operations, which all do the same for different purposes: registering, adding an address to an
//! account, setting a new password.
//!
//! Whether an address is known here is told to nobody but its owner, in the mail, unless the administrator wants it
//! otherwise (`email.tell_known_addresses`): so the answer and the time it takes are the same in both cases.

use http::StatusCode;
use ruma::{OwnedSessionId, UInt, api::error::ErrorKind};

use crate::{
    error::{Error, Result},
    http::limits::Class,
    outgoing::mail::Letter,
    server::Server,
    store::records::Purpose,
    users::{
        threepids,
        validations::{self, Wanted},
    },
};

/// The longest address to go on to, in bytes.
const MAX_LINK: usize = 2048;

/// What a client asks for.
pub struct Asked<'a> {
    /// What the address is to be confirmed for.
    pub purpose: Purpose,
    /// The address as the client spells it.
    pub email: &'a str,
    /// The client's secret.
    pub client_secret: &'a str,
    /// The number of the client's request.
    pub send_attempt: UInt,
    /// Where the reader is to go on afterwards.
    pub next_link: Option<&'a str>,
}

/// Sends a mail with which its reader can confirm the address; gives the ID of the validation. A repeated request sends
/// none.
///
/// # Errors
/// 400 `M_THREEPID_MEDIUM_NOT_SUPPORTED` when this server sends no mails; `M_INVALID_PARAM`; 429 `M_LIMIT_EXCEEDED`; 502
/// `M_UNKNOWN` when the mail cannot be sent. 400 `M_THREEPID_IN_USE` or `M_THREEPID_NOT_FOUND` if it may be told.
pub async fn request_token(server: &Server, asked: &Asked<'_>) -> Result<OwnedSessionId> {
    if !server.mailer.is_configured() {
        return Err(unsupported("This server sends no mails."));
    }
    let address = threepids::parse_email(asked.email)?;
    asked.next_link.map_or(Ok(()), check_next_link)?;
    let owner = threepids::find(&server.store.read(), threepids::EMAIL, &address)?.map(|(user, _)| user);
    if server.config().email.tell_known_addresses {
        match (asked.purpose, &owner) {
            (Purpose::Register | Purpose::Add, Some(_)) => return Err(threepids::in_use()),
            (Purpose::ResetPassword, None) => {
                let message = "No account has this e-mail address.";
                return Err(Error::bad_request(ErrorKind::ThreepidNotFound, message));
            }
            _ => {}
        }
    }
    let wanted = Wanted {
        purpose: asked.purpose,
        address: &address,
        client_secret: asked.client_secret,
        send_attempt: asked.send_attempt.into(),
        next_link: asked.next_link,
    };
    let sid = wanted.sid();
    let _turn = server.mailer.turn(&sid).await;
    if let Some(token) = server.store.write(|tx| validations::begin(tx, &wanted))? {
        server.limits.take(Class::Mail, &address)?;
        let link = validations::link(&server.homeserver_url(), &sid, &token);
        let name = server.name().as_str();
        let letter = match (asked.purpose, &owner) {
            (Purpose::Register, None) => Letter::register(name, link),
            (Purpose::Add, None) => Letter::add(name, link),
            (Purpose::Register | Purpose::Add, Some(user)) => Letter::known(name, user.as_str()),
            (Purpose::ResetPassword, Some(user)) => Letter::reset_password(name, user.as_str(), link),
            (Purpose::ResetPassword, None) => Letter::unknown(name),
        };
        server.store.durable().await?;
        server.mailer.send(&address, &letter).await?;
        server.store.write(|tx| validations::sent(tx, &sid, wanted.send_attempt))?;
    }
    OwnedSessionId::try_from(sid).map_err(Error::internal)
}

/// The answer to requests for text messages.
///
/// # Errors
/// Always: 400 `M_THREEPID_MEDIUM_NOT_SUPPORTED`.
pub fn no_text_messages<T>() -> Result<T> {
    Err(unsupported("This server sends no text messages. Use an e-mail address, if it sends mails."))
}

fn unsupported(message: &str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, ErrorKind::ThreepidMediumNotSupported, message)
}

/// The page that shows the link names its host, and nobody is led there by itself; so any web page will do.
fn check_next_link(link: &str) -> Result<()> {
    let is_page = link
        .parse::<http::Uri>()
        .is_ok_and(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some());
    if is_page && link.len() <= MAX_LINK {
        Ok(())
    } else {
        Err(Error::invalid_param("next_link must be the address of a web page."))
    }
}
