//! Device keys and one-time keys of this server's users.

use ruma::{
    api::federation::keys::{claim_keys::v1 as claim, get_keys::v1 as get},
    serde::Raw,
};

use crate::{
    api::auth::Origin,
    error::Result,
    server::Server,
    store::trees,
    users::{
        cross_signing::{self, Usage},
        device_keys, one_time_keys,
    },
};

/// `POST /_matrix/federation/v1/user/keys/query`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysquery))
pub async fn query_user_encryption_keys(server: &Server, _: Origin, req: get::Request) -> Result<get::Response> {
    let (read, is_named) = (server.store.read(), server.config().allow_device_name_federation);
    let mut response = get::Response::default();
    for (user, devices) in req.device_keys {
        if !trees::ACCOUNTS.contains(&read, &user)? {
            continue;
        }
        let devices = if devices.is_empty() { device_keys::devices_with_keys(&read, &user)? } else { devices };
        let shown = response.device_keys.entry(user.clone()).or_default();
        for device in devices {
            if let Some(keys) = device_keys::published(&read, &user, &device, is_named)? {
                shown.insert(device, Raw::from_json(keys));
            }
        }
        if let Some(key) = cross_signing::shown(&read, &user, Usage::Master, &user)? {
            response.master_keys.insert(user.clone(), Raw::from_json(key));
        }
        if let Some(key) = cross_signing::shown(&read, &user, Usage::SelfSigning, &user)? {
            response.self_signing_keys.insert(user, Raw::from_json(key));
        }
    }
    Ok(response)
}

/// `POST /_matrix/federation/v1/user/keys/claim`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1userkeysclaim))
pub async fn claim_user_encryption_keys(server: &Server, _: Origin, req: claim::Request) -> Result<claim::Response> {
    let claimed = server.store.write(|tx| one_time_keys::claim_all(tx, &req.one_time_keys))?;
    Ok(claim::Response::new(claimed))
}
