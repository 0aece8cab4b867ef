//! User-interactive authentication (spec: client-server API, "User-Interactive Authentication API").
//!
//! An operation that asks for proof calls [`check`] (of a logged-in user: the password) or [`run`] (with a [`Demand`] of
//! its own). Each stage is checked when it is shown; what was shown is kept in a session (`users/auth_sessions.rs`), which is
//! bound to the operation, its target and its caller. A flow of one stage can be shown at once, without a session.
//!
//! More ways to prove who one is (OAuth) are more stages in [`Proof::show`] and more flows in [`check`].

use http::StatusCode;
use ruma::{
    OwnedUserId, UserId,
    api::{
        client::uiaa::{AuthData, AuthType, ThirdpartyIdCredentials, UserIdentifier},
        error::ErrorKind,
    },
};
use serde_json::{Value as JsonValue, json};

use super::auth::User;
use crate::{
    error::{Error, Reason, Result},
    server::Server,
    store::records::{Account, Purpose},
    users::{
        accounts,
        auth_sessions::{AuthSession, Deed, Shown},
        registration_tokens,
        sign_ups::With,
        threepids, validations,
    },
};

/// The stages of one way to pass, in any order.
pub type Flow = &'static [AuthType];

/// With the password of one's account.
pub const PASSWORD: Flow = &[AuthType::Password];

/// By logging in with the identity provider once more, which ends at the page of `web/sso.rs`.
pub const SSO: Flow = &[AuthType::Sso];

/// By saying so.
pub const DUMMY: Flow = &[AuthType::Dummy];

/// With a registration token.
pub const REGISTRATION_TOKEN: Flow = &[AuthType::RegistrationToken];

/// With a confirmed e-mail address.
pub const EMAIL: Flow = &[AuthType::EmailIdentity];

/// With a confirmed e-mail address and a registration token. In this order, which clients follow: who gives an address where
/// the token alone is enough as well would be done too early after the token.
pub const EMAIL_AND_TOKEN: Flow = &[AuthType::EmailIdentity, AuthType::RegistrationToken];

/// What is to be proven.
#[derive(Default)]
pub struct Demand<'a> {
    /// The operation that it is for, which names what is done and to what.
    pub operation: &'a str,
    /// The ways to pass.
    pub flows: &'a [Flow],
    /// The same in words, and whose the proof is to be, if that is known before.
    pub deed: Option<Deed>,
    /// What an e-mail address must have been confirmed for.
    pub purpose: Purpose,
}

/// What was proven.
#[derive(Debug, Default)]
pub struct Passed {
    /// The session that it was proven in, if the client has one.
    pub session: Option<String>,
    /// The registration token that was shown.
    pub registration_token: Option<String>,
    /// The ID of the validation whose confirmed e-mail address was shown.
    pub validation: Option<String>,
    /// Whose password was shown.
    pub user: Option<OwnedUserId>,
}

impl Passed {
    /// What an account is registered with after this.
    pub fn with(&self) -> With<'_> {
        self.registration_token.as_deref().map_or(With::Nothing, With::Token)
    }
}

/// Makes sure that it is really `user` who asks for `operation`, which names what is done and to what in words that the
/// user understands, such as `"delete device ABCDEF"`. Application services have proven all that there is to prove
/// ([MSC4190](https://github.com/matrix-org/matrix-spec-proposals/pull/4190)).
///
/// # Errors
/// 401 with flows and session until it is proven; 403 `M_FORBIDDEN` for a proof that somebody else is there.
pub async fn check(server: &Server, user: &User, operation: &str, auth: Option<&AuthData>) -> Result<()> {
    if user.appservice.is_some() {
        return Ok(());
    }
    let (deed, flows) = (Some(Deed::new(&user.id, operation)), ways_of(server, &user.id)?);
    let operation = format!("{operation} for {} {}", user.id, user.device);
    let demand = Demand { operation: &operation, flows, deed, ..Demand::default() };
    let passed = run(server, &demand, auth).await?;
    if let Some(session) = passed.session {
        server.auth_sessions.end(&session, &operation); // good for one time
    }
    Ok(())
}

/// How a user can prove who they are.
fn ways_of(server: &Server, user: &UserId) -> Result<&'static [Flow]> {
    let account = accounts::require(&server.store.read(), user)?;
    Ok(match (is_linked(server, &account), account.password_hash) {
        (true, None) => &[SSO],
        (true, Some(_)) => &[PASSWORD, SSO],
        _ => &[PASSWORD],
    })
}

/// Whether somebody at this server's identity provider gets into the account.
pub fn is_linked(server: &Server, account: &Account) -> bool {
    server.sso.issuer().is_some_and(|issuer| account.identities.iter().any(|identity| identity.issuer == issuer))
}

/// Makes sure that what `demand` says is proven.
///
/// # Errors
/// As [`check`].
pub async fn run(server: &Server, demand: &Demand<'_>, auth: Option<&AuthData>) -> Result<Passed> {
    let flows = demand.flows;
    let id = auth.and_then(AuthData::session);
    let known = id.and_then(|id| Some((id.to_owned(), server.auth_sessions.get(id, demand.operation)?)));
    let (id, session) = known.map_or_else(|| (None, AuthSession::default()), |(id, session)| (Some(id), session));
    let mut proof = Proof { server, demand, id, session, user: None };
    let Some(auth) = auth else { return Err(proof.challenge(None)?) };
    if let Some(stage) = auth.auth_type() {
        if !flows.iter().any(|flow| flow.contains(&stage)) {
            let error =
                Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Unrecognized, "This stage is in none of the flows.");
            return Err(proof.challenge(Some(&error))?);
        }
        match proof.show(auth).await {
            Ok(shown) => proof.complete(stage, shown),
            Err(error) if error.status() == StatusCode::UNAUTHORIZED => return Err(proof.challenge(Some(&error))?),
            Err(error) => return Err(error),
        }
    }
    if flows.iter().any(|flow| flow.iter().all(|stage| proof.session.completed.contains(stage))) {
        let AuthSession { registration_token, validation, .. } = proof.session;
        Ok(Passed { session: proof.id, registration_token, validation, user: proof.user })
    } else {
        Err(proof.challenge(None)?)
    }
}

/// A proof on its way.
struct Proof<'a> {
    server: &'a Server,
    demand: &'a Demand<'a>,
    id: Option<String>,
    session: AuthSession,
    user: Option<OwnedUserId>,
}

impl Proof<'_> {
    /// Checks what a client shows for one stage: 401 if it is wrong and it may try again.
    async fn show(&mut self, auth: &AuthData) -> Result<Shown> {
        let mut shown = Shown::default();
        match auth {
            AuthData::Dummy(_) => {}
            AuthData::RegistrationToken(data) => {
                let pending = self.server.auth_sessions.pending(&data.token, self.id.as_deref());
                let read = self.server.store.read();
                if !registration_tokens::is_valid(&read, &self.server.config(), &data.token, pending)? {
                    return Err(refused("This registration token is not valid."));
                }
                shown.registration_token = Some(data.token.clone());
            }
            AuthData::EmailIdentity(data) => {
                let ThirdpartyIdCredentials { sid, client_secret, .. } = &data.thirdparty_id_creds;
                let read = self.server.store.read();
                validations::proven(&read, self.demand.purpose, sid.as_str(), client_secret.as_str())
                    .map_err(unconfirmed)?;
                shown.validation = Some(sid.to_string());
            }
            AuthData::Password(data) => {
                let found = find_account(self.server, &data.identifier)?;
                if let (Some(deed), Some((found, _))) = (&self.demand.deed, &found)
                    && deed.user != *found
                {
                    return Err(Error::forbidden("Confirm with your own account, not with another."));
                }
                let Server { passwords, limits, .. } = self.server;
                self.user = Some(passwords.log_in(limits, found, &data.password).await?);
            }
            _ => return Err(refused("This server knows no such stage.")),
        }
        Ok(shown)
    }

    /// Notes a stage as done, for the next request as well if there is a session. Others may have been done on pages while
    /// this one was checked.
    fn complete(&mut self, stage: AuthType, shown: Shown) {
        let kept =
            self.id.as_ref().and_then(|id| self.server.auth_sessions.pass(id, stage.clone(), shown.clone()).ok());
        match kept {
            Some(session) => self.session = session,
            None => self.session.pass(stage, shown),
        }
    }

    /// Begins a session that has what was shown so far; gives its ID.
    fn begin(&mut self) -> Result<String> {
        let id = self.server.auth_sessions.begin(self.demand.operation)?;
        (self.session.deed, self.session.purpose) = (self.demand.deed.clone(), self.demand.purpose);
        let AuthSession { deed, purpose, completed, registration_token, validation, .. } = self.session.clone();
        self.server.auth_sessions.update(&id, |session| {
            (session.deed, session.purpose) = (deed, purpose);
            session.completed = completed;
            session.registration_token = registration_token;
            session.validation = validation;
        });
        Ok(id)
    }

    /// The 401 that says what is left to do, and what was wrong.
    fn challenge(&mut self, error: Option<&Error>) -> Result<Error> {
        if self.id.is_none() {
            self.id = Some(self.begin()?);
        }
        let flows: Vec<JsonValue> = self.demand.flows.iter().map(|stages| json!({ "stages": stages })).collect();
        let mut body = json!({ "flows": flows, "params": {}, "session": self.id });
        if !self.session.completed.is_empty() {
            body["completed"] = json!(self.session.completed);
        }
        if let Some(Reason::Matrix { kind, message, .. }) = error.map(Error::reason) {
            body["errcode"] = json!(kind.errcode());
            body["error"] = json!(message);
        }
        Ok(Error::uiaa(body))
    }
}

/// 401 `M_FORBIDDEN`: the client may try again.
fn refused(message: &str) -> Error {
    Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Forbidden, message)
}

/// The same for an e-mail address. Clients ask again and again with one that is not confirmed yet, and know
/// `M_UNAUTHORIZED` as what they are told until then.
fn unconfirmed(error: Error) -> Error {
    match error.reason() {
        Reason::Matrix { message, .. } => {
            Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message.clone())
        }
        _ => error,
    }
}

/// The account that an identifier means: by user name, user ID, e-mail address or phone number.
///
/// # Errors
/// 400 `M_UNKNOWN` for identifiers of another kind.
pub fn find_account(server: &Server, identifier: &UserIdentifier) -> Result<Option<(OwnedUserId, Account)>> {
    let read = server.store.read();
    match identifier {
        UserIdentifier::Matrix(id) => accounts::find(&read, server.name(), &id.user),
        UserIdentifier::PhoneNumber(number) => {
            // Without a table of countries: a number in international form says its country itself.
            let digits: String = number.phone.chars().filter(char::is_ascii_digit).collect();
            threepids::find(&read, "msisdn", &digits)
        }
        other => match other.as_third_party_id() {
            Some((medium, address)) => threepids::find(&read, medium.as_str(), &threepids::canonical(address)),
            None => Err(Error::bad_request(ErrorKind::Unknown, "This kind of identifier is not known here.")),
        },
    }
}
