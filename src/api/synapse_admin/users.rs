//! Accounts ([reference](https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html)).

use http::StatusCode;
use ruma::{OwnedUserId, UserId, api::error::ErrorKind};
use serde::{Deserialize, Deserializer};
use serde_json::{Value as JsonValue, json};

use super::{Nothing, Paging, Reply, not_here, ok, requests};
use crate::{
    api::{auth::Administrator, client::sso_login_redirect, own::JsonWith},
    clock,
    error::{Error, Result},
    federation::{chores, deactivation},
    server::Server,
    store::{
        Direction, Read, Tx,
        records::{Account, ProviderIdentity, ThreePid},
        trees::{ACCOUNTS, ERASED_USERS},
    },
    users::{
        accounts,
        devices::{self, Login},
        passwords, profiles, threepids,
        tokens::Lifetimes,
    },
};

requests! {
    /// `GET /_synapse/admin/v2/users`
    ListUsers = GET "/_synapse/admin/v2/users" (Nothing, UserQuery, Nothing);
    /// `GET /_synapse/admin/v3/users`
    ListUsersV3 = GET "/_synapse/admin/v3/users" (Nothing, UserQuery, Nothing);
    /// `GET /_synapse/admin/v2/users/{user_id}`
    GetUser = GET "/_synapse/admin/v2/users/{user_id}" ((OwnedUserId,), Nothing, Nothing);
    /// `PUT /_synapse/admin/v2/users/{user_id}`
    PutUser = PUT "/_synapse/admin/v2/users/{user_id}" ((OwnedUserId,), Nothing, UserChange);
    /// `POST /_synapse/admin/v1/deactivate/{user_id}`
    Deactivate = POST "/_synapse/admin/v1/deactivate/{user_id}" ((OwnedUserId,), Nothing, Erase);
    /// `POST /_synapse/admin/v1/reset_password/{user_id}`
    ResetPassword = POST "/_synapse/admin/v1/reset_password/{user_id}" ((OwnedUserId,), Nothing, NewPassword);
    /// `GET /_synapse/admin/v1/users/{user_id}/admin`
    GetAdmin = GET "/_synapse/admin/v1/users/{user_id}/admin" ((OwnedUserId,), Nothing, Nothing);
    /// `PUT /_synapse/admin/v1/users/{user_id}/admin`
    PutAdmin = PUT "/_synapse/admin/v1/users/{user_id}/admin" ((OwnedUserId,), Nothing, IsAdmin);
    /// `POST /_synapse/admin/v1/users/{user_id}/login`
    LogInAs = POST "/_synapse/admin/v1/users/{user_id}/login" ((OwnedUserId,), Nothing, ValidUntil);
}

/// Which accounts to list.
#[derive(Debug, Deserialize)]
pub struct UserQuery {
    #[serde(flatten)]
    paging: Paging,
    user_id: Option<String>,
    name: Option<String>,
    guests: Option<bool>,
    admins: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
}

/// What is to change of an account; what is absent stays.
#[derive(Debug, Default, Deserialize)]
pub struct UserChange {
    password: Option<String>,
    logout_devices: Option<bool>,
    displayname: Option<String>,
    avatar_url: Option<String>,
    threepids: Option<Vec<Address>>,
    external_ids: Option<Vec<ExternalId>>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    suspended: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    user_type: Option<JsonValue>,
}

/// A third-party identifier.
#[derive(Debug, Clone, Deserialize)]
pub struct Address {
    medium: String,
    address: String,
}

/// Who somebody is at an identity provider.
#[derive(Debug, Clone, Deserialize)]
pub struct ExternalId {
    auth_provider: String,
    external_id: String,
}

/// Whether to erase.
#[derive(Debug, Deserialize)]
pub struct Erase {
    #[serde(default)]
    erase: bool,
}

/// A new password.
#[derive(Debug, Deserialize)]
pub struct NewPassword {
    new_password: String,
    logout_devices: Option<bool>,
}

/// Whether to be an administrator.
#[derive(Debug, Deserialize)]
pub struct IsAdmin {
    admin: bool,
}

/// Until when a login is valid.
#[derive(Debug, Deserialize)]
pub struct ValidUntil {
    valid_until_ms: Option<u64>,
}

/// What is there, be it null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<JsonValue>, D::Error> {
    JsonValue::deserialize(deserializer).map(Some)
}

/// Refuses users of other servers.
pub(super) fn require_local(server: &Server, user: &UserId) -> Result<()> {
    match user.server_name() == server.name() {
        true => Ok(()),
        false => Err(Error::invalid_param(format!("{user} is no user of this server."))),
    }
}

/// The account of a user of this server.
pub(super) fn require(server: &Server, read: &dyn Read, user: &UserId) -> Result<Account> {
    require_local(server, user)?;
    accounts::require(read, user)
}

/// An account that is in use.
pub(super) fn require_active(server: &Server, read: &dyn Read, user: &UserId) -> Result<Account> {
    let account = require(server, read, user)?;
    if account.deactivated { Err(Error::not_found("This account was deactivated.")) } else { Ok(account) }
}

fn last_seen(read: &dyn Read, user: &UserId) -> Result<Option<u64>> {
    let mut latest = None;
    for row in devices::all(read, user) {
        latest = latest.max(row?.1.last_seen_ts);
    }
    Ok(latest)
}

/// An account as lists show it.
fn entry(server: &Server, read: &dyn Read, user: &UserId, account: &Account) -> Result<JsonValue> {
    let profile = profiles::get(read, user)?;
    let appservice = server.appservices.all().into_iter().find(|service| service.has_user(user));
    Ok(json!({
        "name": user,
        "displayname": profile.display_name(),
        "avatar_url": profile.avatar_url(),
        "is_guest": account.guest,
        "admin": account.admin,
        "user_type": null,
        "deactivated": account.deactivated,
        "erased": ERASED_USERS.contains(read, user)?,
        "shadow_banned": false,
        "creation_ts": account.created_ts,
        "last_seen_ts": last_seen(read, user)?,
        "appservice_id": appservice.map(|service| service.id.clone()),
        "approved": true,
        "locked": account.locked,
        "suspended": account.suspended,
    }))
}

/// An account by itself.
fn whole(server: &Server, read: &dyn Read, user: &UserId, account: &Account) -> Result<JsonValue> {
    let mut shown = entry(server, read, user, account)?;
    shown["threepids"] = account
        .threepids
        .iter()
        .map(|own| {
            json!({
                "medium": own.medium,
                "address": own.address,
                "validated_at": own.validated_at,
                "added_at": own.added_at,
            })
        })
        .collect();
    shown["external_ids"] = account
        .identities
        .iter()
        .map(|own| json!({ "auth_provider": own.issuer, "external_id": own.subject }))
        .collect();
    for absent in ["consent_server_notice_sent", "consent_version", "consent_ts"] {
        shown[absent] = JsonValue::Null;
    }
    Ok(shown)
}

/// Lists the accounts that `is_wanted` and the query let through.
fn list(server: &Server, query: &UserQuery, is_wanted: impl Fn(&Account) -> bool) -> Result<Reply> {
    let read = server.store.read();
    let contains = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
    let mut rows = Vec::new();
    for row in ACCOUNTS.scan(&read, (), Direction::Forward) {
        let (user, account) = row?;
        let fits = is_wanted(&account)
            && (query.guests != Some(false) || !account.guest)
            && query.admins.is_none_or(|admins| account.admin == admins)
            && (query.locked == Some(true) || !account.locked);
        if !fits {
            continue;
        }
        let matches = match (&query.name, &query.user_id) {
            (Some(name), _) => {
                let shown = profiles::get(&read, &user)?;
                contains(user.localpart(), name) || shown.display_name().is_some_and(|shown| contains(shown, name))
            }
            (None, Some(part)) => contains(user.as_str(), part),
            (None, None) => true,
        };
        if matches {
            rows.push(entry(server, &read, &user, &account)?);
        }
    }
    query.paging.sort(&mut rows, "name");
    ok(query.paging.page("users", rows))
}

/// `GET /_synapse/admin/v2/users`: without the deactivated accounts unless they are asked for.
pub async fn list_users(server: &Server, _: Administrator, req: ListUsers) -> Result<Reply> {
    list(server, &req.query, |account| req.query.deactivated == Some(true) || !account.deactivated)
}

/// `GET /_synapse/admin/v3/users`: the deactivated accounts alone, or the others, or all.
pub async fn list_users_v3(server: &Server, _: Administrator, req: ListUsersV3) -> Result<Reply> {
    list(server, &req.query, |account| req.query.deactivated.is_none_or(|wanted| account.deactivated == wanted))
}

/// `GET /_synapse/admin/v2/users/{user_id}`
pub async fn get_user(server: &Server, _: Administrator, req: GetUser) -> Result<Reply> {
    let read = server.store.read();
    let account = require(server, &read, &req.path.0)?;
    ok(whole(server, &read, &req.path.0, &account)?)
}

/// `PUT /_synapse/admin/v2/users/{user_id}`: makes an account, or changes one. An account that was deactivated stays so.
pub async fn put_user(server: &Server, admin: Administrator, req: PutUser) -> Result<Reply> {
    let (user, mut change) = (req.path.0, req.body);
    require_local(server, &user)?;
    for Address { medium, address } in change.threepids.iter_mut().flatten() {
        *address = threepids::parse(medium, address)?;
    }
    if change.user_type.as_ref().is_some_and(|kind| !kind.is_null()) {
        return not_here("types of users");
    }
    let known = ACCOUNTS.get(&server.store.read(), &user)?;
    if known.as_ref().is_some_and(|account| account.deactivated) && change.deactivated == Some(false) {
        return not_here("way to bring an account back that was deactivated: its keys and rooms are gone");
    }
    if user == admin.0 && (change.admin == Some(false) || change.locked == Some(true)) {
        return Err(Error::forbidden("You cannot take your own rights away."));
    }
    let identities = change.external_ids.as_deref().map(|ids| identities(server, known.as_ref(), ids)).transpose()?;
    let hash = match &change.password {
        Some(password) => {
            passwords::check_new(password, 1)?;
            Some(server.passwords.hash(password.clone()).await?)
        }
        None => None,
    };
    if known.is_none() {
        let parsed = accounts::parse_new(&server.config(), &server.appservices, user.as_str())?;
        accounts::require_free(&server.store.read(), &parsed)?;
    }
    server.store.write(|tx| {
        if known.is_none() {
            let account = Account { created_ts: clock::now_ms(), ..Account::default() };
            accounts::create(tx, &user, &account, Some(&accounts::initial_display_name(&server.config(), &user)))?;
            accounts::welcome(tx, &server.config(), &user, Vec::new())?;
        }
        identities.map_or(Ok(()), |identities| accounts::set_identities(tx, &user, identities))?;
        apply(tx, &user, &change, hash)
    })?;
    if change.deactivated == Some(true) {
        deactivation::deactivate(&server.federation, &user, false).await?;
    } else if !chores::show_profile(&server.federation, &user, chores::AT_ONCE).await? {
        server.rooms.chores.notify_one();
    }
    let read = server.store.read();
    let account = require(server, &read, &user)?;
    let status = if known.is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok(JsonWith(status, whole(server, &read, &user, &account)?))
}

/// Who the user is to be at identity providers: at that of this server, or what an account has already.
fn identities(server: &Server, known: Option<&Account>, ids: &[ExternalId]) -> Result<Vec<ProviderIdentity>> {
    let identity = |id: &ExternalId| {
        let issuer = issuer(server, &id.auth_provider);
        let identity = ProviderIdentity { issuer, subject: id.external_id.clone() };
        let is_known = known.is_some_and(|account| account.identities.contains(&identity));
        match is_known || Some(&identity.issuer) == server.sso.issuer().as_ref() {
            true => Ok(identity),
            false => {
                let message = format!("{} is not the identity provider of this server.", id.auth_provider);
                Err(Error::invalid_param(message))
            }
        }
    };
    ids.iter().map(identity).collect()
}

/// The address of an identity provider, which is called by that, or by the ID that clients know it by.
pub(super) fn issuer(server: &Server, name: &str) -> String {
    let known_as = if name == sso_login_redirect::PROVIDER { server.sso.issuer() } else { None };
    known_as.unwrap_or_else(|| name.to_owned())
}

/// Changes an account as it is said; `hash` is that of the new password.
fn apply(tx: &mut Tx<'_>, user: &UserId, change: &UserChange, hash: Option<String>) -> Result<()> {
    accounts::update(tx, user, |account| {
        account.admin = change.admin.unwrap_or(account.admin);
        account.locked = change.locked.unwrap_or(account.locked);
        account.suspended = change.suspended.unwrap_or(account.suspended);
    })?;
    if let Some(hash) = hash {
        accounts::set_password(tx, user, hash, change.logout_devices != Some(false), None)?;
    }
    for (field, value) in [("displayname", &change.displayname), ("avatar_url", &change.avatar_url)] {
        if let Some(value) = value {
            profiles::set(tx, user, field, (!value.is_empty()).then(|| json!(value)))?;
        }
    }
    if let Some(wanted) = &change.threepids {
        let known = accounts::require(tx, user)?.threepids;
        let is_wanted =
            |own: &ThreePid| wanted.iter().any(|new| (&new.medium, &new.address) == (&own.medium, &own.address));
        for own in known.iter().filter(|own| !is_wanted(own)) {
            threepids::remove(tx, user, &own.medium, &own.address)?;
        }
        let now = clock::now_ms();
        for Address { medium, address } in wanted.clone() {
            if !known.iter().any(|own| own.medium == medium && own.address == address) {
                threepids::add(tx, user, ThreePid { medium, address, validated_at: now, added_at: now })?;
            }
        }
    }
    tx.wake(user);
    Ok(())
}

/// `POST /_synapse/admin/v1/deactivate/{user_id}`
pub async fn deactivate_account(server: &Server, _: Administrator, req: Deactivate) -> Result<Reply> {
    require(server, &server.store.read(), &req.path.0)?;
    let ended = deactivation::deactivate(&server.federation, &req.path.0, req.body.erase).await?;
    ok(json!({ "id_server_unbind_result": if ended.unbound_all { "success" } else { "no-support" } }))
}

/// `POST /_synapse/admin/v1/reset_password/{user_id}`
pub async fn reset_password(server: &Server, _: Administrator, req: ResetPassword) -> Result<Reply> {
    let (user, NewPassword { new_password, logout_devices }) = (req.path.0, req.body);
    require_active(server, &server.store.read(), &user)?;
    passwords::check_new(&new_password, 1)?;
    let hash = server.passwords.hash(new_password).await?;
    let change = UserChange { logout_devices, ..UserChange::default() };
    server.store.write(|tx| apply(tx, &user, &change, Some(hash)))?;
    ok(json!({}))
}

/// `GET /_synapse/admin/v1/users/{user_id}/admin`
pub async fn get_admin(server: &Server, _: Administrator, req: GetAdmin) -> Result<Reply> {
    let account = require(server, &server.store.read(), &req.path.0)?;
    ok(json!({ "admin": account.admin }))
}

/// `PUT /_synapse/admin/v1/users/{user_id}/admin`
pub async fn put_admin(server: &Server, admin: Administrator, req: PutAdmin) -> Result<Reply> {
    let user = req.path.0;
    if user == admin.0 && !req.body.admin {
        return Err(Error::forbidden("You cannot take your own rights away."));
    }
    server.store.write(|tx| {
        require_active(server, tx, &user)?;
        accounts::update(tx, &user, |account| account.admin = req.body.admin)
    })?;
    ok(json!({}))
}

/// `POST /_synapse/admin/v1/users/{user_id}/login`: an access token with which an administrator acts as the user. It has a
/// device of its own, which the user sees among the others.
pub async fn log_in_as(server: &Server, admin: Administrator, req: LogInAs) -> Result<Reply> {
    let user = req.path.0;
    if user == admin.0 {
        return Err(Error::bad_request(ErrorKind::Unknown, "You are logged in already."));
    }
    let valid_for = req.body.valid_until_ms.map(|until| until.saturating_sub(clock::now_ms()));
    let lifetimes = valid_for.map(|ms| Lifetimes { access: std::time::Duration::from_millis(ms), refresh: None });
    let login = Login { display_name: Some(format!("Administrator {}", admin.0)), lifetimes, ..Login::default() };
    let (_, issued) = server.store.write(|tx| {
        require_active(server, tx, &user)?;
        devices::log_in(tx, &user, &login)
    })?;
    tracing::warn!("the administrator {} logs in as {user}", admin.0);
    ok(json!({ "access_token": issued.access }))
}
