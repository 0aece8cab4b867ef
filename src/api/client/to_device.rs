//! Messages from device to device: sending.

use ruma::{api::client::to_device::send_event_to_device, to_device::DeviceIdOrAllDevices};

use crate::{
    api::auth::User,
    error::Result,
    server::Server,
    users::{to_device, transactions},
};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid))
pub async fn send_to_device(
    server: &Server,
    user: User,
    req: send_event_to_device::v3::Request,
) -> Result<send_event_to_device::v3::Response> {
    let kind = req.event_type.to_string();
    let operation = format!("sendToDevice/{kind}");
    server.store.write(|tx| {
        if transactions::answer(tx, &user.id, &user.device, &operation, &req.txn_id)?.is_some() {
            return Ok(());
        }
        let local = req.messages.iter().filter(|(target, _)| target.server_name() == server.name());
        for (target, devices) in local {
            for (device, content) in devices {
                let device = match device {
                    DeviceIdOrAllDevices::DeviceId(device) => Some(&**device),
                    DeviceIdOrAllDevices::AllDevices => None,
                };
                to_device::send(tx, &user.id, &kind, target, device, content.json())?;
            }
        }
        transactions::remember(tx, &user.id, &user.device, &operation, &req.txn_id, "")
    })?;
    Ok(send_event_to_device::v3::Response::new())
}
