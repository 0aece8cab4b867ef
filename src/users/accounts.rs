//! Accounts: which user names there can be, who has which, and what making and ending one means.
//!
//! Names given out follow the grammar of user IDs (spec: appendices, "User Identifiers"); those of earlier times, with
//! capitals for example, stay usable for logging in. A name is never given out twice, not even after deactivation.

use ruma::{
    DeviceId, OwnedRoomAliasId, OwnedRoomOrAliasId, OwnedUserId, RoomAliasId, ServerName, UserId, api::error::ErrorKind,
};
use serde_json::json;

use super::{account_data, cross_signing, devices, key_backup, login_tokens, profiles};
use crate::{
    appservice::{Appservices, Registration},
    clock,
    config::Config,
    error::{Error, Result},
    store::{
        Read, Tx,
        records::{Account, ProviderIdentity, Welcome},
        trees::{
            ACCOUNTS, DEACTIVATED_USERS, ERASED_USERS, ERASURES, FILTERS, LOGIN_TOKENS, OPENID_TOKENS, PASSWORD_RESETS,
            PROFILE_UPDATES, PROFILES, PROVIDER_IDENTITIES, THREEPIDS, WELCOMES,
        },
    },
};

/// The account that speaks for the server in the administration room, and that the option `emergency_password` opens;
/// nobody can register it.
pub const EMERGENCY_USER: &str = "conduit";

/// The user that speaks for the server: [`EMERGENCY_USER`].
///
/// # Errors
/// When the server's name is such that it makes no user ID, which does not happen.
pub fn server_user(server: &ServerName) -> Result<OwnedUserId> {
    UserId::parse_with_server_name(EMERGENCY_USER, server).map_err(Error::internal)
}

/// Makes the account of a user that speaks for the server, if it is not there.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn ensure_server_user(tx: &mut Tx<'_>, user: &UserId, display_name: &str) -> Result<()> {
    if ACCOUNTS.contains(tx, user)? {
        return Ok(());
    }
    create(tx, user, &Account { created_ts: clock::now_ms(), ..Account::default() }, Some(display_name))
}

/// Notes that a new user is to be brought into the rooms that the configuration names, and into `more`
/// (`federation/welcome.rs`).
///
/// # Errors
/// When the server's name is such that it makes no user ID, which does not happen.
pub fn welcome(tx: &mut Tx<'_>, config: &Config, user: &UserId, more: Vec<OwnedRoomOrAliasId>) -> Result<()> {
    let support = config.support_room.then(|| support_alias(&config.server_name).map(Into::into)).flatten();
    let rooms: Vec<_> = config.auto_join_rooms.iter().cloned().chain(support).chain(more).collect();
    if !rooms.is_empty() {
        WELCOMES.put(tx, user, &Welcome { rooms, ..Welcome::default() });
        tx.wake(&server_user(user.server_name())?);
    }
    Ok(())
}

/// The alias of the room for questions to the administrators.
pub fn support_alias(server: &ServerName) -> Option<OwnedRoomAliasId> {
    RoomAliasId::parse(format!("#support:{server}")).ok()
}

/// The user ID that an account called `name` would have; `name` is a localpart, or a whole user ID of this server.
/// Capitals become small letters.
///
/// # Errors
/// 400 `M_INVALID_USERNAME`; those of [`check_person`].
pub fn parse_new(config: &Config, appservices: &Appservices, name: &str) -> Result<OwnedUserId> {
    let server = &*config.server_name;
    let invalid = |message: &str| Error::bad_request(ErrorKind::InvalidUsername, message);
    let lower = name.to_ascii_lowercase();
    let localpart = match lower.strip_prefix('@') {
        None => lower.as_str(),
        Some(id) => id
            .split_once(':')
            .filter(|(_, given)| *given == server.as_str())
            .map(|(localpart, _)| localpart)
            .ok_or_else(|| invalid("This user ID belongs to another server."))?,
    };
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
    if localpart.is_empty() || !localpart.bytes().all(allowed) {
        return Err(invalid("A user name consists of letters a to z, digits, and the characters . _ = - / +"));
    }
    let user = UserId::parse_with_server_name(localpart, server).map_err(|_| invalid("This is no user name."))?;
    user.validate_strict().map_err(|_| invalid("This user name is too long."))?;
    check_person(config, appservices, &user)?;
    if localpart.starts_with('_') {
        return Err(invalid("A user name must not begin with an underscore."));
    }
    Ok(user)
}

/// Checks that `user` can be a person: neither the server's own user or the one that its notices come from, nor an
/// application service's.
///
/// # Errors
/// 400 `M_EXCLUSIVE`.
pub fn check_person(config: &Config, appservices: &Appservices, user: &UserId) -> Result<()> {
    appservices.check_user(user, None)?;
    check_not_ours(user)?;
    if user.localpart() == config.server_notices.user { Err(reserved()) } else { Ok(()) }
}

/// The user ID that an account of an application service called `name` would have; `name` is a localpart, or a whole user
/// ID of this server. It is taken as it is spelled.
///
/// # Errors
/// 400 `M_INVALID_USERNAME`; `M_EXCLUSIVE` for names outside of its namespaces.
pub fn parse_ghost(appservices: &Appservices, service: &Registration, name: &str) -> Result<OwnedUserId> {
    let user = UserId::parse_with_server_name(name, service.sender.server_name());
    let user = user.ok().filter(|user| user.validate_historical().is_ok());
    let user = user.ok_or_else(|| Error::bad_request(ErrorKind::InvalidUsername, "This is no user name."))?;
    appservices.check_user(&user, Some(service))?;
    check_not_ours(&user)?;
    Ok(user)
}

/// Makes the account of a user of an application service, which has no password. The name that others see is up to the
/// application service.
///
/// # Errors
/// 400 `M_USER_IN_USE`.
pub fn create_ghost(tx: &mut Tx<'_>, user: &UserId) -> Result<()> {
    create(tx, user, &Account { created_ts: clock::now_ms(), ..Account::default() }, None)
}

fn check_not_ours(user: &UserId) -> Result<()> {
    if user.localpart() == EMERGENCY_USER { Err(reserved()) } else { Ok(()) }
}

fn reserved() -> Error {
    Error::bad_request(ErrorKind::Exclusive, "This name is reserved for the server.")
}

/// Checks that the name is not taken.
///
/// # Errors
/// 400 `M_USER_IN_USE`.
pub fn require_free(read: &dyn Read, user: &UserId) -> Result<()> {
    if ACCOUNTS.contains(read, user)? {
        return Err(Error::bad_request(ErrorKind::UserInUse, "This user name is taken."));
    }
    Ok(())
}

/// A name for someone who does not choose one.
///
/// # Errors
/// When the source of randomness fails.
pub fn random_name(server: &ServerName) -> Result<OwnedUserId> {
    let name = clock::random_string(12)?.to_ascii_lowercase();
    UserId::parse_with_server_name(name, server).map_err(Error::internal)
}

/// The account that someone who logs in as `name` means: a localpart or a whole user ID, as it is spelled or in small
/// letters.
///
/// # Errors
/// When the database fails.
pub fn find(read: &dyn Read, server: &ServerName, name: &str) -> Result<Option<(OwnedUserId, Account)>> {
    for spelling in [name.to_owned(), name.to_ascii_lowercase()] {
        let Ok(user) = UserId::parse_with_server_name(spelling.as_str(), server) else { continue };
        if user.server_name() == server
            && let Some(account) = ACCOUNTS.get(read, &user)?
        {
            return Ok(Some((user, account)));
        }
    }
    Ok(None)
}

/// The account that an identity at a provider opens.
///
/// # Errors
/// When the database fails.
pub fn find_by_identity(read: &dyn Read, identity: &ProviderIdentity) -> Result<Option<(OwnedUserId, Account)>> {
    let Some(user) = PROVIDER_IDENTITIES.get(read, (&identity.issuer, &identity.subject))? else { return Ok(None) };
    Ok(ACCOUNTS.get(read, &user)?.map(|account| (user, account)))
}

/// Lets whoever has this identity at a provider into the account.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it opens another account; 404 `M_NOT_FOUND`.
pub fn add_identity(tx: &mut Tx<'_>, user: &UserId, identity: ProviderIdentity) -> Result<()> {
    let owner = PROVIDER_IDENTITIES.get(tx, (&identity.issuer, &identity.subject))?;
    if owner.is_some_and(|owner| owner != user) {
        return Err(Error::invalid_param("This identity opens another account already."));
    }
    PROVIDER_IDENTITIES.put(tx, (&identity.issuer, &identity.subject), &user.to_owned());
    update(tx, user, |account| {
        if !account.identities.contains(&identity) {
            account.identities.push(identity);
        }
    })
}

/// Takes all identities at providers from the account; gives how many there were.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn remove_identities(tx: &mut Tx<'_>, user: &UserId) -> Result<usize> {
    let identities = require(tx, user)?.identities;
    for identity in &identities {
        PROVIDER_IDENTITIES.delete(tx, (&identity.issuer, &identity.subject));
    }
    update(tx, user, |account| account.identities.clear())?;
    Ok(identities.len())
}

/// Lets exactly these identities at providers into the account.
///
/// # Errors
/// As [`add_identity`].
pub fn set_identities(tx: &mut Tx<'_>, user: &UserId, identities: Vec<ProviderIdentity>) -> Result<()> {
    remove_identities(tx, user)?;
    identities.into_iter().try_for_each(|identity| add_identity(tx, user, identity))
}

/// The account of `user`.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn require(read: &dyn Read, user: &UserId) -> Result<Account> {
    ACCOUNTS.get(read, user)?.ok_or_else(|| Error::not_found("There is no such user here."))
}

/// Whether an administrator suspended the account of `user`.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn is_suspended(read: &dyn Read, user: &UserId) -> Result<bool> {
    Ok(ACCOUNTS.get(read, user)?.is_some_and(|account| account.suspended))
}

/// The display name that a new account begins with.
pub fn initial_display_name(config: &Config, user: &UserId) -> String {
    let bolt = if config.enable_lightning_bolt { " ⚡️" } else { "" };
    format!("{}{bolt}", user.localpart())
}

/// Makes an account, with a profile in which the display name is `display_name`.
///
/// # Errors
/// 400 `M_USER_IN_USE`.
pub fn create(tx: &mut Tx<'_>, user: &UserId, account: &Account, display_name: Option<&str>) -> Result<()> {
    require_free(tx, user)?;
    put(tx, user, account)?;
    if let Some(name) = display_name {
        profiles::set(tx, user, "displayname", Some(json!(name)))?;
    }
    Ok(())
}

/// Changes the account of `user`.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn update(tx: &mut Tx<'_>, user: &UserId, change: impl FnOnce(&mut Account)) -> Result<()> {
    let mut account = require(tx, user)?;
    change(&mut account);
    put(tx, user, &account)
}

/// Whether the user may replace cross-signing keys without authenticating once more, as an administrator said.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn may_replace_keys(read: &dyn Read, user: &UserId) -> Result<bool> {
    Ok(require(read, user)?.keys_replaceable_until.is_some_and(|until| until > clock::now_ms()))
}

/// Gives an account another password, of which this is the hash; links that would set one are void. If `log_out`, its devices
/// are logged out, but for the one given.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn set_password(
    tx: &mut Tx<'_>,
    user: &UserId,
    hash: String,
    log_out: bool,
    except: Option<&DeviceId>,
) -> Result<()> {
    update(tx, user, |account| account.password_hash = Some(hash))?;
    login_tokens::delete_all(tx, &PASSWORD_RESETS, user)?;
    if log_out { devices::delete_all(tx, user, except) } else { Ok(()) }
}

/// Writes the account. An administrator is to be invited into the administration room.
fn put(tx: &mut Tx<'_>, user: &UserId, account: &Account) -> Result<()> {
    ACCOUNTS.put(tx, user, account);
    if account.admin {
        tx.wake(&server_user(user.server_name())?);
    }
    Ok(())
}

/// Ends an account for good: no password, no devices, nothing that the user kept here. `erase` notes that the user
/// wants to be forgotten: who was not there sees none of their messages any more (`rooms/visibility.rs`), and their files go
/// (`media/removal.rs`). Queues the user to leave their rooms (`federation/chores.rs`).
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn deactivate(tx: &mut Tx<'_>, user: &UserId, erase: bool) -> Result<()> {
    for threepid in require(tx, user)?.threepids {
        THREEPIDS.delete(tx, (&threepid.medium, &threepid.address));
    }
    remove_identities(tx, user)?;
    update(tx, user, |account| {
        account.password_hash = None;
        account.deactivated = true;
        account.admin = false;
        account.threepids.clear();
        account.bindings.clear();
    })?;
    devices::delete_all(tx, user, None)?;
    cross_signing::forget(tx, user)?;
    key_backup::forget(tx, user)?;
    PROFILES.delete(tx, user);
    PROFILE_UPDATES.delete(tx, user);
    account_data::delete_all(tx, user)?;
    FILTERS.delete_all(tx, (user,))?;
    DEACTIVATED_USERS.put(tx, user, &());
    WELCOMES.delete(tx, user);
    if erase {
        ERASED_USERS.put(tx, user, &());
        ERASURES.put(tx, user, &());
    }
    login_tokens::delete_all(tx, &LOGIN_TOKENS, user)?;
    login_tokens::delete_all(tx, &PASSWORD_RESETS, user)?;
    login_tokens::delete_all(tx, &OPENID_TOKENS, user)
}
