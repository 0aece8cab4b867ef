//! The third-party identifiers of an account: e-mail addresses and phone numbers.

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::account::get_3pids::v3::{Request, Response},
    thirdparty::{Medium, ThirdPartyIdentifierInit},
};

use crate::{api::auth::User, error::Result, server::Server, users::accounts};

/// `GET /_matrix/client/v3/account/3pid`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3account3pid))
pub async fn get_account_3pids(server: &Server, user: User, _: Request) -> Result<Response> {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let account = accounts::require(&server.store.read(), &user.id)?;
    let threepids = account.threepids.into_iter().map(|threepid| {
        ThirdPartyIdentifierInit {
            medium: Medium::from(threepid.medium),
            address: threepid.address,
            validated_at: time(threepid.validated_at),
            added_at: time(threepid.added_at),
        }
        .into()
    });
    Ok(Response::new(threepids.collect()))
}
