//! Messages from device to device: sending.

use std::collections::BTreeMap;

use ruma::{
    ServerName,
    api::{client::to_device::send_event_to_device, federation::transactions::edu::DirectDeviceMessages},
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    server::Server,
    users::{to_device, to_servers, transactions},
};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid)). The
/// specification says nothing of too large messages; they are refused with the error that it has for too large events.
pub async fn send_to_device(
    server: &Server,
    user: User,
    req: send_event_to_device::v3::Request,
) -> Result<send_event_to_device::v3::Response> {
    let kind = req.event_type.to_string();
    let is_too_large = |content: &Raw<_>| kind.len() + content.json().get().len() > to_device::MAX_MESSAGE;
    if req.messages.values().flat_map(BTreeMap::values).any(is_too_large) {
        let most = to_device::MAX_MESSAGE;
        return Err(Error::too_large(format!("A message to a device is too large: at most {most} bytes are sent.")));
    }
    let operation = format!("sendToDevice/{kind}");
    server.store.write(|tx| {
        if transactions::answer(tx, &user.id, &user.device, &operation, &req.txn_id)?.is_some() {
            return Ok(());
        }
        let mut elsewhere: BTreeMap<&ServerName, DirectDeviceMessages> = BTreeMap::new();
        for (target, devices) in &req.messages {
            if target.server_name() != server.name() {
                elsewhere.entry(target.server_name()).or_default().insert(target.clone(), devices.clone());
                continue;
            }
            for (device, content) in devices {
                let device = match device {
                    DeviceIdOrAllDevices::DeviceId(device) => Some(&**device),
                    DeviceIdOrAllDevices::AllDevices => None,
                };
                to_device::send(tx, &user.id, &kind, target, device, content.json())?;
            }
        }
        for (other, messages) in elsewhere {
            to_servers::send(tx, &user.id, &req.event_type, other, messages)?;
        }
        transactions::remember(tx, &user.id, &user.device, &operation, &req.txn_id, "")
    })?;
    Ok(send_event_to_device::v3::Response::new())
}
