//! [Kicking users](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidkick).

use ruma::api::client::membership::kick_user::v3::{Request, Response};

use super::banning::content;
use crate::{
    api::auth::User,
    error::Result,
    federation::{leave, missing_members},
    rooms::membership::Removal,
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidkick))
pub async fn kick(server: &Server, user: User, req: Request) -> Result<Response> {
    let content = content(req.reason, req.redact_events);
    missing_members::known(&server.federation, &req.room_id, &req.user_id).await?;
    leave::remove(&server.federation, &req.room_id, &user.id, &req.user_id, Removal::Kick, content).await?;
    server.rooms.chores.notify_one(); // there may be something to redact
    Ok(Response::new())
}
