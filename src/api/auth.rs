//! Who calls: from the credentials of a request to the type that a handler names in its signature.
//!
//! - [`User`]: a device of an account, proven by an access token; or a user whom an application service acts as. Guests
//!   get no further than the operations that the specification opens to them ("Guest Access").
//! - [`Administrator`]: the same, if the account administers the server.
//! - `Option<User>`: the same where the token may be missing; a wrong one is still refused.
//! - [`Origin`]: another server, proven by its signature.
//! - [`Appservice`]: an application service itself.
//! - [`Newcomer`]: whoever registers or logs in, which application services do with their token.
//! - [`Anyone`]: nobody in particular. What else a request carries is not looked at.
//!
//! A request notes, at most once a minute, when and from where its device was last seen.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, NoAccessToken, NoAuthentication,
        },
        error::ErrorKind,
        federation::authentication::{ServerSignatures, XMatrix},
    },
};
use serde::Deserialize;

use crate::{
    appservice::Registration,
    error::{Error, Result},
    http::{Caller, percent_decode},
    server::Server,
    store::{
        Read,
        trees::{ACCOUNTS, DEVICES},
    },
    users::{accounts, devices, tokens},
};

/// A device of an account of this server.
#[derive(Clone, Debug)]
pub struct User {
    /// The account.
    pub id: OwnedUserId,
    /// The device; empty for an application service that names none. See [`User::require_device`].
    pub device: OwnedDeviceId,
    /// Whether the account is a guest.
    pub guest: bool,
    /// The application service that acts as the user, by its own token.
    pub appservice: Option<Arc<Registration>>,
}

/// An administrator of this server, with an access token of their own.
#[derive(Clone, Debug)]
pub struct Administrator(pub OwnedUserId);

/// An application service.
#[derive(Clone, Debug)]
pub struct Appservice(pub Arc<Registration>);

/// Whoever registers or logs in.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The application service that it is.
    service: Option<Arc<Registration>>,
    /// Whether a token came with the request.
    has_token: bool,
    /// Where the request comes from.
    pub address: IpAddr,
}

/// Another server.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its name.
    pub server: OwnedServerName,
}

/// Nobody in particular.
#[derive(Clone, Copy, Debug)]
pub struct Anyone;

impl User {
    /// Refuses to act for anybody but the caller.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` with `message` if `user` is somebody else.
    pub fn require_self(&self, user: &UserId, message: &str) -> Result<()> {
        if self.id == user { Ok(()) } else { Err(Error::forbidden(message)) }
    }

    /// Refuses everybody but administrators.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN`.
    pub fn require_admin(&self, read: &dyn Read) -> Result<()> {
        match accounts::require(read, &self.id)?.admin {
            true => Ok(()),
            false => Err(Error::forbidden("Only administrators of this server can do this.")),
        }
    }

    /// The device, for what needs one.
    ///
    /// # Errors
    /// 400 `M_MISSING_PARAM` if an application service named none.
    pub fn require_device(&self) -> Result<&DeviceId> {
        if self.device.as_str().is_empty() {
            return Err(Error::missing_param("This needs a device: name one as device_id in the query."));
        }
        Ok(&self.device)
    }

    /// "Whether requests from masqueraded users are rate-limited. The sender is excluded."
    fn is_unlimited(&self) -> bool {
        self.appservice.as_ref().is_some_and(|service| !service.rate_limited || self.id == service.sender)
    }
}

impl Newcomer {
    /// The application service that it must be.
    ///
    /// # Errors
    /// 401 `M_MISSING_TOKEN`, `M_UNKNOWN_TOKEN`.
    pub fn require_appservice(&self) -> Result<&Registration> {
        match &self.service {
            Some(service) => Ok(service),
            None if self.has_token => {
                Err(Error::unknown_token(false, "This is not the token of an application service."))
            }
            None => {
                let message = "Only application services do this, with their own token.";
                Err(Error::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, message))
            }
        }
    }
}

impl Caller<Server, AccessToken> for User {
    async fn authenticate(server: &Server, token: String, request: &Request<Bytes>, address: IpAddr) -> Result<Self> {
        user(server, &token, request, address)
    }

    fn name(&self) -> Option<&str> {
        Some(self.id.as_str())
    }

    fn is_unlimited(&self) -> bool {
        self.is_unlimited()
    }
}

impl Caller<Server, AccessToken> for Administrator {
    async fn authenticate(server: &Server, token: String, request: &Request<Bytes>, address: IpAddr) -> Result<Self> {
        let user = user(server, &token, request, address)?;
        if user.appservice.is_some() {
            return Err(Error::forbidden("Application services do not administer this server."));
        }
        user.require_admin(&server.store.read())?;
        Ok(Self(user.id))
    }

    fn name(&self) -> Option<&str> {
        Some(self.0.as_str())
    }
}

impl Caller<Server, AccessTokenOptional> for Option<User> {
    async fn authenticate(
        server: &Server,
        token: Option<String>,
        request: &Request<Bytes>,
        address: IpAddr,
    ) -> Result<Self> {
        token.map(|token| user(server, &token, request, address)).transpose()
    }

    fn name(&self) -> Option<&str> {
        self.as_ref().map(|user| user.id.as_str())
    }

    fn is_unlimited(&self) -> bool {
        self.as_ref().is_some_and(User::is_unlimited)
    }
}

impl Caller<Server, AppserviceToken> for Appservice {
    async fn authenticate(server: &Server, token: String, _: &Request<Bytes>, _: IpAddr) -> Result<Self> {
        let service = server.appservices.by_token(&token);
        service.map(Self).ok_or_else(|| Error::forbidden("This is not the token of an application service."))
    }

    fn name(&self) -> Option<&str> {
        Some(self.0.sender.as_str())
    }

    fn is_unlimited(&self) -> bool {
        true
    }
}

impl Caller<Server, AppserviceTokenOptional> for Newcomer {
    async fn authenticate(server: &Server, token: Option<String>, _: &Request<Bytes>, address: IpAddr) -> Result<Self> {
        let service = token.as_deref().and_then(|token| server.appservices.by_token(token));
        Ok(Self { service, has_token: token.is_some(), address })
    }

    fn name(&self) -> Option<&str> {
        self.service.as_ref().map(|service| service.sender.as_str())
    }

    fn is_unlimited(&self) -> bool {
        self.service.as_ref().is_some_and(|service| !service.rate_limited)
    }
}

/// [Request authentication](https://spec.matrix.org/latest/server-server-api/#request-authentication): 401
/// `M_UNAUTHORIZED` for a signature that is not right, or for another destination than this server; 403 `M_FORBIDDEN`
/// for a server that the administrator does not want to deal with.
impl Caller<Server, ServerSignatures> for Origin {
    const COVERS_BODY: bool = true;

    async fn authenticate(server: &Server, auth: XMatrix, request: &Request<Bytes>, _: IpAddr) -> Result<Self> {
        let unauthorized = |message: String| Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message);
        let federation = &server.federation;
        federation.require_admitted(&auth.origin)?;
        // Looked at before the signature, so that nobody has us fetch keys for requests that are not for us.
        if auth.destination.as_ref().is_some_and(|destination| destination != server.name()) {
            return Err(unauthorized(format!("The request is for another server: this is {}.", server.name())));
        }
        if auth.origin == server.name() {
            return Err(unauthorized("This server does not send requests to itself.".to_owned()));
        }
        let keys = federation.keys.of_caller(federation, &auth.origin, &auth.key).await?;
        auth.verify_http_request(request, server.name(), &keys)
            .map_err(|error| unauthorized(format!("The signature of {} is not right: {error}.", auth.origin)))?;
        federation.heard_from(&auth.origin);
        Ok(Self { server: auth.origin })
    }

    fn name(&self) -> Option<&str> {
        Some(self.server.as_str())
    }
}

macro_rules! anyone {
    ($($scheme:ty: $credentials:ty),*) => {$(
        impl Caller<Server, $scheme> for Anyone {
            async fn authenticate(_: &Server, _: $credentials, _: &Request<Bytes>, _: IpAddr) -> Result<Self> {
                Ok(Self)
            }

            fn name(&self) -> Option<&str> {
                None
            }
        }
    )*};
}
anyone!(NoAuthentication: (), NoAccessToken: (), AccessTokenOptional: Option<String>);

fn user(server: &Server, token: &str, request: &Request<Bytes>, address: IpAddr) -> Result<User> {
    if let Some(service) = server.appservices.by_token(token) {
        return masquerade(server, service, request, address);
    }
    let session = tokens::authenticate(&server.store.read(), token)?;
    if session.locked && !locked_may(request.uri().path()) {
        return Err(tokens::locked());
    }
    if session.suspended && !suspended_may(request.method(), request.uri().path()) {
        return Err(tokens::suspended());
    }
    if session.guest && !guests_may(request.method(), request.uri().path()) {
        let message = "Guests cannot do this. Register an account first.";
        return Err(Error::new(StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, message));
    }
    let note_seen = server.last_seen.is_due(&session.hash);
    if note_seen || session.unconfirmed {
        server.store.write(|tx| {
            if session.unconfirmed {
                tokens::confirm(tx, &session.user, &session.device)?;
            }
            devices::seen(tx, &session.user, &session.device, Some(address.to_string()))
        })?;
    }
    Ok(User { id: session.user, device: session.device, guest: session.guest, appservice: None })
}

/// Whom an application service says that it is
/// ([Identity assertion](https://spec.matrix.org/latest/application-service-api/#identity-assertion)).
#[derive(Deserialize)]
struct Identity {
    user_id: Option<OwnedUserId>,
    device_id: Option<OwnedDeviceId>,
    /// The name of `device_id` before [MSC4326](https://github.com/matrix-org/matrix-spec-proposals/pull/4326) was stable.
    #[serde(rename = "org.matrix.msc3202.device_id")]
    unstable_device_id: Option<OwnedDeviceId>,
}

fn masquerade(server: &Server, service: Arc<Registration>, request: &Request<Bytes>, address: IpAddr) -> Result<User> {
    let identity: Identity = serde_html_form::from_str(request.uri().query().unwrap_or_default())
        .map_err(|error| Error::invalid_param(format!("user_id or device_id in the query is not one: {error}.")))?;
    let id = identity.user_id.unwrap_or_else(|| service.sender.clone());
    if !service.has_user(&id) {
        return Err(Error::forbidden(format!("{id} is not in the namespaces of this application service.")));
    }
    let account = ACCOUNTS.get(&server.store.read(), &id)?;
    match account {
        Some(account) if account.locked => return Err(tokens::locked()),
        Some(account) if account.suspended && !suspended_may(request.method(), request.uri().path()) => {
            return Err(tokens::suspended());
        }
        Some(account) if !account.deactivated => {}
        // The registration is the sender's: some application services never register it.
        None if id == service.sender => server.store.write(|tx| accounts::create_ghost(tx, &id))?,
        _ => return Err(Error::forbidden(format!("There is no account {id}. Register it first."))),
    }
    let device = identity.device_id.or(identity.unstable_device_id);
    if let Some(device) = &device {
        if !DEVICES.contains(&server.store.read(), (&id, device))? {
            let message = format!("{id} has no device {device}.");
            return Err(Error::bad_request(ErrorKind::UnknownDevice, message));
        }
        if server.last_seen.is_due(&format!("{id} {device}")) {
            server.store.write(|tx| devices::seen(tx, &id, device, Some(address.to_string())))?;
        }
    }
    Ok(User { id, device: device.unwrap_or_else(|| "".into()), guest: false, appservice: Some(service) })
}

/// The parts of a path of the client-server API behind its version, decoded as they are for finding the handler: who writes
/// them in another way does not get around what follows. Nothing for other paths.
fn operation(path: &str) -> Vec<Cow<'_, str>> {
    let decoded = |segment| percent_decode(segment).unwrap_or(Cow::Borrowed(segment));
    let mut segments = path.trim_start_matches('/').split('/').map(decoded);
    if (segments.next().as_deref(), segments.next().as_deref()) != (Some("_matrix"), Some("client")) {
        return Vec::new();
    }
    match segments.next().as_deref() {
        Some("unstable") => segments.skip(1).collect(),
        _ => segments.collect(),
    }
}

/// The same, to be matched.
fn parts<'a>(operation: &'a [Cow<'_, str>]) -> Vec<&'a str> {
    operation.iter().map(AsRef::as_ref).collect()
}

/// What a locked account can still do (spec: "Account locking").
fn locked_may(path: &str) -> bool {
    matches!(parts(&operation(path)).as_slice(), ["logout", ..])
}

/// What a suspended account can still do (spec: "Account suspension"): all but what others would see of it. That it redacts
/// nobody's events but its own is for `client/room_send.rs` to see to, which knows whose they are.
fn suspended_may(method: &Method, path: &str) -> bool {
    match (method.as_str(), parts(&operation(path)).as_slice()) {
        ("PUT", ["rooms", _, "send", kind, _]) => *kind == "m.room.redaction",
        ("PUT", ["rooms", _, "state" | "delayed_event", ..]) => false,
        ("PUT" | "DELETE", ["profile", _, _] | ["directory", ..]) => false,
        ("POST", ["rooms", _, "join" | "invite" | "kick" | "ban" | "unban" | "upgrade"]) => false,
        ("POST", ["join" | "knock", _] | ["createRoom"]) => false,
        // Uploads, whose paths are not below `/client`.
        ("POST" | "PUT", []) => false,
        _ => true,
    }
}

/// Whether the specification opens an operation to guests ("Guest Access", client behaviour), or it is one that they
/// need to leave again or that tells nothing, or one that needs no token at all.
fn guests_may(method: &Method, path: &str) -> bool {
    matches!(
        (method.as_str(), parts(&operation(path)).as_slice()),
        ("GET", ["rooms", _, "state", ..])
            | ("GET", ["rooms", _, "context" | "event", _])
            | ("GET", ["rooms", _, "messages" | "members" | "initialSync"])
            | ("GET", ["sync" | "events" | "capabilities" | "joined_rooms"])
            | ("GET", ["media", ..])
            | ("POST", ["rooms", _, "join" | "leave" | "forget"])
            | ("POST", ["join", _])
            | ("PUT", ["rooms", _, "send" | "state" | "delayed_event", ..])
            | ("GET" | "POST", ["delayed_events", ..])
            | ("PUT", ["sendToDevice", _, _])
            | ("PUT" | "DELETE", ["profile", _, "displayname"])
            | ("GET", ["profile", ..] | ["publicRooms"] | ["room_summary" | "summary", _])
            | ("GET", ["devices"])
            | ("GET" | "PUT", ["devices", _])
            | ("GET", ["account", "whoami"])
            | ("POST", ["keys", "upload" | "query" | "claim"])
            | ("POST", ["logout", ..])
            | ("GET", ["pushrules", ..])
            | ("POST" | "GET", ["user", _, "filter", ..])
            | ("GET", ["voip", "turnServer"])
            | ("POST", ["sync"])
    )
}
