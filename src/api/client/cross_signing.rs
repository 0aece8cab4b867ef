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
    store::Read,
    users::{
        accounts,
        cross_signing::{self, Upload},
    },
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
    let needs_it = {
        let read = server.store.read();
        upload.check(&read, &user.id)?;
        needs_authentication(&read, &upload, &user)?
    };
    if needs_it {
        uiaa::check(server, &user, "replace cross-signing keys", req.auth.as_ref()).await?;
    }
    server.store.write(|tx| {
        // Another device may have uploaded its keys meanwhile; these must not be replaced without proof.
        if !needs_it && needs_authentication(tx, &upload, &user)? {
            return Err(Error::forbidden("Other cross-signing keys were uploaded at the same time. Try again."));
        }
        // An administrator's word is for one time.
        if upload.needs_authentication(tx, &user.id)? && accounts::may_replace_keys(tx, &user.id)? {
            accounts::update(tx, &user.id, |account| account.keys_replaceable_until = None)?;
        }
        upload.store(tx, &user.id)
    })?;
    Ok(upload_signing_keys::v3::Response::new())
}

fn needs_authentication(read: &dyn Read, upload: &Upload, user: &User) -> Result<bool> {
    Ok(upload.needs_authentication(read, &user.id)? && !accounts::may_replace_keys(read, &user.id)?)
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
