//! Device keys and one-time keys: uploading, finding, claiming, and hearing of changes.

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::client::keys::{claim_keys, get_key_changes, get_keys, upload_keys},
    serde::Raw,
};
use serde_json::{Value as JsonValue, json};

use crate::{
    api::auth::User,
    error::{Error, Reason, Result},
    federation::{Failure, devices},
    ids::Position,
    rooms::point::Point,
    server::Server,
    store::{Read, trees},
    sync::device_lists as changed_lists,
    users::{
        cross_signing::{self, Usage},
        device_keys,
        device_lists::{self, Told},
        one_time_keys,
    },
};

/// `POST /_matrix/client/v3/keys/upload`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysupload))
pub async fn upload_keys(
    server: &Server,
    user: User,
    req: upload_keys::v3::Request,
) -> Result<upload_keys::v3::Response> {
    let device = user.require_device()?;
    let counts = server.store.write(|tx| {
        if let Some(keys) = &req.device_keys {
            device_keys::upload(tx, &user.id, device, keys.json())?;
        }
        let raw = |keys: &'_ BTreeMap<_, Raw<_>>| -> Vec<_> {
            keys.iter().map(|(id, key): (&ruma::OwnedOneTimeKeyId, _)| (id.clone(), key.json().to_owned())).collect()
        };
        let (one_time, fallback) = (raw(&req.one_time_keys), raw(&req.fallback_keys));
        one_time_keys::upload(tx, &user.id, device, one_time.iter().map(|(id, key)| (&**id, &**key)))?;
        one_time_keys::upload_fallback(tx, &user.id, device, fallback.iter().map(|(id, key)| (&**id, &**key)))?;
        one_time_keys::counts(tx, &user.id, device)
    })?;
    Ok(upload_keys::v3::Response::new(counts))
}

/// `POST /_matrix/client/v3/keys/query`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysquery))
pub async fn query_keys(server: &Server, user: User, req: get_keys::v3::Request) -> Result<get_keys::v3::Response> {
    let others = req.device_keys.keys().filter(|target| target.server_name() != server.name()).cloned();
    let mut found = devices::query(&server.federation, others.collect(), req.timeout).await?;
    let read = server.store.read();
    let mut response = get_keys::v3::Response::new();
    response.failures = failures(found.failures);
    for (target, devices) in req.device_keys {
        if let Some(told) = found.strangers.remove(&target) {
            show_told(&mut response, &read, &user.id, target, &devices, told)?;
        } else if trees::ACCOUNTS.contains(&read, &target)? || device_lists::is_kept(&read, &target)? {
            show_kept(&mut response, &read, &user.id, target, devices)?;
        }
        // "If the homeserver could be reached, but the user or device was unknown, no failure is recorded."
    }
    Ok(response)
}

/// Shows what is kept here of a user: of this server, or of another that told.
fn show_kept(
    response: &mut get_keys::v3::Response,
    read: &dyn Read,
    viewer: &UserId,
    target: OwnedUserId,
    devices: Vec<OwnedDeviceId>,
) -> Result<()> {
    let devices = if devices.is_empty() { device_keys::devices_with_keys(read, &target)? } else { devices };
    let shown = response.device_keys.entry(target.clone()).or_default();
    for device in devices {
        if let Some(keys) = device_keys::shown(read, &target, &device, viewer)? {
            shown.insert(device, Raw::from_json(keys));
        }
    }
    for usage in Usage::ALL {
        let keys = match usage {
            Usage::Master => &mut response.master_keys,
            Usage::SelfSigning => &mut response.self_signing_keys,
            Usage::UserSigning => &mut response.user_signing_keys,
        };
        if let Some(key) = cross_signing::shown(read, &target, usage, viewer)? {
            keys.insert(target.clone(), Raw::from_json(key));
        }
    }
    Ok(())
}

/// Shows what another server told just now of a user of whom nothing is kept here.
fn show_told(
    response: &mut get_keys::v3::Response,
    read: &dyn Read,
    viewer: &UserId,
    target: OwnedUserId,
    devices: &[OwnedDeviceId],
    told: Told,
) -> Result<()> {
    let shown = response.device_keys.entry(target.clone()).or_default();
    let wanted = |device: &OwnedDeviceId| devices.is_empty() || devices.contains(device);
    let keys = told.devices.into_iter().filter(|(device, _)| wanted(device));
    shown.extend(keys.map(|(device, (keys, _))| (device, Raw::from_json(keys))));
    if let Some(key) = told.master_key {
        let key = cross_signing::shown_by_others(read, &target, key, viewer)?;
        response.master_keys.insert(target.clone(), Raw::from_json(key));
    }
    if let Some(key) = told.self_signing_key {
        response.self_signing_keys.insert(target, Raw::from_json(key));
    }
    Ok(())
}

/// What stands under `failures` for servers that could not be asked.
fn failures(failures: BTreeMap<OwnedServerName, Failure>) -> BTreeMap<String, JsonValue> {
    let shown = |failure: Failure| match Error::from(failure).reason() {
        Reason::Matrix { kind, message, .. } => json!({ "errcode": kind.errcode().as_str(), "error": message }),
        _ => json!({ "errcode": "M_UNKNOWN", "error": "The server could not be asked." }),
    };
    failures.into_iter().map(|(server, failure)| (server.to_string(), shown(failure))).collect()
}

/// `POST /_matrix/client/v3/keys/claim`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysclaim))
pub async fn claim_keys(server: &Server, _: User, req: claim_keys::v3::Request) -> Result<claim_keys::v3::Response> {
    let (local, remote): (BTreeMap<_, _>, BTreeMap<_, _>) =
        req.one_time_keys.into_iter().partition(|(target, _)| target.server_name() == server.name());
    let mut claimed = devices::claim(&server.federation, remote, req.timeout).await;
    claimed.keys.append(&mut server.store.write(|tx| one_time_keys::claim_all(tx, &local))?);
    let mut response = claim_keys::v3::Response::new(claimed.keys);
    response.failures = failures(claimed.failures);
    Ok(response)
}

/// `GET /_matrix/client/v3/keys/changes`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3keyschanges))
pub async fn get_keys_changes(
    server: &Server,
    user: User,
    req: get_key_changes::v3::Request,
) -> Result<get_key_changes::v3::Response> {
    let position = |token: &str| Point::parse(token).map(|point| Position(u64::try_from(point.0).unwrap_or(0)));
    let (from, to) = (position(&req.from)?, position(&req.to)?);
    let lists = changed_lists::changed_since(&server.store.read(), &user.id, from, to)?;
    Ok(get_key_changes::v3::Response::new(lists.changed.into_iter().collect(), lists.left.into_iter().collect()))
}
