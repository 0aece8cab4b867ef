//! Pushers: where a user wants to be told of notifications (spec: client-server API, "Push Notifications").
//!
//! A pusher belongs to the device that set it and goes with it. `PUSHKEYS` finds the users who share an `app_id` and
//! `pushkey`, as people do who share a phone.

use ruma::{
    DeviceId, OwnedUserId, UserId,
    api::client::push::{Pusher, PusherIds, PusherKind},
};

use crate::{
    clock,
    error::{Error, Result},
    store::{
        Direction, Read, Tx, records,
        trees::{PUSHERS, PUSHKEYS},
    },
};

/// How many pushers a user can have.
const MAX_PUSHERS: usize = 200;

/// Sets a pusher of a device. Unless `append`, no other user keeps one with the same `app_id` and `pushkey`.
///
/// # Errors
/// 400 `M_INVALID_PARAM`.
pub fn set(tx: &mut Tx<'_>, user: &UserId, device: &DeviceId, pusher: &Pusher, append: bool) -> Result<()> {
    check(pusher)?;
    let ids = &pusher.ids;
    if !append {
        for other in users_with(tx, ids)? {
            delete(tx, &other, ids);
        }
    }
    if PUSHERS.scan(tx, (user,), Direction::Forward).take(MAX_PUSHERS).count() == MAX_PUSHERS {
        return Err(Error::invalid_param("You have too many pushers."));
    }
    let row = records::Pusher {
        device: device.to_owned(),
        pusher: serde_json::to_value(pusher)?,
        created_ts: clock::now_ms(),
    };
    PUSHERS.put(tx, (user, &ids.app_id, &ids.pushkey), &row);
    PUSHKEYS.put(tx, (&ids.app_id, &ids.pushkey, user), &());
    Ok(())
}

/// What the specification asks of a pusher and ruma's types do not.
fn check(pusher: &Pusher) -> Result<()> {
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
        PusherKind::Email(_) => Ok(()),
        _ => Err(Error::invalid_param("kind must be \"http\" or \"email\".")),
    }
}

fn users_with(read: &dyn Read, ids: &PusherIds) -> Result<Vec<OwnedUserId>> {
    PUSHKEYS
        .scan(read, (&ids.app_id, &ids.pushkey), Direction::Forward)
        .map(|row| row.map(|((_, _, user), ())| user))
        .collect()
}

/// Removes a pusher, if there is such a one.
pub fn delete(tx: &mut Tx<'_>, user: &UserId, ids: &PusherIds) {
    PUSHERS.delete(tx, (user, &ids.app_id, &ids.pushkey));
    PUSHKEYS.delete(tx, (&ids.app_id, &ids.pushkey, user));
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
    for ids in gone {
        delete(tx, user, &ids);
    }
    Ok(())
}

/// The pushers of `user`.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn all(read: &dyn Read, user: &UserId) -> Result<Vec<Pusher>> {
    PUSHERS.scan(read, (user,), Direction::Forward).map(|row| Ok(serde_json::from_value(row?.1.pusher)?)).collect()
}
