//! Cross-signing keys and signatures: uploading.

use std::collections::BTreeMap;

use ruma::{
    OwnedUserId,
    api::client::keys::{
        upload_signatures::{self, v3::Failure},
        upload_signing_keys,
    },
};

use crate::{
    api::{auth::User, uiaa},
    error::{Error, Result},
    server::Server,
    users::cross_signing::{self, Upload},
};

/// `POST /_matrix/client/v3/keys/device_signing/upload`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysdevice_signingupload))
pub async fn upload_cross_signing_keys(
    server: &Server,
    user: User,
    req: upload_signing_keys::v3::Request,
) -> Result<upload_signing_keys::v3::Response> {
    let keys = [&req.master_key, &req.self_signing_key, &req.user_signing_key];
    let upload = Upload::parse(&user.id, keys.map(|key| key.as_ref().map(|key| key.json())))?;
    let needs_authentication = {
        let read = server.store.read();
        upload.check(&read, &user.id)?;
        upload.needs_authentication(&read, &user.id)?
    };
    if needs_authentication {
        uiaa::check(server, &user, "replace cross-signing keys", req.auth.as_ref()).await?;
    }
    server.store.write(|tx| {
        // Another device may have uploaded its keys meanwhile; these must not be replaced without proof.
        if !needs_authentication && upload.needs_authentication(tx, &user.id)? {
            return Err(Error::forbidden("Other cross-signing keys were uploaded at the same time. Try again."));
        }
        upload.store(tx, &user.id)
    })?;
    Ok(upload_signing_keys::v3::Response::new())
}

/// `POST /_matrix/client/v3/keys/signatures/upload`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keyssignaturesupload))
pub async fn upload_cross_signing_signatures(
    server: &Server,
    user: User,
    req: upload_signatures::v3::Request,
) -> Result<upload_signatures::v3::Response> {
    let mut failures: BTreeMap<OwnedUserId, BTreeMap<String, Failure>> = BTreeMap::new();
    for (target, keys) in &req.signed_keys {
        for (key_name, signed) in keys {
            let added = server.store.write(|tx| cross_signing::add_signatures(tx, &user.id, target, key_name, signed));
            if let Err(error) = added {
                let failure = serde_json::from_value(cross_signing::failure(&error))?;
                failures.entry(target.clone()).or_default().insert(key_name.to_owned(), failure);
            }
        }
    }
    let mut response = upload_signatures::v3::Response::new();
    response.failures = failures;
    Ok(response)
}
