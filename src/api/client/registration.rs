//! Making accounts (spec: client-server API, "Legacy account registration").
//!
//! Who may is the administrator's choice: nobody (the default), who has a token, or everybody. While there is no account
//! yet, the token of the first start makes one, an administrator.

use std::net::IpAddr;

use http::StatusCode;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::{
        client::account::{
            get_username_availability,
            register::{LoginType, RegistrationKind, v3::Request},
            request_registration_token_via_email as by_email, request_registration_token_via_msisdn as by_msisdn,
        },
        error::ErrorKind,
    },
};
use serde::Serialize;

use super::login::lifetimes;
use crate::{
    answers_json,
    api::{
        auth::{Anyone, Newcomer},
        own::Json,
        uiaa::{self, Demand, Flow, Passed},
        validation::{self, Asked},
    },
    appservice::Registration as Appservice,
    clock,
    config::Registration,
    error::{Error, Result},
    server::Server,
    store::{
        Tx,
        records::{Account, Purpose},
        trees::ACCOUNTS,
    },
    users::{
        accounts,
        devices::{self, Login},
        passwords, registration_tokens,
        sign_ups::{self, With},
        threepids,
        tokens::{self, Issued},
        validations,
    },
};

/// What a session of user-interactive authentication for a registration is for.
const OPERATION: &str = "register";

/// A new account, and its first login unless the client wants none.
#[derive(Debug, Serialize)]
pub struct Registered {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

impl Registered {
    /// The answer for an account, with its login if there is one.
    pub fn new(user: OwnedUserId, login: Option<(OwnedDeviceId, Issued)>) -> Self {
        let (device_id, issued) = login.unzip();
        let expires_in = issued.as_ref().and_then(|issued| issued.expires_in);
        let (access_token, refresh_token) = issued.map(|issued| (issued.access, issued.refresh)).unzip();
        Self {
            user_id: user,
            access_token,
            device_id,
            refresh_token: refresh_token.flatten(),
            expires_in_ms: expires_in.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()),
        }
    }
}

answers_json! {
    /// Ruma's response says `"device_id": null` where there is no device.
    pub struct RegisterRequest(Request) => Registered;
}

/// `POST /_matrix/client/v3/register`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3register))
pub async fn register(server: &Server, newcomer: Newcomer, req: RegisterRequest) -> Result<Json<Registered>> {
    let req = req.0;
    if req.kind == RegistrationKind::Guest {
        return register_guest(server, newcomer.address, &req).map(Json);
    }
    if req.login_type == Some(LoginType::ApplicationService) {
        return register_ghost(server, newcomer.require_appservice()?, &req).map(Json);
    }
    let login = Login {
        device: req.device_id.clone(),
        display_name: req.initial_device_display_name.clone(),
        lifetimes: req.refresh_token.then(|| lifetimes(&server.config())),
    };
    login.check()?;
    if let Some(answer) = repeated(server, &req, &login)? {
        return Ok(Json(answer));
    }
    let flows = flows(server)?;
    let guest = guest_to_upgrade(server, &req)?;
    let user = match (&guest, &req.username) {
        (Some(guest), _) => guest.clone(),
        (None, Some(name)) => {
            let user = accounts::parse_new(&server.config(), &server.appservices, name)?;
            accounts::require_free(&server.store.read(), &user)?;
            user
        }
        (None, None) => accounts::random_name(server.name())?,
    };
    if let Some(password) = &req.password {
        passwords::check_new(password, server.config().password_min_length)?;
    }
    let demand = Demand { operation: OPERATION, flows: &flows, purpose: Purpose::Register, ..Demand::default() };
    let passed = uiaa::run(server, &demand, req.auth.as_ref()).await?;
    let password = req.password.ok_or_else(|| Error::missing_param("password is missing."))?;
    sign_ups::check(&server.store.read(), &server.config(), newcomer.address, passed.with())?;
    let account = Account {
        password_hash: Some(server.passwords.hash(password).await?),
        created_ts: clock::now_ms(),
        ..Account::default()
    };
    let issued = server.store.write(|tx| {
        make(tx, server, &user, account, (&passed, newcomer.address), guest.is_some())?;
        if req.inhibit_login { Ok(None) } else { devices::log_in(tx, &user, &login).map(Some) }
    })?;
    if let Some(session) = &passed.session {
        let outcome = (user.clone(), issued.as_ref().map(|(device, _)| device.clone()));
        server.auth_sessions.update(session, |session| session.outcome = Some(outcome));
    }
    Ok(Json(Registered::new(user, issued)))
}

/// The flows that lead to an account.
fn flows(server: &Server) -> Result<Vec<Flow>> {
    let (read, config) = (server.store.read(), server.config());
    let awaits_administrator = registration_tokens::awaits_administrator(&read)?;
    let (mails, required) = (server.mailer.is_configured(), config.email.required_to_register);
    let mut flows = match sign_ups::registration(&read, &config)? {
        Registration::Open => match (mails, required) {
            (true, true) => vec![uiaa::EMAIL],
            (true, false) => vec![uiaa::DUMMY, uiaa::EMAIL],
            (false, _) => vec![uiaa::DUMMY],
        },
        Registration::Closed if !awaits_administrator => {
            return Err(Error::forbidden("Nobody can register on this server. Ask its administrator for an account."));
        }
        Registration::Closed => Vec::new(),
        Registration::Token => match (mails, required) {
            (true, true) => vec![uiaa::EMAIL_AND_TOKEN],
            (true, false) => vec![uiaa::REGISTRATION_TOKEN, uiaa::EMAIL_AND_TOKEN],
            (false, _) => vec![uiaa::REGISTRATION_TOKEN],
        },
    };
    // The administrator comes in even while the mail server does not work yet.
    if awaits_administrator && !flows.contains(&uiaa::REGISTRATION_TOKEN) {
        flows.push(uiaa::REGISTRATION_TOKEN);
    }
    Ok(flows)
}

/// Makes the account, for somebody who passed and is at that address, and uses up the token and the confirmed e-mail
/// address that it is made with.
fn make(
    tx: &mut Tx<'_>,
    server: &Server,
    user: &OwnedUserId,
    account: Account,
    (passed, address): (&Passed, IpAddr),
    upgrade: bool,
) -> Result<()> {
    let admin = sign_ups::admit(tx, &server.config(), user, address, passed.with())?;
    let account = Account { admin, ..account };
    if upgrade {
        ACCOUNTS.put(tx, user, &account);
    } else {
        accounts::create(tx, user, &account, Some(&accounts::initial_display_name(&server.config(), user)))?;
    }
    if let Some(sid) = &passed.validation {
        let threepid = validations::redeem(tx, sid)?;
        threepids::add(tx, user, threepid)?;
    }
    Ok(())
}

/// The answer to a request whose session led to an account already: the client did not get the first one.
fn repeated(server: &Server, req: &Request, login: &Login) -> Result<Option<Registered>> {
    let session = req.auth.as_ref().and_then(|auth| auth.session());
    let Some(session) = session.and_then(|id| server.auth_sessions.get(id, OPERATION)) else { return Ok(None) };
    let Some((user, device)) = session.outcome else { return Ok(None) };
    if req.inhibit_login {
        return Ok(Some(Registered::new(user, None)));
    }
    let login = Login { device: device.or_else(|| login.device.clone()), ..login.clone() };
    let issued = server.store.write(|tx| {
        accounts::require(tx, &user)?;
        devices::log_in(tx, &user, &login)
    })?;
    Ok(Some(Registered::new(user, Some(issued))))
}

/// The guest that becomes a user, if the request says so (spec: "Guest Access").
fn guest_to_upgrade(server: &Server, req: &Request) -> Result<Option<OwnedUserId>> {
    let Some(token) = &req.guest_access_token else { return Ok(None) };
    let session = tokens::authenticate(&server.store.read(), token)?;
    let name = req.username.as_deref().unwrap_or_default();
    if !session.guest || session.locked || session.suspended || session.user.localpart() != name {
        return Err(Error::forbidden("This access token is not the guest's of that name."));
    }
    Ok(Some(session.user))
}

/// A user of an application service
/// ([spec](https://spec.matrix.org/latest/application-service-api/#server-admin-style-permissions)).
fn register_ghost(server: &Server, service: &Appservice, req: &Request) -> Result<Registered> {
    let name = req.username.as_deref().ok_or_else(|| Error::missing_param("username is missing."))?;
    let user = accounts::parse_ghost(&server.appservices, service, name)?;
    let login = Login {
        device: req.device_id.clone(),
        display_name: req.initial_device_display_name.clone(),
        lifetimes: req.refresh_token.then(|| lifetimes(&server.config())),
    };
    login.check()?;
    let issued = server.store.write(|tx| {
        accounts::create_ghost(tx, &user)?;
        if req.inhibit_login { Ok(None) } else { devices::log_in(tx, &user, &login).map(Some) }
    })?;
    Ok(Registered::new(user, issued))
}

fn register_guest(server: &Server, address: IpAddr, req: &Request) -> Result<Registered> {
    if !server.config().allow_guest_registration {
        return Err(Error::new(
            StatusCode::FORBIDDEN,
            ErrorKind::GuestAccessForbidden,
            "This server has no guests. Register an account.",
        ));
    }
    // Spec: everything but the device's name is to be ignored.
    let login = Login { display_name: req.initial_device_display_name.clone(), ..Login::default() };
    login.check()?;
    let user = accounts::random_name(server.name())?;
    let account = Account { guest: true, created_ts: clock::now_ms(), ..Account::default() };
    let issued = server.store.write(|tx| {
        sign_ups::admit(tx, &server.config(), &user, address, With::Guest)?;
        accounts::create(tx, &user, &account, None)?;
        devices::log_in(tx, &user, &login)
    })?;
    Ok(Registered::new(user, Some(issued)))
}

/// `POST /_matrix/client/v3/register/email/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3registeremailrequesttoken))
pub async fn request_token_to_register_email(
    server: &Server,
    _: Anyone,
    req: by_email::v3::Request,
) -> Result<by_email::v3::Response> {
    flows(server)?;
    let asked = Asked {
        purpose: Purpose::Register,
        email: &req.email,
        client_secret: req.client_secret.as_str(),
        send_attempt: req.send_attempt,
        next_link: req.next_link.as_deref(),
    };
    Ok(by_email::v3::Response::new(validation::request_token(server, &asked).await?))
}

/// `POST /_matrix/client/v3/register/msisdn/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3registermsisdnrequesttoken))
pub async fn request_token_to_register_msisdn(
    _: &Server,
    _: Anyone,
    _: by_msisdn::v3::Request,
) -> Result<by_msisdn::v3::Response> {
    validation::no_text_messages()
}

/// `GET /_matrix/client/v3/register/available`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3registeravailable))
pub async fn check_username_availability(
    server: &Server,
    _: Anyone,
    req: get_username_availability::v3::Request,
) -> Result<get_username_availability::v3::Response> {
    let user = accounts::parse_new(&server.config(), &server.appservices, &req.username)?;
    accounts::require_free(&server.store.read(), &user)?;
    Ok(get_username_availability::v3::Response::new(true))
}
