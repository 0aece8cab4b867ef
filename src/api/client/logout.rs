//! The end of a login: the device goes, with its tokens and keys.

use ruma::api::client::session::{logout as one, logout_all as all};

use crate::{api::auth::User, error::Result, server::Server, users::devices};

/// `POST /_matrix/client/v3/logout`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3logout))
pub async fn logout(server: &Server, user: User, _: one::v3::Request) -> Result<one::v3::Response> {
    server.store.write(|tx| devices::delete(tx, &user.id, user.require_device()?))?;
    Ok(one::v3::Response::new())
}

/// `POST /_matrix/client/v3/logout/all`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3logoutall))
pub async fn logout_all(server: &Server, user: User, _: all::v3::Request) -> Result<all::v3::Response> {
    server.store.write(|tx| devices::delete_all(tx, &user.id, None))?;
    Ok(all::v3::Response::new())
}
