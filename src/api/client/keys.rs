//! Device keys and one-time keys: uploading, finding, claiming, and hearing of changes.

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId,
    api::client::keys::{claim_keys, get_key_changes, get_keys, upload_keys},
    serde::Raw,
};
use serde_json::{Value as JsonValue, json};

use crate::{
    api::auth::User,
    error::Result,
    ids::Position,
    rooms::point::Point,
    server::Server,
    store::trees,
    sync::device_lists,
    users::{
        cross_signing::{self, Usage},
        device_keys, one_time_keys,
    },
};

/// `POST /_matrix/client/v3/keys/upload`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysupload))
pub async fn upload_keys(
    server: &Server,
    user: User,
    req: upload_keys::v3::Request,
) -> Result<upload_keys::v3::Response> {
    let counts = server.store.write(|tx| {
        if let Some(keys) = &req.device_keys {
            device_keys::upload(tx, &user.id, &user.device, keys.json())?;
        }
        let raw = |keys: &'_ BTreeMap<_, Raw<_>>| -> Vec<_> {
            keys.iter().map(|(id, key): (&ruma::OwnedOneTimeKeyId, _)| (id.clone(), key.json().to_owned())).collect()
        };
        let (one_time, fallback) = (raw(&req.one_time_keys), raw(&req.fallback_keys));
        one_time_keys::upload(tx, &user.id, &user.device, one_time.iter().map(|(id, key)| (&**id, &**key)))?;
        one_time_keys::upload_fallback(tx, &user.id, &user.device, fallback.iter().map(|(id, key)| (&**id, &**key)))?;
        one_time_keys::counts(tx, &user.id, &user.device)
    })?;
    Ok(upload_keys::v3::Response::new(counts))
}

/// `POST /_matrix/client/v3/keys/query`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysquery))
pub async fn query_keys(server: &Server, user: User, req: get_keys::v3::Request) -> Result<get_keys::v3::Response> {
    let read = server.store.read();
    let mut response = get_keys::v3::Response::new();
    for (target, devices) in req.device_keys {
        if target.server_name() != server.name() {
            response.failures.insert(target.server_name().to_string(), unreachable_server());
            continue;
        }
        if !trees::ACCOUNTS.contains(&read, &target)? {
            continue; // "If the homeserver could be reached, but the user or device was unknown, no failure is recorded."
        }
        let devices = if devices.is_empty() { device_keys::devices_with_keys(&read, &target)? } else { devices };
        let shown = response.device_keys.entry(target.clone()).or_default();
        for device in devices {
            if let Some(keys) = device_keys::shown(&read, &target, &device, &user.id)? {
                shown.insert(device, Raw::from_json(keys));
            }
        }
        for usage in Usage::ALL {
            let keys = match usage {
                Usage::Master => &mut response.master_keys,
                Usage::SelfSigning => &mut response.self_signing_keys,
                Usage::UserSigning => &mut response.user_signing_keys,
            };
            if let Some(key) = cross_signing::shown(&read, &target, usage, &user.id)? {
                keys.insert(target.clone(), Raw::from_json(key));
            }
        }
    }
    Ok(response)
}

/// What stands under `failures` for a server that was not asked: this one does not federate yet.
fn unreachable_server() -> JsonValue {
    json!({ "errcode": "M_UNKNOWN", "error": "The server could not be reached." })
}

/// `POST /_matrix/client/v3/keys/claim`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysclaim))
pub async fn claim_keys(server: &Server, _: User, req: claim_keys::v3::Request) -> Result<claim_keys::v3::Response> {
    let mut response = claim_keys::v3::Response::new(BTreeMap::new());
    let (local, remote): (BTreeMap<_, _>, BTreeMap<_, _>) =
        req.one_time_keys.into_iter().partition(|(target, _)| target.server_name() == server.name());
    for target in remote.keys() {
        response.failures.insert(target.server_name().to_string(), unreachable_server());
    }
    response.one_time_keys = server.store.write(|tx| {
        let mut claimed: BTreeMap<OwnedUserId, claim_keys::v3::OneTimeKeys> = BTreeMap::new();
        for (target, devices) in &local {
            for (device, algorithm) in devices {
                let Some((id, key)) = one_time_keys::claim(tx, target, device, algorithm)? else { continue };
                let Ok(id) = id.try_into() else { continue };
                let keys = claimed.entry(target.clone()).or_default();
                keys.entry(device.clone()).or_default().insert(id, Raw::from_json(key));
            }
        }
        Ok(claimed)
    })?;
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
    let lists = device_lists::changed_since(&server.store.read(), &user.id, from, to)?;
    Ok(get_key_changes::v3::Response::new(lists.changed.into_iter().collect(), lists.left.into_iter().collect()))
}
