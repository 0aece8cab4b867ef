//! Pushers: where a user wants to be told of notifications.

use ruma::api::client::push::{
    PusherKind, get_pushers as get,
    set_pusher::v3::{self as set, PusherAction},
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    server::Server,
    users::pushers,
};

/// `GET /_matrix/client/v3/pushers`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushers))
pub async fn get_pushers(server: &Server, user: User, _: get::v3::Request) -> Result<get::v3::Response> {
    Ok(get::v3::Response::new(pushers::all(&server.store.read(), &user.id)?))
}

/// `POST /_matrix/client/v3/pushers/set`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3pushersset))
pub async fn post_pusher(server: &Server, user: User, req: set::Request) -> Result<set::Response> {
    if let PusherAction::Post(data) = &req.action
        && matches!(data.pusher.kind, PusherKind::Email(_))
        && !server.mailer.is_configured()
    {
        return Err(Error::invalid_param("This server sends no mails."));
    }
    server.store.write(|tx| match &req.action {
        PusherAction::Post(data) => pushers::set(tx, &user.id, user.require_device()?, &data.pusher, data.append),
        PusherAction::Delete(ids) => pushers::delete(tx, &user.id, ids),
        _ => Ok(()),
    })?;
    Ok(set::Response::new())
}
