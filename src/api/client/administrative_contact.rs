//! The third-party identifiers of an account: e-mail addresses and phone numbers.
//!
//! This server sends the mails that prove an address itself. Identity servers are asked to publish whose an address is, and
//! to forget it, only when the user's client wants that.

use http::{Method, StatusCode};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedClientSecret, OwnedSessionId, UInt, UserId,
    api::{
        Metadata,
        auth_scheme::AccessToken,
        client::account::{
            ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
            request_3pid_management_token_via_email as by_email, request_3pid_management_token_via_msisdn as by_msisdn,
            unbind_3pid,
        },
        error::ErrorKind,
    },
    thirdparty::{Medium, ThirdPartyIdentifierInit},
};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::{
    api::{
        auth::{Anyone, User},
        own::{self, Json},
        uiaa,
        validation::{self, Asked},
    },
    error::{Error, Result},
    federation::{
        Federation,
        identity::{self, IdentityServer},
    },
    reads,
    server::Server,
    store::records::{Binding, Purpose},
    users::{accounts, threepids, validations},
};

/// `GET /_matrix/client/v3/account/3pid`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3account3pid))
pub async fn get_account_3pids(
    server: &Server,
    user: User,
    _: get_3pids::v3::Request,
) -> Result<get_3pids::v3::Response> {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let account = accounts::require(&server.store.read(), &user.id)?;
    let threepids = account.threepids.into_iter().map(|threepid| {
        ThirdPartyIdentifierInit {
            medium: Medium::from(threepid.medium),
            address: threepid.address,
            validated_at: time(threepid.validated_at),
            added_at: time(threepid.added_at),
        }
        .into()
    });
    Ok(get_3pids::v3::Response::new(threepids.collect()))
}

/// `POST /_matrix/client/v3/account/3pid`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pid))
///
/// "Equivalent to `/3pid/bind`".
pub async fn post_3pids(server: &Server, user: User, req: Post3PidsRequest) -> Result<Json<JsonValue>> {
    let Credentials { client_secret, id_server, id_access_token, sid } = req.three_pid_creds;
    let identity_server = identity_server(server, &id_server, &id_access_token)?;
    bind(server, &user.id, &identity_server, sid, client_secret).await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/client/v3/account/3pid/add`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pidadd))
pub async fn add_3pid(server: &Server, user: User, req: add_3pid::v3::Request) -> Result<add_3pid::v3::Response> {
    let (sid, secret) = (req.sid.as_str(), req.client_secret.as_str());
    let operation = {
        let found = validations::proven(&server.store.read(), Purpose::Add, sid, secret)?;
        format!("add the address {}", found.address)
    };
    uiaa::check(server, &user, &operation, req.auth.as_ref()).await?;
    server.store.write(|tx| {
        let threepid = validations::redeem(tx, sid)?;
        threepids::add(tx, &user.id, threepid)
    })?;
    Ok(add_3pid::v3::Response::new())
}

/// `POST /_matrix/client/v3/account/3pid/bind`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pidbind))
pub async fn bind_3pid(server: &Server, user: User, req: bind_3pid::v3::Request) -> Result<bind_3pid::v3::Response> {
    let info = &req.identity_server_info;
    let identity_server = identity_server(server, &info.id_server, &info.id_access_token)?;
    bind(server, &user.id, &identity_server, req.sid, req.client_secret).await?;
    Ok(bind_3pid::v3::Response::new())
}

/// Has the identity server publish an address, and remembers that.
async fn bind(
    server: &Server,
    user: &UserId,
    identity_server: &IdentityServer,
    sid: OwnedSessionId,
    client_secret: OwnedClientSecret,
) -> Result<()> {
    let binding = identity_server.bind(&server.federation, sid, client_secret, user).await?;
    server.store.write(|tx| threepids::bound(tx, user, binding))
}

/// The identity server that a client names, if the administrator lets users have some asked.
///
/// # Errors
/// 403 `M_THREEPID_DENIED`; 400 `M_INVALID_PARAM`.
pub fn identity_server(server: &Server, name: &str, token: &str) -> Result<IdentityServer> {
    if !server.config().allow_identity_servers {
        let message = "This server asks no identity servers. Invite people by their Matrix IDs.";
        return Err(Error::new(StatusCode::FORBIDDEN, ErrorKind::ThreepidDenied, message));
    }
    IdentityServer::new(name, token)
}

/// `POST /_matrix/client/v3/account/3pid/delete`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3piddelete))
pub async fn delete3pid_from_account(
    server: &Server,
    user: User,
    req: delete_3pid::v3::Request,
) -> Result<delete_3pid::v3::Response> {
    let (medium, address) = (req.medium.as_str(), threepids::canonical(&req.address));
    let bindings = bindings(server, &user.id, req.id_server.as_deref(), medium, &address)?;
    server.store.write(|tx| threepids::remove(tx, &user.id, medium, &address))?;
    // The address is no longer the user's here, whatever the identity server says.
    let status = unbind_all(&server.federation, &user.id, &bindings).await.unwrap_or_else(|error| {
        tracing::debug!("an identity server keeps an address of {}: {error}", user.id);
        ThirdPartyIdRemovalStatus::NoSupport
    });
    Ok(delete_3pid::v3::Response::new(status))
}

/// `POST /_matrix/client/v3/account/3pid/unbind`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pidunbind))
pub async fn unbind3pid_from_account(
    server: &Server,
    user: User,
    req: unbind_3pid::v3::Request,
) -> Result<unbind_3pid::v3::Response> {
    let (medium, address) = (req.medium.as_str(), threepids::canonical(&req.address));
    let bindings = bindings(server, &user.id, req.id_server.as_deref(), medium, &address)?;
    let status = unbind_all(&server.federation, &user.id, &bindings).await?;
    Ok(unbind_3pid::v3::Response::new(status))
}

/// Where an address is to be unbound: at the identity server that the request names, else at those that it was bound at.
fn bindings(
    server: &Server,
    user: &UserId,
    id_server: Option<&str>,
    medium: &str,
    address: &str,
) -> Result<Vec<Binding>> {
    if let Some(name) = id_server {
        let id_server = identity::parse_name(name)?.to_string();
        return Ok(vec![Binding { id_server, medium: medium.to_owned(), address: address.to_owned() }]);
    }
    let mut known = accounts::require(&server.store.read(), user)?.bindings;
    known.retain(|binding| binding.medium == medium && binding.address == address);
    Ok(known)
}

/// Unbinds addresses, and says what the client is to be told of it: `no-support` if there is nothing to unbind, or an
/// identity server does not let it be done.
///
/// # Errors
/// What the identity server says, if it is not that.
async fn unbind_all(federation: &Federation, user: &UserId, bindings: &[Binding]) -> Result<ThirdPartyIdRemovalStatus> {
    let mut status =
        if bindings.is_empty() { ThirdPartyIdRemovalStatus::NoSupport } else { ThirdPartyIdRemovalStatus::Success };
    for binding in bindings {
        if identity::unbind(federation, user, binding).await? {
            federation.rooms.store.write(|tx| threepids::unbound(tx, user, binding))?;
        } else {
            status = ThirdPartyIdRemovalStatus::NoSupport;
        }
    }
    Ok(status)
}

/// `POST /_matrix/client/v3/account/3pid/email/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pidemailrequesttoken))
pub async fn request_token_to_3pid_email(
    server: &Server,
    _: Anyone,
    req: by_email::v3::Request,
) -> Result<by_email::v3::Response> {
    let asked = Asked {
        purpose: Purpose::Add,
        email: &req.email,
        client_secret: req.client_secret.as_str(),
        send_attempt: req.send_attempt,
        next_link: req.next_link.as_deref(),
    };
    Ok(by_email::v3::Response::new(validation::request_token(server, &asked).await?))
}

/// `POST /_matrix/client/v3/account/3pid/msisdn/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3account3pidmsisdnrequesttoken))
pub async fn request_token_to_3pid_msisdn(
    _: &Server,
    _: Anyone,
    _: by_msisdn::v3::Request,
) -> Result<by_msisdn::v3::Response> {
    validation::no_text_messages()
}

/// The deprecated request to bind an address, of which ruma has no type.
#[derive(Deserialize)]
pub struct Post3PidsRequest {
    three_pid_creds: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    client_secret: OwnedClientSecret,
    id_server: String,
    id_access_token: String,
    sid: OwnedSessionId,
}

impl Metadata for Post3PidsRequest {
    const METHOD: Method = Method::POST;
    const RATE_LIMITED: bool = true;
    type Authentication = AccessToken;
    type PathBuilder = <get_3pids::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = <get_3pids::v3::Request as Metadata>::PATH_BUILDER;
}

reads!(Post3PidsRequest => Json<JsonValue>, |request, _args| own::body(&request)?);
