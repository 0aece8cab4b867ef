//! Pushers: where a user wants to be told of notifications (spec: client-server API, "Push Notifications").
//!
//! A pusher belongs to the device that set it and goes with it. `PUSHKEYS` finds the users who share an `app_id` and
//! `pushkey`, as people do who share a phone. What waits for a pusher's gateway is kept here as well; `delivery/gateways.rs`
//! sends it.

use ruma::{
    DeviceId, OwnedUserId, UserId,
    api::client::push::{Pusher, PusherIds, PusherKind},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    config::Secret,
    error::{Error, Result},
    ids::Position,
    signing::SigningKeys,
    store::{
        Direction, Read, Tx,
        records::{self, Push, PusherState},
        trees::{PUSHER_STATES, PUSHERS, PUSHES, PUSHKEYS, THREEPIDS},
    },
};

/// How many pushers a user can have.
const MAX_PUSHERS: usize = 200;

/// How many notifications wait for a pusher's gateway at most.
const MAX_WAITING: u64 = 200;

/// The `app_id` of pushers that send mails.
pub const EMAIL_APP: &str = "m.email";

/// Where the page is on which a user ends mails. Below `/_matrix`, which every reverse proxy passes on.
pub const UNSUBSCRIBE_PAGE: &str = "/_matrix/conduit/unsubscribe";

/// What a link to end mails says.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsubscribe {
    /// The user.
    pub user: String,
    /// The address that mails go to.
    pub address: String,
    /// What shows that the link is one of this server's.
    pub token: String,
}

/// The link that ends the mails to `address` for `user`, at a server that is reached at `base`. It works for nothing else,
/// and as long as the server signs with the same key, so that it does in old mails too.
///
/// # Errors
/// When the link cannot be written, which does not happen.
pub fn unsubscribe_link(keys: &SigningKeys, base: &str, user: &UserId, address: &str) -> Result<String> {
    let link = Unsubscribe {
        user: user.to_string(),
        address: address.to_owned(),
        token: unsubscribe_token(keys, user.as_str(), address),
    };
    let query = serde_html_form::to_string(link).map_err(Error::internal)?;
    Ok(format!("{base}{UNSUBSCRIBE_PAGE}?{query}"))
}

/// Whose pusher a link ends, and which.
///
/// # Errors
/// 403 `M_FORBIDDEN` when it is not one of this server's.
pub fn unsubscribed(keys: &SigningKeys, link: &Unsubscribe) -> Result<(OwnedUserId, PusherIds)> {
    let right = Secret::new(unsubscribe_token(keys, &link.user, &link.address)).matches(&link.token);
    let user = UserId::parse(&*link.user).ok().filter(|_| right);
    let user = user.ok_or_else(|| Error::forbidden("This link is not whole. Take it from the mail once more."))?;
    Ok((user, PusherIds::new(link.address.clone(), EMAIL_APP.to_owned())))
}

/// A signature of a text that is no JSON, and so nothing that other servers would take for a word of this one.
fn unsubscribe_token(keys: &SigningKeys, user: &str, address: &str) -> String {
    keys.sign(format!("unsubscribe {user} {address}").as_bytes())
}

/// Sets a pusher of a device; a `disabled` one is told nothing. Unless `append`, no other user keeps one with the same
/// `app_id` and `pushkey`. Who switches another device's pusher on or off and changes nothing else about it
/// ([MSC3881](https://github.com/matrix-org/matrix-spec-proposals/pull/3881), a proposal) leaves it with that device.
///
/// # Errors
/// 400 `M_INVALID_PARAM`; 403 `M_USER_LIMIT_EXCEEDED`.
pub fn set(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    pusher: &Pusher,
    append: bool,
    disabled: bool,
) -> Result<()> {
    check(tx, user, pusher)?;
    let ids = &pusher.ids;
    let content = serde_json::to_value(pusher)?;
    let earlier = PUSHERS.get(tx, (user, &ids.app_id, &ids.pushkey))?;
    let is_new = earlier.is_none();
    let switched = earlier.filter(|row| row.disabled != disabled && row.pusher == content);
    let device = switched.map_or_else(|| device.to_owned(), |row| row.device);
    if !append {
        for other in users_with(tx, ids)?.iter().filter(|other| *other != user) {
            delete(tx, other, ids)?;
        }
    }
    if is_new && PUSHERS.scan(tx, (user,), Direction::Forward).take(MAX_PUSHERS).count() == MAX_PUSHERS {
        return Err(Error::user_limit(user, "You have too many pushers. Delete one first."));
    }
    let row = records::Pusher { device, pusher: content, created_ts: clock::now_ms(), disabled };
    PUSHERS.put(tx, (user, &ids.app_id, &ids.pushkey), &row);
    PUSHKEYS.put(tx, (&ids.app_id, &ids.pushkey, user), &());
    if disabled { forget_waiting(tx, user, ids) } else { Ok(()) }
}

/// What the specification asks of a pusher and ruma's types do not.
fn check(read: &dyn Read, user: &UserId, pusher: &Pusher) -> Result<()> {
    if pusher.ids.app_id.chars().count() > 64 {
        return Err(Error::invalid_param("app_id must not be longer than 64 characters."));
    }
    if pusher.ids.pushkey.len() > 512 {
        return Err(Error::invalid_param("pushkey must not be longer than 512 bytes."));
    }
    match &pusher.kind {
        PusherKind::Http(data) => {
            let url: http::Uri = data.url.parse().map_err(|_| Error::invalid_param("data.url is no URL."))?;
            let web = matches!(url.scheme_str(), Some("https" | "http"));
            if !web || url.path() != "/_matrix/push/v1/notify" {
                return Err(Error::invalid_param(
                    "data.url must be an https URL with the path /_matrix/push/v1/notify.",
                ));
            }
            Ok(())
        }
        PusherKind::Email(_) if pusher.ids.app_id != EMAIL_APP => {
            Err(Error::invalid_param("app_id must be \"m.email\" for mails."))
        }
        PusherKind::Email(_) => {
            if THREEPIDS.get(read, ("email", &pusher.ids.pushkey))?.is_some_and(|owner| owner == user) {
                Ok(())
            } else {
                Err(Error::invalid_param("pushkey must be an e-mail address of your account."))
            }
        }
        _ => Err(Error::invalid_param("kind must be \"http\" or \"email\".")),
    }
}

fn users_with(read: &dyn Read, ids: &PusherIds) -> Result<Vec<OwnedUserId>> {
    PUSHKEYS
        .scan(read, (&ids.app_id, &ids.pushkey), Direction::Forward)
        .map(|row| row.map(|((_, _, user), ())| user))
        .collect()
}

/// Removes a pusher, if there is such a one, with what waits for it.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    PUSHERS.delete(tx, key);
    PUSHKEYS.delete(tx, (&ids.app_id, &ids.pushkey, user));
    forget_waiting(tx, user, ids)
}

fn forget_waiting(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    PUSHER_STATES.delete(tx, key);
    PUSHES.delete_all(tx, key)
}

/// Removes the pushers of a device that goes.
///
/// # Errors
/// When the database fails.
pub fn delete_of_device(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    let mut gone = Vec::new();
    for row in PUSHERS.scan(tx, (user,), Direction::Forward) {
        let ((_, app_id, pushkey), row) = row?;
        if row.device == device {
            gone.push(PusherIds::new(pushkey, app_id));
        }
    }
    gone.iter().try_for_each(|ids| delete(tx, user, ids))
}

/// Has a pusher's gateway told of an event at `position`. At most [`MAX_WAITING`] wait; then the oldest go.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions below.
pub fn notify(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds, position: Position, push: &Push) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    let mut state = PUSHER_STATES.get(tx, key)?.unwrap_or_default();
    if state.waiting < MAX_WAITING {
        state.waiting += 1;
    } else {
        let oldest = PUSHES.scan(tx, key, Direction::Forward).next().transpose()?;
        oldest.into_iter().for_each(|(oldest, _)| PUSHES.delete(tx, oldest));
    }
    PUSHES.put(tx, (user, &ids.app_id, &ids.pushkey, position), push);
    PUSHER_STATES.put(tx, key, &state);
    Ok(())
}

/// Has a pusher's gateway told the unread count, which may have changed at `position`. One that was never told anything
/// need not know it.
///
/// # Errors
/// As [`notify`].
pub fn recount(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds, position: Position) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    if let Some(state) = PUSHER_STATES.get(tx, key)? {
        PUSHER_STATES.put(tx, key, &PusherState { recount: Some(position), ..state });
    }
    Ok(())
}

/// Notes that a pusher's gateway knows the unread count as it was at `at`.
///
/// # Errors
/// As [`notify`].
pub fn recounted(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds, at: Position) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    if let Some(state) = PUSHER_STATES.get(tx, key)?.filter(|state| state.recount.is_some_and(|changed| changed <= at))
    {
        PUSHER_STATES.put(tx, key, &PusherState { recount: None, ..state });
    }
    Ok(())
}

/// Notes that a pusher's gateway was told of the event at `event` (if of any), and of the unread count as it was at
/// `counted_at` (if of that).
///
/// # Errors
/// As [`notify`].
pub fn told(
    tx: &mut Tx<'_>,
    user: &UserId,
    ids: &PusherIds,
    event: Option<Position>,
    count: Option<(u64, Position)>,
) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    let Some(mut state) = PUSHER_STATES.get(tx, key)? else { return Ok(()) }; // the pusher is gone
    if let Some(position) = event {
        let row = (user, &ids.app_id, &ids.pushkey, position);
        if PUSHES.contains(tx, row)? {
            PUSHES.delete(tx, row);
            state.waiting = state.waiting.saturating_sub(1);
        }
    }
    if let Some((count, at)) = count {
        state.told = count;
        state.recount = state.recount.filter(|changed| *changed > at);
    }
    PUSHER_STATES.put(tx, key, &state);
    Ok(())
}

/// Notes that a mail was sent for a pusher.
///
/// # Errors
/// As [`notify`].
pub fn mailed(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds, now: u64) -> Result<()> {
    let key = (user, &ids.app_id, &ids.pushkey);
    if let Some(state) = PUSHER_STATES.get(tx, key)? {
        PUSHER_STATES.put(tx, key, &PusherState { mailed_ts: Some(now), ..state });
    }
    Ok(())
}

/// The pushers of `user`.
pub fn all<'a>(read: &'a dyn Read, user: &'a UserId) -> impl Iterator<Item = Result<records::Pusher>> + 'a {
    PUSHERS.scan(read, (user,), Direction::Forward).map(|row| row.map(|(_, pusher)| pusher))
}
