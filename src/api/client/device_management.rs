//! Devices: the logins of a user.

use http::StatusCode;
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, UInt,
    api::{
        OutgoingResponse,
        client::device::{
            self, delete_device as delete_one, delete_devices as delete_many, get_device as get_one,
            get_devices as get_all, update_device as update,
        },
        error::IntoHttpError,
    },
};

use crate::{
    api::{auth::User, uiaa},
    error::Result,
    reads,
    server::Server,
    stands_in_for,
    store::{records::Device, trees::DEVICES},
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

/// A request to change a device, or to make one: ruma's response cannot say that.
pub struct UpdateDeviceRequest(update::v3::Request);
stands_in_for!(UpdateDeviceRequest, update::v3::Request);

/// Whether the device is new.
pub struct UpdateDeviceResponse {
    created: bool,
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3devicesdeviceid))
pub async fn update_device(server: &Server, user: User, req: UpdateDeviceRequest) -> Result<UpdateDeviceResponse> {
    let update::v3::Request { device_id, display_name, .. } = req.0;
    let created = server.store.write(|tx| {
        if user.appservice.is_some() && !DEVICES.contains(tx, (&user.id, &device_id))? {
            return devices::create(tx, &user.id, &device_id, display_name).map(|()| true);
        }
        match display_name {
            Some(name) => devices::rename(tx, &user.id, &device_id, name)?,
            // Spec: "If not given, the display name is unchanged."
            None => drop(devices::require(tx, &user.id, &device_id)?),
        }
        Ok(false)
    })?;
    Ok(UpdateDeviceResponse { created })
}

reads!(UpdateDeviceRequest => UpdateDeviceResponse, |request, path_args| {
    Self(update::v3::Request::try_from_http_request_inner(request, path_args)?)
});

impl OutgoingResponse for UpdateDeviceResponse {
    type Body = <update::v3::Response as OutgoingResponse>::Body;

    fn try_into_http_response_inner(self) -> Result<http::Response<Self::Body>, IntoHttpError> {
        let mut response = update::v3::Response::new().try_into_http_response_inner()?;
        if self.created {
            *response.status_mut() = StatusCode::CREATED;
        }
        Ok(response)
    }
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
    uiaa::check(server, &user, &format!("delete {} devices: {ids:?}", ids.len()), req.auth.as_ref()).await?;
    server.store.write(|tx| ids.iter().try_for_each(|id| devices::delete(tx, &user.id, id)))?;
    Ok(delete_many::v3::Response::new())
}
