//! The TURN server through which calls go when both sides are behind a router.

use ring::hmac;
use ruma::{
    api::client::voip::get_turn_server_info::v3::{Request, Response},
    serde::{Base64, base64::Standard},
};

use crate::{
    api::auth::User,
    clock,
    error::{Error, Result},
    server::Server,
};

/// `GET /_matrix/client/v3/voip/turnServer`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3voipturnserver))
pub async fn get_turn_server(server: &Server, user: User, _: Request) -> Result<Response> {
    let config = server.config();
    let turn = &config.turn;
    let none = || Error::not_found("This server has no TURN server.");
    if turn.uris.is_empty() {
        return Err(none());
    }
    let (username, password) = match (&turn.secret, &turn.username, &turn.password) {
        (Some(secret), ..) => {
            // The "TURN REST API" of draft-uberti-behave-turn-rest-00: a name with an expiry, signed.
            let expires = clock::now_ms() / 1000 + turn.ttl.as_secs();
            let username = format!("{expires}:{}", user.id);
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
            let tag = hmac::sign(&key, username.as_bytes());
            // Padded, as TURN servers compute it.
            let mut password = Base64::<Standard, _>::new(tag.as_ref()).encode();
            password.extend(std::iter::repeat_n('=', (4 - password.len() % 4) % 4));
            (username, password)
        }
        (None, Some(username), Some(password)) => (username.clone(), password.expose().to_owned()),
        _ => return Err(none()),
    };
    Ok(Response::new(username, password, turn.uris.clone(), turn.ttl))
}
