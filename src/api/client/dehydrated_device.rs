//! Devices that take messages for users who are logged in nowhere
//! ([MSC3814](https://github.com/matrix-org/matrix-spec-proposals/pull/3814), a proposal).

use ruma::{
    OneTimeKeyId,
    api::client::dehydrated_device::{
        delete_dehydrated_device::unstable as delete, get_dehydrated_device::unstable as get,
        get_events::unstable as events, put_dehydrated_device::unstable as put,
    },
    serde::Raw,
};

use crate::{
    api::auth::User,
    error::Result,
    ids::Position,
    rooms::point::Point,
    server::Server,
    users::{dehydrated_devices, device_keys, devices, one_time_keys},
};

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3814))
pub async fn put_dehydrated_device(server: &Server, user: User, req: put::Request) -> Result<put::Response> {
    let device = &req.device_id;
    let one_time = req.one_time_keys.iter().map(|(id, key)| (AsRef::<OneTimeKeyId>::as_ref(id), key.json()));
    let fallback = req.fallback_keys.iter().map(|(id, key)| (AsRef::<OneTimeKeyId>::as_ref(id), key.json()));
    server.store.write(|tx| {
        let name = req.initial_device_display_name.clone();
        dehydrated_devices::put(tx, &user.id, device, name, req.device_data.json())?;
        device_keys::upload(tx, &user.id, device, req.device_keys.json())?;
        one_time_keys::upload(tx, &user.id, device, one_time)?;
        one_time_keys::upload_fallback(tx, &user.id, device, fallback)
    })?;
    Ok(put::Response::new(req.device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3814))
pub async fn get_dehydrated_device(server: &Server, user: User, _: get::Request) -> Result<get::Response> {
    let row = dehydrated_devices::require(&server.store.read(), &user.id)?;
    Ok(get::Response::new(row.device, Raw::from_json(row.data)))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3814))
pub async fn delete_dehydrated_device(server: &Server, user: User, _: delete::Request) -> Result<delete::Response> {
    let device = server.store.write(|tx| {
        let device = dehydrated_devices::require(tx, &user.id)?.device;
        devices::delete(tx, &user.id, &device)?;
        Ok(device)
    })?;
    Ok(delete::Response::new(device))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3814))
pub async fn get_dehydrated_device_events(
    server: &Server,
    user: User,
    req: events::Request,
) -> Result<events::Response> {
    let since = Point::parse_optional(req.next_batch.as_deref())?;
    let since = since.map_or(Position(0), |point| Position(u64::try_from(point.0).unwrap_or(0)));
    let read = server.store.read();
    let (messages, upto) = dehydrated_devices::messages(&read, &user.id, &req.device_id, since, read.position()?)?;
    let mut response = events::Response::new(messages.into_iter().map(Raw::from_json).collect());
    response.next_batch = Some(format!("s{upto}"));
    Ok(response)
}
