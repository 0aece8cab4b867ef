//! Registering accounts with a secret, as tools and bots for Synapse do it
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/register_api.html)).
//!
//! A client asks for a nonce, and sends it back with the account and a code (HMAC-SHA1 with the secret of
//! `registration_shared_secret`) over both. A nonce is good once, for as long as a session of user-interactive
//! authentication, among which it is kept.

use std::fmt::Write as _;

use http::Method;
use ring::hmac;
use ruma::api::{Metadata, auth_scheme::NoAccessToken, error::ErrorKind, path_builder::SinglePath};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::{
    api::{
        auth::Anyone,
        client::registration::Registered,
        own::{self, Json},
    },
    clock,
    config::Secret,
    error::{Error, Result},
    reads,
    server::Server,
    store::records::Account,
    users::{
        accounts,
        devices::{self, Login},
        passwords,
    },
};

/// What a nonce is for, among the sessions of user-interactive authentication.
const OPERATION: &str = "register with the shared secret";

/// A request for a nonce.
pub struct NonceRequest;

/// A request for an account.
#[derive(Debug, Deserialize)]
pub struct RegisterRequest {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    mac: String,
}

macro_rules! metadata {
    ($request:ty, $method:ident) => {
        impl Metadata for $request {
            const METHOD: Method = Method::$method;
            const RATE_LIMITED: bool = true;
            type Authentication = NoAccessToken;
            type PathBuilder = SinglePath;
            const PATH_BUILDER: SinglePath = SinglePath::new("/_synapse/admin/v1/register");
        }
    };
}
metadata!(NonceRequest, GET);
metadata!(RegisterRequest, POST);

reads!(NonceRequest => Json<JsonValue>, |_request, _args| Self);

reads!(RegisterRequest => Json<Registered>, |request, _args| own::body(&request)?);

fn secret(server: &Server) -> Result<Secret> {
    let off =
        || Error::bad_request(ErrorKind::Unknown, "Registration with a shared secret is not enabled on this server.");
    server.config().registration_shared_secret.clone().ok_or_else(off)
}

/// `GET /_synapse/admin/v1/register`: a nonce.
pub async fn register_nonce(server: &Server, _: Anyone, _: NonceRequest) -> Result<Json<JsonValue>> {
    secret(server)?;
    Ok(Json(json!({ "nonce": server.auth_sessions.begin(OPERATION)? })))
}

/// `POST /_synapse/admin/v1/register`: an account, and its first login.
pub async fn register_with_secret(server: &Server, _: Anyone, req: RegisterRequest) -> Result<Json<Registered>> {
    let secret = secret(server)?;
    if !server.auth_sessions.end(&req.nonce, OPERATION) {
        return Err(Error::bad_request(ErrorKind::Unknown, "This nonce is not known. Ask for a new one."));
    }
    if !is_authentic(&secret, &req) {
        return Err(Error::forbidden("The code does not fit: is the shared secret the same?"));
    }
    let user = accounts::parse_new(&server.config(), &server.appservices, &req.username)?;
    accounts::require_free(&server.store.read(), &user)?;
    passwords::check_new(&req.password, 1)?;
    let account = Account {
        password_hash: Some(server.passwords.hash(req.password).await?),
        admin: req.admin,
        created_ts: clock::now_ms(),
        ..Account::default()
    };
    let login = server.store.write(|tx| {
        accounts::create(tx, &user, &account, req.displayname.as_deref().or(Some(user.localpart())))?;
        accounts::welcome(tx, &server.config(), &user, Vec::new())?;
        if req.inhibit_login { Ok(None) } else { devices::log_in(tx, &user, &Login::default()).map(Some) }
    })?;
    Ok(Json(Registered::new(user, login)))
}

fn is_authentic(secret: &Secret, req: &RegisterRequest) -> bool {
    let admin = if req.admin { "admin" } else { "notadmin" };
    let mut text = format!("{}\0{}\0{}\0{admin}", req.nonce, req.username, req.password);
    if let Some(user_type) = &req.user_type {
        let _ = write!(text, "\0{user_type}"); // writing to a string does not fail
    }
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    from_hex(&req.mac).is_some_and(|mac| hmac::verify(&key, text.as_bytes(), &mac).is_ok())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    (0..20).map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}
