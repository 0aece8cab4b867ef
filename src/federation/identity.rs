//! Requests to identity servers, which know whose an e-mail address is
//! ([spec](https://spec.matrix.org/latest/identity-service-api/)).
//!
//! Which one is asked, and with which access token, is the client's choice: this server trusts none, and asks in the user's
//! name only. Like every address that a user names, an identity server is looked for in the public internet alone.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use ring::digest;
use ruma::{
    OwnedClientSecret, OwnedServerName, OwnedSessionId, OwnedUserId, ServerName, UserId,
    api::{
        IncomingResponse, MatrixVersion, OutgoingRequest, SupportedVersions,
        identity_service::{
            association::{bind_3pid, unbind_3pid},
            lookup::{IdentifierHashingAlgorithm, get_hash_parameters, lookup_3pid},
        },
        path_builder::PathBuilder,
    },
    serde::{Base64, base64::UrlSafe},
    third_party_invite::IdentityServerBase64PublicKey,
};
use serde::Deserialize;

use super::{
    Failure, Federation, Limits,
    client::{encoded, malformed, refusal},
};
use crate::{
    error::{Error, Result},
    outgoing::{Reach, appservices::encode},
    store::records::Binding,
    users::threepids,
};

/// An identity server as a client names it.
pub struct IdentityServer {
    name: OwnedServerName,
    token: HeaderValue,
}

impl IdentityServer {
    /// The identity server with the given host, and port if it is not the usual one, and the access token there.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`.
    pub fn new(name: &str, token: &str) -> Result<Self> {
        let mut token = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Error::invalid_param("id_access_token cannot be an access token."))?;
        token.set_sensitive(true);
        Ok(Self { name: parse_name(name)?, token })
    }

    /// Whom it knows as the owner of an identifier, its address in canonical form.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn lookup(
        &self,
        federation: &Federation,
        medium: &str,
        address: &str,
    ) -> Result<Option<OwnedUserId>, Failure> {
        let mut again = true;
        loop {
            let hashing = self.ask(federation, get_hash_parameters::v2::Request::new()).await?;
            let pepper = hashing.lookup_pepper;
            let algorithm = IdentifierHashingAlgorithm::Sha256;
            if !hashing.algorithms.contains(&algorithm) {
                // Without a hash the address itself would be told, which nobody asked for.
                return Err(Failure::Malformed("it does not hash addresses with sha256".to_owned()));
            }
            let digest = digest::digest(&digest::SHA256, format!("{address} {medium} {pepper}").as_bytes());
            let hashed = Base64::<UrlSafe, _>::new(digest).encode();
            let request = lookup_3pid::v2::Request::new(algorithm, pepper, vec![hashed.clone()]);
            match self.ask(federation, request).await {
                Ok(mut answer) => return Ok(answer.mappings.remove(&hashed)),
                // It chose another pepper in between.
                Err(Failure::Status { kind: Some(kind), .. })
                    if again && kind.errcode().as_str() == "M_INVALID_PEPPER" =>
                {
                    again = false;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Has it publish that the identifier which a validation there proved is `user`'s.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn bind(
        &self,
        federation: &Federation,
        sid: OwnedSessionId,
        client_secret: OwnedClientSecret,
        user: &UserId,
    ) -> Result<Binding, Failure> {
        let request = bind_3pid::v2::Request::new(sid, client_secret, user.to_owned());
        let answer = self.ask(federation, request).await?;
        let (medium, address) = (answer.medium.to_string(), threepids::canonical(&answer.address));
        Ok(Binding { id_server: self.name.to_string(), medium, address })
    }

    /// Asks it for anything.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) async fn ask<R>(&self, federation: &Federation, request: R) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        let mut request = encoded(request, versions())?;
        request.headers_mut().insert(header::AUTHORIZATION, self.token.clone());
        exchange::<R>(federation, &self.name, request).await
    }
}

/// Has an identity server forget that an identifier is `user`'s; gives whether it does such a thing. The request is signed by
/// this server, which speaks for its users
/// ([spec](https://spec.matrix.org/latest/identity-service-api/#post_matrixidentityv23pidunbind)).
///
/// # Errors
/// See [`Failure`].
pub async fn unbind(federation: &Federation, user: &UserId, binding: &Binding) -> Result<bool, Failure> {
    let name = ServerName::parse(&*binding.id_server).map_err(|error| malformed(&error))?;
    let threepid = unbind_3pid::v2::ThirdPartyId::new(binding.medium.as_str().into(), binding.address.clone());
    let request = unbind_3pid::v2::Request::new(None, user.to_owned(), threepid);
    let request = federation.signed(&name, encoded(request, versions())?)?;
    match exchange::<unbind_3pid::v2::Request>(federation, &name, request).await {
        Ok(_) => Ok(true),
        Err(Failure::Status {
            status: StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED,
            ..
        }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Whether the page at `url` says that an identity server's key is valid still
/// ([spec](https://spec.matrix.org/latest/identity-service-api/#get_matrixidentityv2pubkeyisvalid)).
///
/// # Errors
/// See [`Failure`].
pub async fn is_key_valid(
    federation: &Federation,
    url: &str,
    key: &IdentityServerBase64PublicKey,
) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        valid: bool,
    }
    let and = if url.contains('?') { '&' } else { '?' };
    let request = Request::get(format!("{url}{and}public_key={}", encode(key))).body(Bytes::new());
    let request = request.map_err(|error| malformed(&error))?;
    let answer = federation.outgoing.request(Reach::Public, request, Limits::default()).await;
    let answer = answer.map_err(|error| Failure::Unreachable(error.why))?;
    if !answer.status().is_success() {
        return Err(refusal(answer));
    }
    let answer: Answer =
        serde_json::from_slice(answer.body()).map_err(|error| Failure::Malformed(error.to_string()))?;
    Ok(answer.valid)
}

/// What every identity server speaks: there is one version of its API.
fn versions() -> Cow<'static, SupportedVersions> {
    Cow::Owned(SupportedVersions { versions: [MatrixVersion::V1_0].into(), features: Default::default() })
}

/// The name of an identity server.
///
/// # Errors
/// 400 `M_INVALID_PARAM`.
pub fn parse_name(name: &str) -> Result<OwnedServerName> {
    let wrong = |_| Error::invalid_param("id_server must be the host of an identity server, such as \"vector.im\".");
    ServerName::parse(name).map_err(wrong)
}

async fn exchange<R>(
    federation: &Federation,
    name: &ServerName,
    mut request: Request<Bytes>,
) -> Result<R::IncomingResponse, Failure>
where
    R: OutgoingRequest,
{
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("https://{name}{path}").parse().map_err(|error| malformed(&error))?;
    let (_share, limits) = federation.turn_to_ask(name, Limits::default()).await?;
    let answer = federation.outgoing.request(Reach::Public, request, limits).await;
    let answer = answer.map_err(|error| Failure::Unreachable(error.why))?;
    if !answer.status().is_success() {
        return Err(refusal(answer));
    }
    let (parts, body) = answer.into_parts();
    R::IncomingResponse::try_from_http_response_inner(http::Response::from_parts(parts, &body[..]))
        .map_err(|error| Failure::Malformed(error.to_string()))
}
