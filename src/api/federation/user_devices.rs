//! The devices of this server's users.

use ruma::{
    UInt,
    api::federation::device::get_devices::v1::{Request, Response, UserDevice},
    serde::Raw,
};

use crate::{
    api::auth::Origin,
    error::{Error, Result},
    server::Server,
    store::trees,
    users::{
        cross_signing::{self, Usage},
        device_keys,
    },
};

/// `GET /_matrix/federation/v1/user/devices/{userId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1userdevicesuserid))
pub async fn get_user_devices(server: &Server, _: Origin, req: Request) -> Result<Response> {
    let (read, user) = (server.store.read(), req.user_id);
    if !trees::ACCOUNTS.contains(&read, &user)? {
        return Err(Error::not_found("This server has no such user."));
    }
    let stream_id = UInt::new_saturating(device_keys::stream_id(&read, &user)?.0);
    let mut response = Response::new(user.clone(), stream_id);
    for device in device_keys::devices_with_keys(&read, &user)? {
        let is_named = server.config().allow_device_name_federation;
        let name = if is_named { device_keys::name(&read, &user, &device)? } else { None };
        if let Some(keys) = device_keys::published(&read, &user, &device, is_named)? {
            let mut device = UserDevice::new(device, Raw::from_json(keys));
            device.device_display_name = name;
            response.devices.push(device);
        }
    }
    response.master_key = cross_signing::shown(&read, &user, Usage::Master, &user)?.map(Raw::from_json);
    response.self_signing_key = cross_signing::shown(&read, &user, Usage::SelfSigning, &user)?.map(Raw::from_json);
    Ok(response)
}
