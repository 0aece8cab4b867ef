//! [Banning users](https://spec.matrix.org/latest/client-server-api/#banning-users-in-a-room).

use ruma::api::client::membership::{ban_user, unban_user};
use serde_json::json;

use crate::{
    api::auth::User,
    error::Result,
    federation::{leave, missing_members},
    rooms::membership::{Content, Removal},
    server::Server,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidban))
pub async fn ban(server: &Server, user: User, req: ban_user::v3::Request) -> Result<ban_user::v3::Response> {
    let content = content(req.reason, req.redact_events);
    missing_members::known(&server.federation, &req.room_id, &req.user_id).await?;
    leave::remove(&server.federation, &req.room_id, &user.id, &req.user_id, Removal::Ban, content).await?;
    server.rooms.chores.notify_one(); // there may be something to redact
    Ok(ban_user::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidunban))
pub async fn unban(server: &Server, user: User, req: unban_user::v3::Request) -> Result<unban_user::v3::Response> {
    let content = content(req.reason, false);
    missing_members::known(&server.federation, &req.room_id, &req.user_id).await?;
    leave::remove(&server.federation, &req.room_id, &user.id, &req.user_id, Removal::Unban, content).await?;
    Ok(unban_user::v3::Response::new())
}

/// What a removal says beyond the membership; `redact_events` is
/// [MSC4293](https://github.com/matrix-org/matrix-spec-proposals/pull/4293)'s.
pub(super) fn content(reason: Option<String>, redact_events: bool) -> Content {
    let mut content = Content::new();
    content.extend(reason.map(|reason| ("reason".to_owned(), json!(reason))));
    content.extend(redact_events.then(|| ("org.matrix.msc4293.redact_events".to_owned(), json!(true))));
    content
}
