//! The end of an account.

use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use crate::{
    api::{auth::User, uiaa},
    error::{Error, Result},
    federation::chores,
    server::Server,
    users::accounts,
};

/// `POST /_matrix/client/v3/account/deactivate`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate))
///
/// Without an access token the password alone shows whose account it is.
pub async fn deactivate_account(server: &Server, user: Option<User>, req: Request) -> Result<Response> {
    let id = match &user {
        Some(user) => {
            uiaa::check(server, user, "deactivate the account", req.auth.as_ref()).await?;
            user.id.clone()
        }
        None => {
            let passed = uiaa::run(server, "deactivate an account", &[uiaa::PASSWORD], None, req.auth.as_ref()).await?;
            passed.user.ok_or_else(|| Error::missing_param("Show your password in the same request."))?
        }
    };
    server.store.write(|tx| accounts::deactivate(tx, &id, req.erase))?;
    server.deletions.notify_one();
    if !chores::leave_all(&server.federation, &id, chores::AT_ONCE).await? {
        server.rooms.chores.notify_one();
    }
    // Third-party identifiers are not published anywhere by this server.
    Ok(Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}
