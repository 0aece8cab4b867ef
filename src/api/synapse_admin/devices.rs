//! Devices of accounts, and keys
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html#user-devices)).

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{
    Nothing, Reply, ok, requests,
    users::{require, require_active},
};
use crate::{
    api::auth::Administrator,
    clock,
    error::{Error, Result},
    server::Server,
    store::records::Device,
    users::{
        accounts,
        cross_signing::{self, Usage},
        devices,
    },
};

/// For how long keys can be replaced without authentication.
const REPLACEABLE_MS: u64 = 10 * 60 * 1000;

requests! {
    /// `GET /_synapse/admin/v2/users/{user_id}/devices`
    ListDevices = GET "/_synapse/admin/v2/users/{user_id}/devices" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
    GetDevice = GET "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" ((OwnedUserId, OwnedDeviceId), Nothing, Nothing);
    /// `PUT /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
    PutDevice = PUT "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" ((OwnedUserId, OwnedDeviceId), Nothing, DeviceName);
    /// `DELETE /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
    DeleteDevice = DELETE "/_synapse/admin/v2/users/{user_id}/devices/{device_id}" ((OwnedUserId, OwnedDeviceId), Nothing, Nothing);
    /// `POST /_synapse/admin/v2/users/{user_id}/delete_devices`
    DeleteDevices = POST "/_synapse/admin/v2/users/{user_id}/delete_devices" ((OwnedUserId,), Nothing, DeviceIds);
    /// `POST /_synapse/admin/v1/users/{user_id}/_allow_cross_signing_replacement_without_uia`
    AllowKeyReplacement = POST "/_synapse/admin/v1/users/{user_id}/_allow_cross_signing_replacement_without_uia" ((OwnedUserId,), Nothing, Nothing);
}

/// The name of a device.
#[derive(Debug, Deserialize)]
pub struct DeviceName {
    #[serde(default)]
    display_name: String,
}

/// Some devices.
#[derive(Debug, Deserialize)]
pub struct DeviceIds {
    devices: Vec<OwnedDeviceId>,
}

fn shown(user: &UserId, id: &DeviceId, device: &Device) -> JsonValue {
    json!({
        "user_id": user,
        "device_id": id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ts,
        "last_seen_user_agent": null,
        "dehydrated": false,
    })
}

/// `GET /_synapse/admin/v2/users/{user_id}/devices`
pub async fn list_devices(server: &Server, _: Administrator, req: ListDevices) -> Result<Reply> {
    let (read, user) = (server.store.read(), req.path.0);
    require(server, &read, &user)?;
    let all = devices::all(&read, &user).map(|row| row.map(|(id, device)| shown(&user, &id, &device)));
    let all = all.collect::<Result<Vec<_>>>()?;
    ok(json!({ "devices": all, "total": all.len() }))
}

/// `GET /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
pub async fn get_device(server: &Server, _: Administrator, req: GetDevice) -> Result<Reply> {
    let (read, (user, id)) = (server.store.read(), req.path);
    require(server, &read, &user)?;
    ok(shown(&user, &id, &devices::require(&read, &user, &id)?))
}

/// `PUT /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
pub async fn put_device(server: &Server, _: Administrator, req: PutDevice) -> Result<Reply> {
    let (user, id) = req.path;
    server.store.write(|tx| {
        require(server, tx, &user)?;
        devices::rename(tx, &user, &id, req.body.display_name)
    })?;
    ok(json!({}))
}

fn delete(server: &Server, user: &UserId, ids: &[OwnedDeviceId]) -> Result<Reply> {
    server.store.write(|tx| {
        require(server, tx, user)?;
        ids.iter().try_for_each(|id| devices::delete(tx, user, id))
    })?;
    ok(json!({}))
}

/// `DELETE /_synapse/admin/v2/users/{user_id}/devices/{device_id}`
pub async fn delete_device(server: &Server, _: Administrator, req: DeleteDevice) -> Result<Reply> {
    delete(server, &req.path.0, &[req.path.1])
}

/// `POST /_synapse/admin/v2/users/{user_id}/delete_devices`
pub async fn delete_devices(server: &Server, _: Administrator, req: DeleteDevices) -> Result<Reply> {
    delete(server, &req.path.0, &req.body.devices)
}

/// `POST /_synapse/admin/v1/users/{user_id}/_allow_cross_signing_replacement_without_uia`: once, within ten minutes.
pub async fn allow_key_replacement(server: &Server, _: Administrator, req: AllowKeyReplacement) -> Result<Reply> {
    let (user, until) = (&req.path.0, clock::now_ms() + REPLACEABLE_MS);
    server.store.write(|tx| {
        require_active(server, tx, user)?;
        if cross_signing::public_key(tx, user, Usage::Master)?.is_none() {
            return Err(Error::not_found("The user has no cross-signing keys: the first need no authentication."));
        }
        accounts::update(tx, user, |account| account.keys_replaceable_until = Some(until))
    })?;
    ok(json!({ "updatable_without_uia_before_ms": until }))
}
