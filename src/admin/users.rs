//! `users`: accounts and their devices.

use std::time::Duration;

use ruma::{OwnedDeviceId, OwnedRoomOrAliasId, OwnedUserId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answer;
use crate::{
    clock,
    error::{Error, Result},
    federation::{deactivation, join, leave},
    rooms::{
        self, members,
        server_notices::{self, Notice},
        summary,
    },
    server::Server,
    store::{
        Direction, Read,
        records::{Account, Device, ProviderIdentity},
        trees::ACCOUNTS,
    },
    users::{accounts, devices, password_resets, passwords},
};

/// The length of passwords that are made up.
const PASSWORD_LENGTH: usize = 16;

/// What can be done with accounts. A user is a name such as `alice`, or a whole ID.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List all accounts
    List {
        /// Those that were deactivated as well
        #[arg(long)]
        deactivated: bool,
    },
    /// Show an account with its devices and rooms
    Show { user: String },
    /// Make an account
    Create {
        user: String,
        /// Its password; without this, one is made up and shown
        #[arg(long)]
        password: Option<String>,
        /// Make it an administrator
        #[arg(long)]
        admin: bool,
    },
    /// Give an account a new password and log its devices out
    ResetPassword {
        user: String,
        /// The password; without this, one is made up and shown
        #[arg(long)]
        password: Option<String>,
        /// Leave its devices logged in
        #[arg(long)]
        keep_devices: bool,
    },
    /// Make a link with which a user sets a new password, once
    ResetLink {
        user: String,
        /// In how many hours it expires
        #[arg(long, default_value_t = 24)]
        hours: u16,
    },
    /// Make an account an administrator
    MakeAdmin { user: String },
    /// Make an administrator an ordinary user
    RemoveAdmin { user: String },
    /// Lock an account: nothing works until it is unlocked
    Lock { user: String },
    /// Unlock an account
    Unlock { user: String },
    /// Suspend an account: it can read, but not write
    Suspend { user: String },
    /// End the suspension of an account
    Unsuspend { user: String },
    /// List the devices of an account
    Devices { user: String },
    /// List the rooms that an account is in
    Rooms { user: String },
    /// Bring an account into a room; the room must let it in
    Join { user: String, room: OwnedRoomOrAliasId },
    /// Take an account out of a room, or decline an invitation for it
    Leave { user: String, room: OwnedRoomOrAliasId },
    /// Log a device out, or all
    LogOut {
        user: String,
        /// The device; without this, all of them
        #[arg(long)]
        device: Option<OwnedDeviceId>,
    },
    /// Let somebody whom the identity provider knows into an account
    Link {
        user: String,
        /// The provider's own name for them: what it calls `sub`
        subject: String,
    },
    /// Let nobody into an account any more by the identity provider
    Unlink { user: String },
    /// Write to a user in the name of the server, in a room of its own
    Notify { user: String, message: String },
    /// End an account for good: it leaves its rooms, and its name is never given out again
    Deactivate {
        user: String,
        /// Hide its messages from those who join its rooms later
        #[arg(long)]
        erase: bool,
    },
}

pub(super) async fn run(server: &Server, command: Command) -> Result<Answer> {
    match command {
        Command::List { deactivated } => list(&server.store.read(), deactivated),
        Command::Show { user } => show(server, &user),
        Command::Create { user, password, admin } => create(server, &user, password, admin).await,
        Command::ResetPassword { user, password, keep_devices } => {
            reset_password(server, &user, password, keep_devices).await
        }
        Command::ResetLink { user, hours } => reset_link(server, &user, hours),
        Command::MakeAdmin { user } => change(server, &user, "is an administrator now", |account| account.admin = true),
        Command::RemoveAdmin { user } => {
            change(server, &user, "is an ordinary user now", |account| account.admin = false)
        }
        Command::Lock { user } => change(server, &user, "is locked", |account| account.locked = true),
        Command::Unlock { user } => change(server, &user, "is not locked any more", |account| account.locked = false),
        Command::Suspend { user } => change(server, &user, "is suspended", |account| account.suspended = true),
        Command::Unsuspend { user } => {
            change(server, &user, "is not suspended any more", |account| account.suspended = false)
        }
        Command::Devices { user } => list_devices(server, &user),
        Command::Rooms { user } => list_rooms(server, &user),
        Command::Join { user, room } => join(server, &user, &room).await,
        Command::Leave { user, room } => leave(server, &user, &room).await,
        Command::LogOut { user, device } => log_out(server, &user, device),
        Command::Link { user, subject } => link(server, &user, subject),
        Command::Unlink { user } => unlink(server, &user),
        Command::Notify { user, message } => notify(server, &user, &message).await,
        Command::Deactivate { user, erase } => deactivate(server, &user, erase).await,
    }
}

/// The account that a name means, one that is in use.
fn find(read: &dyn Read, server: &Server, name: &str) -> Result<(OwnedUserId, Account)> {
    let (user, account) = find_any(read, server, name)?;
    if account.deactivated {
        return Err(Error::not_found(format!("The account {user} was deactivated.")));
    }
    Ok((user, account))
}

/// [`find`], also one that was deactivated.
pub(super) fn find_any(read: &dyn Read, server: &Server, name: &str) -> Result<(OwnedUserId, Account)> {
    let name = name.trim_start_matches('@').trim_end_matches(&format!(":{}", server.name())).to_owned();
    accounts::find(read, server.name(), &name)?
        .ok_or_else(|| Error::not_found(format!("There is no account called {name} here.")))
}

/// What an account is besides a user.
fn state(account: &Account) -> Value {
    let states = [
        (account.admin, "administrator"),
        (account.guest, "guest"),
        (account.locked, "locked"),
        (account.suspended, "suspended"),
        (account.deactivated, "deactivated"),
    ];
    states.into_iter().filter_map(|(is, name)| is.then_some(name)).collect()
}

fn list(read: &dyn Read, deactivated: bool) -> Result<Answer> {
    let mut rows = Vec::new();
    for row in ACCOUNTS.scan(read, (), Direction::Forward) {
        let (user, account) = row?;
        if account.deactivated && !deactivated {
            continue;
        }
        let all: Vec<Device> = devices::all(read, &user).map(|row| row.map(|row| row.1)).collect::<Result<_>>()?;
        let last_seen = all.iter().filter_map(|device| device.last_seen_ts).max();
        rows.push(vec![json!(user), state(&account), json!(all.len()), date(last_seen)]);
    }
    Ok(Answer::Table(vec!["user", "state", "devices", "last_seen"], rows))
}

/// A time in milliseconds since the Unix epoch, as people read it.
pub(super) fn date(ms: Option<u64>) -> Value {
    ms.map_or(Value::Null, |ms| json!(clock::date(ms)))
}

fn show(server: &Server, name: &str) -> Result<Answer> {
    let read = server.store.read();
    let (user, account) = find(&read, server, name)?;
    let mut logins = Vec::new();
    for row in devices::all(&read, &user) {
        let (id, device) = row?;
        let name = device.display_name.unwrap_or_default();
        let ip = device.last_seen_ip.unwrap_or_default();
        logins.push(format!("{id} ({name}, {ip})"));
    }
    let mut joined = Vec::new();
    for row in members::rooms_of(&read, &user) {
        let (room, own) = row?;
        if own.membership == MembershipState::Join {
            joined.push(rooms::get(&read, room)?.id);
        }
    }
    Ok(Answer::Fields(vec![
        ("user", json!(user)),
        ("state", state(&account)),
        ("registered", date(Some(account.created_ts))),
        ("password", json!(account.password_hash.is_some())),
        ("addresses", account.threepids.iter().map(|threepid| threepid.address.as_str()).collect()),
        ("devices", json!(logins)),
        ("rooms", json!(joined)),
    ]))
}

fn list_devices(server: &Server, name: &str) -> Result<Answer> {
    let read = server.store.read();
    let (user, _) = find(&read, server, name)?;
    let mut rows = Vec::new();
    for row in devices::all(&read, &user) {
        let (id, device) = row?;
        let (created, seen) = (date(Some(device.created_ts)), date(device.last_seen_ts));
        rows.push(vec![json!(id), json!(device.display_name), created, seen, json!(device.last_seen_ip)]);
    }
    Ok(Answer::Table(vec!["device", "name", "since", "last_seen", "address"], rows))
}

fn list_rooms(server: &Server, name: &str) -> Result<Answer> {
    let read = server.store.read();
    let (user, _) = find(&read, server, name)?;
    let mut rows = Vec::new();
    for row in members::rooms_of(&read, &user) {
        let (no, own) = row?;
        if own.forgotten {
            continue;
        }
        let room = rooms::get(&read, no)?;
        let name = summary::of(&read, no, &room)?.name;
        rows.push(vec![json!(room.id), json!(name), json!(own.membership), json!(room.joined)]);
    }
    Ok(Answer::Table(vec!["room", "name", "membership", "members"], rows))
}

async fn join(server: &Server, name: &str, room: &OwnedRoomOrAliasId) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    let room = join::join_by_name(&server.federation, room, &user).await?;
    Ok(Answer::Sentence(format!("{user} is in {room}.")))
}

async fn leave(server: &Server, name: &str, room: &OwnedRoomOrAliasId) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    let room = rooms::by_name(&server.store.read(), room)?.1.id;
    leave::leave(&server.federation, &room, &user, None).await?;
    Ok(Answer::Sentence(format!("{user} is not in {room} any more.")))
}

/// The given password or a new one; the sentence that tells a new one.
fn or_made_up(server: &Server, password: Option<String>) -> Result<(String, String)> {
    match password {
        Some(password) => {
            passwords::check_new(&password, server.config().password_min_length)?;
            Ok((password, String::new()))
        }
        None => {
            let password = clock::random_string(PASSWORD_LENGTH)?;
            let sentence = format!(" The password is {password}");
            Ok((password, sentence))
        }
    }
}

async fn create(server: &Server, name: &str, password: Option<String>, admin: bool) -> Result<Answer> {
    let user = accounts::parse_new(&server.config(), &server.appservices, name)?;
    accounts::require_free(&server.store.read(), &user)?;
    let (password, told) = or_made_up(server, password)?;
    let account = Account {
        password_hash: Some(server.passwords.hash(password).await?),
        admin,
        created_ts: clock::now_ms(),
        ..Account::default()
    };
    let display_name = accounts::initial_display_name(&server.config(), &user);
    server.store.write(|tx| {
        accounts::create(tx, &user, &account, Some(&display_name))?;
        accounts::welcome(tx, &server.config(), &user, Vec::new())
    })?;
    Ok(Answer::Sentence(format!("{user} is registered.{told}")))
}

async fn reset_password(server: &Server, name: &str, password: Option<String>, keep_devices: bool) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    let (password, told) = or_made_up(server, password)?;
    let hash = server.passwords.hash(password).await?;
    server.store.write(|tx| accounts::set_password(tx, &user, hash, !keep_devices, None))?;
    Ok(Answer::Sentence(format!("{user} has a new password.{told}")))
}

fn reset_link(server: &Server, name: &str, hours: u16) -> Result<Answer> {
    let ttl = Duration::from_secs(60 * 60 * u64::from(hours));
    let (user, link) = server.store.write(|tx| {
        let (user, _) = find(tx, server, name)?;
        let link = password_resets::issue(tx, &user, ttl, &server.homeserver_url())?;
        Ok((user, link))
    })?;
    Ok(Answer::Sentence(format!(
        "Whoever opens this link within {hours} hours sets a new password for {user}, once: {link}"
    )))
}

fn change(server: &Server, name: &str, outcome: &str, change: impl FnOnce(&mut Account)) -> Result<Answer> {
    let user = server.store.write(|tx| {
        let (user, _) = find(tx, server, name)?;
        accounts::update(tx, &user, change)?;
        tx.wake(&user);
        Ok(user)
    })?;
    Ok(Answer::Sentence(format!("{user} {outcome}.")))
}

fn log_out(server: &Server, name: &str, device: Option<OwnedDeviceId>) -> Result<Answer> {
    let user = server.store.write(|tx| {
        let (user, _) = find(tx, server, name)?;
        match &device {
            None => devices::delete_all(tx, &user, None)?,
            Some(device) => {
                devices::require(tx, &user, device)?;
                devices::delete(tx, &user, device)?;
            }
        }
        Ok(user)
    })?;
    let which = device.map_or("on all devices".to_owned(), |device| format!("on {device}"));
    Ok(Answer::Sentence(format!("{user} is logged out {which}.")))
}

fn link(server: &Server, name: &str, subject: String) -> Result<Answer> {
    let issuer = server.sso.issuer().ok_or_else(|| Error::not_found("No identity provider is configured (sso)."))?;
    let (user, _) = find(&server.store.read(), server, name)?;
    let identity = ProviderIdentity { issuer, subject };
    server.store.write(|tx| accounts::add_identity(tx, &user, identity.clone()))?;
    Ok(Answer::Sentence(format!("{} of {} can log in as {user} now.", identity.subject, identity.issuer)))
}

fn unlink(server: &Server, name: &str) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    server.store.write(|tx| accounts::remove_identities(tx, &user))?;
    Ok(Answer::Sentence(format!("Nobody can log in as {user} by the identity provider any more.")))
}

async fn notify(server: &Server, name: &str, message: &str) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    let content = json!({ "msgtype": "m.text", "body": message });
    let content = content.as_object().cloned().unwrap_or_default();
    let notice = Notice { kind: "m.room.message", state_key: None, content: &content };
    let config = server.config();
    let version = &config.default_room_version;
    server_notices::send(&server.rooms, &config.server_notices, version, &user, &notice, |_, _| Ok(())).await?;
    Ok(Answer::Sentence(format!("{user} is told.")))
}

async fn deactivate(server: &Server, name: &str, erase: bool) -> Result<Answer> {
    let (user, _) = find(&server.store.read(), server, name)?;
    let ended = deactivation::deactivate(&server.federation, &user, erase).await?;
    let rooms = if ended.left_all { "It left its rooms." } else { "It is leaving its rooms." };
    let bound = if ended.unbound_all { "" } else { " An identity server may still know its addresses." };
    Ok(Answer::Sentence(format!("{user} is deactivated. {rooms}{bound}")))
}
