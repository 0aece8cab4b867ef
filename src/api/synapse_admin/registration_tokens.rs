//! Registration tokens
//! ([reference](https://element-hq.github.io/synapse/latest/usage/administration/admin_api/registration_tokens.html)).

use serde::{Deserialize, Deserializer};
use serde_json::{Value as JsonValue, json};

use super::{Nothing, Reply, ok, requests};
use crate::{
    api::auth::Administrator,
    clock,
    error::{Error, Result},
    server::Server,
    store::{Direction, records::RegistrationToken, trees::REGISTRATION_TOKENS},
    users::registration_tokens,
};

requests! {
    /// `GET /_synapse/admin/v1/registration_tokens`
    ListTokens = GET "/_synapse/admin/v1/registration_tokens" (Nothing, Valid, Nothing);
    /// `GET /_synapse/admin/v1/registration_tokens/{token}`
    GetToken = GET "/_synapse/admin/v1/registration_tokens/{token}" ((String,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/registration_tokens/new`
    NewToken = POST "/_synapse/admin/v1/registration_tokens/new" (Nothing, Nothing, TokenChange);
    /// `PUT /_synapse/admin/v1/registration_tokens/{token}`
    PutToken = PUT "/_synapse/admin/v1/registration_tokens/{token}" ((String,), Nothing, TokenChange);
    /// `DELETE /_synapse/admin/v1/registration_tokens/{token}`
    DeleteToken = DELETE "/_synapse/admin/v1/registration_tokens/{token}" ((String,), Nothing, Nothing);
}

/// Which tokens to list.
#[derive(Debug, Deserialize)]
pub struct Valid {
    valid: Option<bool>,
}

/// What a token is to be. What is absent stays; `null` lifts a limit.
#[derive(Debug, Deserialize)]
pub struct TokenChange {
    token: Option<String>,
    #[serde(default, deserialize_with = "given")]
    uses_allowed: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    expiry_time: Option<Option<u64>>,
    length: Option<usize>,
}

/// What is there, be it null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn shown(server: &Server, token: &str, row: &RegistrationToken) -> JsonValue {
    json!({
        "token": token,
        "uses_allowed": row.uses_allowed,
        "pending": server.auth_sessions.pending(token, None),
        "completed": row.completed,
        "expiry_time": row.expires_ts,
    })
}

fn unknown(token: &str) -> Error {
    Error::not_found(format!("No such registration token: {token}"))
}

fn check_expiry(time: Option<u64>) -> Result<()> {
    match time {
        Some(time) if time < clock::now_ms() => Err(Error::invalid_param("expiry_time is in the past.")),
        _ => Ok(()),
    }
}

/// `GET /_synapse/admin/v1/registration_tokens`
pub async fn list_tokens(server: &Server, _: Administrator, req: ListTokens) -> Result<Reply> {
    let now = clock::now_ms();
    let mut tokens = Vec::new();
    for row in REGISTRATION_TOKENS.scan(&server.store.read(), (), Direction::Forward) {
        let (token, row) = row?;
        let valid = row.uses_allowed.is_none_or(|allowed| row.completed < allowed)
            && row.expires_ts.is_none_or(|expires| expires > now);
        if req.query.valid.is_none_or(|wanted| wanted == valid) {
            tokens.push(shown(server, &token, &row));
        }
    }
    ok(json!({ "registration_tokens": tokens }))
}

/// `GET /_synapse/admin/v1/registration_tokens/{token}`
pub async fn get_token(server: &Server, _: Administrator, req: GetToken) -> Result<Reply> {
    let token = req.path.0;
    let row = REGISTRATION_TOKENS.get(&server.store.read(), &token)?.ok_or_else(|| unknown(&token))?;
    ok(shown(server, &token, &row))
}

/// `POST /_synapse/admin/v1/registration_tokens/new`
pub async fn new_token(server: &Server, _: Administrator, req: NewToken) -> Result<Reply> {
    let TokenChange { token, uses_allowed, expiry_time, length } = req.body;
    check_expiry(expiry_time.flatten())?;
    let token = match (token, length) {
        (None, Some(length @ 1..=64)) => Some(clock::random_string(length)?),
        (None, Some(_)) => return Err(Error::invalid_param("length must be from 1 to 64.")),
        (token, _) => token,
    };
    let row = RegistrationToken {
        uses_allowed: uses_allowed.flatten(),
        expires_ts: expiry_time.flatten(),
        created_ts: clock::now_ms(),
        ..RegistrationToken::default()
    };
    let token = server.store.write(|tx| registration_tokens::create(tx, token, &row))?;
    ok(shown(server, &token, &row))
}

/// `PUT /_synapse/admin/v1/registration_tokens/{token}`
pub async fn put_token(server: &Server, _: Administrator, req: PutToken) -> Result<Reply> {
    let (token, change) = (req.path.0, req.body);
    check_expiry(change.expiry_time.flatten())?;
    let row = server.store.write(|tx| {
        let mut row = REGISTRATION_TOKENS.get(tx, &token)?.ok_or_else(|| unknown(&token))?;
        row.uses_allowed = change.uses_allowed.unwrap_or(row.uses_allowed);
        row.expires_ts = change.expiry_time.unwrap_or(row.expires_ts);
        REGISTRATION_TOKENS.put(tx, &token, &row);
        Ok(row)
    })?;
    ok(shown(server, &token, &row))
}

/// `DELETE /_synapse/admin/v1/registration_tokens/{token}`
pub async fn delete_token(server: &Server, _: Administrator, req: DeleteToken) -> Result<Reply> {
    let token = req.path.0;
    server.store.write(|tx| {
        if !REGISTRATION_TOKENS.contains(tx, &token)? {
            return Err(unknown(&token));
        }
        REGISTRATION_TOKENS.delete(tx, &token);
        Ok(())
    })?;
    ok(json!({}))
}
