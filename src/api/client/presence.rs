//! Who is online.

use std::time::Duration;

use ruma::{
    api::client::presence::{get_presence as get, set_presence as set},
    presence::PresenceState,
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::members,
    server::Server,
};

/// The longest status message, in bytes.
const MAX_STATUS: usize = 1024;

/// `PUT /_matrix/client/v3/presence/{userId}/status`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3presenceuseridstatus))
pub async fn set_presence(server: &Server, user: User, req: set::v3::Request) -> Result<set::v3::Response> {
    user.require_self(&req.user_id, "You can set your own presence only.")?;
    if !matches!(req.presence, PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline) {
        return Err(Error::invalid_param("presence must be \"online\", \"unavailable\" or \"offline\"."));
    }
    let status = req.status_msg.filter(|status| !status.is_empty());
    if status.as_ref().is_some_and(|status| status.len() > MAX_STATUS) {
        return Err(Error::invalid_param(format!("A status must not be longer than {MAX_STATUS} bytes.")));
    }
    server.presence.set(&server.store, &user.id, &user.device, req.presence, status)?;
    Ok(set::v3::Response::new())
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3presenceuseridstatus))
pub async fn get_presence(server: &Server, user: User, req: get::v3::Request) -> Result<get::v3::Response> {
    let visible = user.id == req.user_id || members::share_a_room(&server.store.read(), &user.id, &req.user_id)?;
    if !visible {
        return Err(Error::forbidden("You see the presence only of those you share a room with."));
    }
    let presence = server.presence.get(&req.user_id);
    let mut response = get::v3::Response::new(presence.presence);
    response.status_msg = presence.status_msg;
    response.currently_active = presence.currently_active;
    response.last_active_ago = presence.last_active_ago.map(|ago| Duration::from_millis(ago.into()));
    Ok(response)
}
