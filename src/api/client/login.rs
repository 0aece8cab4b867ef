//! Logging in (spec: client-server API, "Legacy login").
//!
//! By password, by a token made for it (`login_token.rs`, or at the end of `sso_login_redirect.rs`), or by a JSON Web Token of a service that shares a secret with
//! this server. Our own request type: ruma's reads `type` without looking whether it is there.

use ring::hmac;
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::{
        client::{
            session::{
                get_login_types::v3::{
                    self as get_login_types, ApplicationServiceLoginType, IdentityProvider, LoginType,
                    PasswordLoginType, SsoLoginType, TokenLoginType,
                },
                login::v3::{self as ruma_login, DiscoveryInfo, HomeserverInfo},
            },
            uiaa::{EmailUserIdentifier, MatrixUserIdentifier, MsisdnUserIdentifier, UserIdentifier},
        },
        error::ErrorKind,
    },
    serde::{Base64, JsonObject, base64::UrlSafe},
};
use serde::Deserialize;

use super::sso_login_redirect;
use crate::{
    api::{
        auth::{Anyone, Newcomer},
        uiaa,
    },
    appservice::Registration,
    clock,
    config::{Config, Secret},
    error::{Error, Result},
    http::limits::Class,
    reads,
    server::Server,
    stands_in_for,
    store::{
        records::Account,
        trees::{ACCOUNTS, LOGIN_TOKENS},
    },
    users::{
        accounts,
        devices::{self, Login},
        login_tokens,
        tokens::{self, Issued, Lifetimes},
    },
};

/// A request to log in: all that any of the ways asks for.
#[derive(Deserialize)]
pub struct LoginRequest {
    #[serde(rename = "type")]
    kind: Option<String>,
    identifier: Option<UserIdentifier>,
    password: Option<String>,
    token: Option<String>,
    // Before `identifier` there was one of these.
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}
stands_in_for!(LoginRequest, ruma_login::Request);

reads!(LoginRequest => ruma_login::Response, |request, _args| serde_json::from_slice(request.body())?);

/// How long tokens live of a client that can refresh them.
pub fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes { access: config.access_token_ttl, refresh: config.refresh_token_ttl }
}

/// `GET /_matrix/client/v3/login`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3login))
pub async fn get_login_flows(
    server: &Server,
    _: Anyone,
    _: get_login_types::Request,
) -> Result<get_login_types::Response> {
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    let mut flows = vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(token),
        LoginType::ApplicationService(ApplicationServiceLoginType::new()),
    ];
    if server.sso.is_enabled() {
        let provider = IdentityProvider::new(sso_login_redirect::PROVIDER.to_owned(), server.config().sso.name.clone());
        let mut sso = SsoLoginType::new();
        sso.identity_providers = vec![provider];
        flows.push(LoginType::Sso(sso));
    }
    if server.config().jwt_secret.is_some() {
        flows.push(LoginType::new("org.matrix.login.jwt", JsonObject::new())?);
    }
    Ok(get_login_types::Response::new(flows))
}

/// `POST /_matrix/client/v3/login`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3login))
pub async fn login(server: &Server, newcomer: Newcomer, mut req: LoginRequest) -> Result<ruma_login::Response> {
    let login = Login {
        device: req.device_id.take(),
        display_name: req.initial_device_display_name.take(),
        lifetimes: req.refresh_token.then(|| lifetimes(&server.config())),
    };
    login.check()?;
    let user = match req.kind.as_deref() {
        Some("m.login.password") => by_password(server, req).await?,
        Some("m.login.token") => by_token(server, req)?,
        Some("org.matrix.login.jwt") => by_jwt(server, req)?,
        Some("m.login.application_service") => by_appservice(server, newcomer.require_appservice()?, req)?,
        Some(_) => return Err(Error::bad_request(ErrorKind::Unknown, "This server knows no such way to log in.")),
        None => return Err(Error::bad_json("type is missing: it says how to log in.")),
    };
    let (device, issued) = server.store.write(|tx| devices::log_in(tx, &user, &login))?;
    Ok(response(server, user, device, issued))
}

fn response(server: &Server, user: OwnedUserId, device: OwnedDeviceId, issued: Issued) -> ruma_login::Response {
    let mut response = ruma_login::Response::new(user, issued.access, device);
    response.refresh_token = issued.refresh;
    response.expires_in = issued.expires_in;
    // Clients go on at this address: only where the administrator says which it is.
    let config = server.config();
    let address = config.well_known.client.as_ref().map(|_| config.well_known_client());
    response.well_known = address.map(|address| DiscoveryInfo::new(HomeserverInfo::new(address)));
    response
}

async fn by_password(server: &Server, req: LoginRequest) -> Result<OwnedUserId> {
    let identifier = match (req.identifier, req.user, req.medium.as_deref(), req.address) {
        (Some(identifier), ..) => identifier,
        (None, Some(user), ..) => UserIdentifier::Matrix(MatrixUserIdentifier::new(user)),
        (None, None, Some("email"), Some(address)) => UserIdentifier::Email(EmailUserIdentifier::new(address)),
        (None, None, Some("msisdn"), Some(number)) => UserIdentifier::Msisdn(MsisdnUserIdentifier::new(number)),
        _ => return Err(Error::missing_param("identifier is missing: it says who you are.")),
    };
    let password = req.password.ok_or_else(|| Error::missing_param("password is missing."))?;
    if let UserIdentifier::Matrix(id) = &identifier
        && let Some(secret) = &server.config().emergency_password
        && [accounts::EMERGENCY_USER, &format!("@{}:{}", accounts::EMERGENCY_USER, server.name())]
            .contains(&id.user.as_str())
    {
        return by_emergency_password(server, secret, &password);
    }
    let account = uiaa::find_account(server, &identifier)?;
    server.passwords.log_in(&server.limits, account, &password).await.map_err(forbidden)
}

/// The administrator who is locked out opens an account of their own with the password of the configuration.
fn by_emergency_password(server: &Server, secret: &Secret, password: &str) -> Result<OwnedUserId> {
    let user = UserId::parse_with_server_name(accounts::EMERGENCY_USER, server.name()).map_err(Error::internal)?;
    server.limits.take(Class::Login, user.as_str())?;
    if !secret.matches(password) {
        return Err(Error::forbidden("The user name or the password is wrong."));
    }
    server.store.write(|tx| {
        let account = Account { admin: true, created_ts: clock::now_ms(), ..Account::default() };
        match accounts::require(tx, &user) {
            Ok(_) => accounts::update(tx, &user, |account| (account.admin, account.locked) = (true, false)),
            Err(error) if error.is_not_found() => accounts::create(tx, &user, &account, Some("Conduit")),
            Err(error) => Err(error),
        }
    })?;
    tracing::warn!("{user} logs in with the emergency password");
    Ok(user)
}

/// A user of an application service, whose token stands for the password of all of them.
fn by_appservice(server: &Server, service: &Registration, req: LoginRequest) -> Result<OwnedUserId> {
    let name = match (req.identifier, req.user) {
        (Some(UserIdentifier::Matrix(id)), _) => id.user,
        (None, Some(user)) => user,
        _ => return Err(Error::missing_param("identifier is missing: it says which user logs in.")),
    };
    let user = accounts::parse_ghost(&server.appservices, service, &name)?;
    let account = ACCOUNTS.get(&server.store.read(), &user)?;
    match account {
        Some(account) if account.locked => Err(tokens::locked()),
        Some(account) if !account.deactivated => Ok(user),
        _ => Err(Error::forbidden(format!("There is no account {user}. Register it first."))),
    }
}

fn by_token(server: &Server, req: LoginRequest) -> Result<OwnedUserId> {
    let token = req.token.ok_or_else(|| Error::missing_param("token is missing."))?;
    // Conduit took JSON Web Tokens under this name.
    if server.config().jwt_secret.is_some() && token.split('.').count() == 3 {
        return by_jwt(server, LoginRequest { token: Some(token), ..req });
    }
    let user = server.store.write(|tx| {
        let Some(user) = login_tokens::take(tx, &LOGIN_TOKENS, &token)? else { return Ok(None) };
        Ok(accounts::require(tx, &user).ok().filter(|account| !account.deactivated).map(|account| (user, account)))
    })?;
    match user {
        Some((_, account)) if account.locked => Err(tokens::locked()),
        Some((user, _)) => Ok(user),
        None => Err(Error::forbidden("This login token is not valid any more. Ask for a new one.")),
    }
}

/// The claims of a JSON Web Token that count (RFC 7519).
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
struct JwtHeader {
    alg: String,
}

fn by_jwt(server: &Server, req: LoginRequest) -> Result<OwnedUserId> {
    let refused = || Error::forbidden("This JSON Web Token is not valid.");
    let Some(secret) = &server.config().jwt_secret else {
        return Err(Error::bad_request(ErrorKind::Unknown, "This server takes no JSON Web Tokens."));
    };
    let token = req.token.ok_or_else(|| Error::missing_param("token is missing."))?;
    let claims = verified_claims(secret, &token).ok_or_else(refused)?;
    let now = clock::now_ms() / 1000;
    if claims.exp.is_some_and(|expires| expires <= now) || claims.nbf.is_some_and(|begins| begins > now) {
        return Err(refused());
    }
    let read = server.store.read();
    let found = accounts::find(&read, server.name(), &claims.sub)?;
    if let Some((user, _)) = &found {
        accounts::check_person(&server.config(), &server.appservices, user)?;
    }
    match found {
        Some((_, account)) if account.deactivated => Err(refused()),
        Some((_, account)) if account.locked => Err(tokens::locked()),
        Some((user, _)) => Ok(user),
        None => {
            // The service vouches for its users; this server's accounts are made as they come.
            let user = accounts::parse_new(&server.config(), &server.appservices, &claims.sub)?;
            let account = Account { created_ts: clock::now_ms(), ..Account::default() };
            server.store.write(|tx| {
                accounts::create(tx, &user, &account, Some(user.localpart()))?;
                accounts::welcome(tx, &server.config(), &user, Vec::new())
            })?;
            Ok(user)
        }
    }
}

/// The claims of a token that is signed with the secret by HS256, and by nothing else.
fn verified_claims(secret: &Secret, token: &str) -> Option<Claims> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |text: &str| Base64::<UrlSafe>::parse(text).ok().map(Base64::into_inner);
    let header: JwtHeader = serde_json::from_slice(&decode(header)?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    hmac::verify(&key, signed.as_bytes(), &decode(signature)?).ok()?;
    (header.alg == "HS256").then_some(())?;
    serde_json::from_slice(&decode(claims)?).ok()
}

/// A refused login is 403; the same in user-interactive authentication is 401.
fn forbidden(error: Error) -> Error {
    match error.reason() {
        crate::error::Reason::Matrix { kind: ErrorKind::Forbidden, message, .. } => Error::forbidden(message.clone()),
        _ => error,
    }
}
