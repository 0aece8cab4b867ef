//! Changing a password.

use ruma::api::client::account::change_password::v3::{Request, Response};

use crate::{
    api::{auth::User, uiaa},
    error::{Error, Result},
    server::Server,
    users::{accounts, devices, passwords},
};

/// `POST /_matrix/client/v3/account/password`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountpassword))
///
/// Without an access token the old password alone shows whose it is.
pub async fn change_password(server: &Server, user: Option<User>, req: Request) -> Result<Response> {
    passwords::check_new(&req.new_password, server.config.password_min_length)?;
    let id = match &user {
        Some(user) => {
            uiaa::check(server, user, "change the password", req.auth.as_ref()).await?;
            user.id.clone()
        }
        None => {
            let passed = uiaa::run(server, "change a password", &[uiaa::PASSWORD], None, req.auth.as_ref()).await?;
            passed.user.ok_or_else(|| Error::missing_param("Show your old password in the same request."))?
        }
    };
    let hash = server.passwords.hash(req.new_password).await?;
    server.store.write(|tx| {
        accounts::update(tx, &id, |account| account.password_hash = Some(hash))?;
        if req.logout_devices {
            devices::delete_all(tx, &id, user.as_ref().map(|user| &*user.device))?;
        }
        Ok(())
    })?;
    Ok(Response::new())
}
