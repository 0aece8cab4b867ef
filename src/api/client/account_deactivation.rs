//! The end of an account.

use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use crate::{
    api::{
        auth::User,
        uiaa::{self, Demand},
    },
    error::{Error, Result},
    federation::deactivation,
    server::Server,
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
            let (operation, flows) = ("deactivate an account", &[uiaa::PASSWORD]);
            let demand = Demand { operation, flows, ..Demand::default() };
            let passed = uiaa::run(server, &demand, req.auth.as_ref()).await?;
            passed.user.ok_or_else(|| Error::missing_param("Show your password in the same request."))?
        }
    };
    let ended = deactivation::deactivate(&server.federation, &id, req.erase).await?;
    Ok(Response::new(match ended.unbound_all {
        true => ThirdPartyIdRemovalStatus::Success,
        false => ThirdPartyIdRemovalStatus::NoSupport,
    }))
}
