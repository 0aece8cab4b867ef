//! Filters for `/sync` and `/messages`.

use ruma::api::client::filter::{create_filter, get_filter as get};

use crate::{api::auth::User, error::Result, server::Server, users::filters};

/// `POST /_matrix/client/v3/user/{userId}/filter`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3useruseridfilter))
pub async fn define_filter(
    server: &Server,
    user: User,
    req: create_filter::v3::Request,
) -> Result<create_filter::v3::Response> {
    user.require_self(&req.user_id, "You cannot make filters for others.")?;
    let id = server.store.write(|tx| filters::put(tx, &user.id, &req.filter))?;
    Ok(create_filter::v3::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridfilterfilterid))
pub async fn get_filter(server: &Server, user: User, req: get::v3::Request) -> Result<get::v3::Response> {
    user.require_self(&req.user_id, "You cannot see the filters of others.")?;
    Ok(get::v3::Response::new(filters::require(&server.store.read(), &user.id, &req.filter_id)?))
}
