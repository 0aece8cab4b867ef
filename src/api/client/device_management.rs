//! Devices: the logins of a user.

use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{
        self, delete_device as delete_one, delete_devices as delete_many, get_device as get_one,
        get_devices as get_all, update_device as update,
    },
};

use crate::{
    api::{auth::User, uiaa},
    error::Result,
    server::Server,
    store::records::Device,
    users::devices,
};

/// `GET /_matrix/client/v3/devices`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3devices))
pub async fn get_devices(server: &Server, user: User, _: get_all::v3::Request) -> Result<get_all::v3::Response> {
    let read = server.store.read();
    let devices = devices::all(&read, &user.id).map(|row| row.map(|(id, device)| shown(&id, device)));
    Ok(get_all::v3::Response::new(devices.collect::<Result<_>>()?))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3devicesdeviceid))
pub async fn get_device(server: &Server, user: User, req: get_one::v3::Request) -> Result<get_one::v3::Response> {
    let device = devices::require(&server.store.read(), &user.id, &req.device_id)?;
    Ok(get_one::v3::Response::new(shown(&req.device_id, device)))
}

fn shown(id: &DeviceId, device: Device) -> device::Device {
    let mut shown = device::Device::new(id.to_owned());
    shown.display_name = device.display_name;
    shown.last_seen_ip = device.last_seen_ip;
    shown.last_seen_ts = device.last_seen_ts.and_then(UInt::new).map(MilliSecondsSinceUnixEpoch);
    shown
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3devicesdeviceid))
pub async fn update_device(server: &Server, user: User, req: update::v3::Request) -> Result<update::v3::Response> {
    server.store.write(|tx| match req.display_name {
        Some(name) => devices::rename(tx, &user.id, &req.device_id, name),
        // Spec: "If not given, the display name is unchanged."
        None => devices::require(tx, &user.id, &req.device_id).map(|_| ()),
    })?;
    Ok(update::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3devicesdeviceid))
pub async fn delete_device(
    server: &Server,
    user: User,
    req: delete_one::v3::Request,
) -> Result<delete_one::v3::Response> {
    uiaa::check(server, &user, &format!("delete device {}", req.device_id), req.auth.as_ref()).await?;
    server.store.write(|tx| devices::delete(tx, &user.id, &req.device_id))?;
    Ok(delete_one::v3::Response::new())
}

/// `POST /_matrix/client/v3/delete_devices`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3delete_devices))
pub async fn delete_devices(
    server: &Server,
    user: User,
    req: delete_many::v3::Request,
) -> Result<delete_many::v3::Response> {
    let mut ids = req.devices;
    ids.sort();
    ids.dedup();
    uiaa::check(server, &user, &format!("delete devices {ids:?}"), req.auth.as_ref()).await?;
    server.store.write(|tx| ids.iter().try_for_each(|id| devices::delete(tx, &user.id, id)))?;
    Ok(delete_many::v3::Response::new())
}
