//! [Room summaries](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias).

use ruma::{RoomId, UserId, api::client::room::get_summary::v1::Request, events::room::member::MembershipState};
use serde::Serialize;

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    federation::{directory, spaces as elsewhere},
    rooms::{
        self, members,
        spaces::{self, Known},
        summary::{Summary, Viewer},
    },
    server::Server,
    store::Read,
};

answers_json! {
    /// A request for a room's summary.
    pub struct SummaryRequest(Request) => RoomSummary;
}

/// A room's summary and what the caller has to do with it.
#[derive(Serialize)]
pub struct RoomSummary {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<MembershipState>,
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias))
pub async fn get_room_summary(
    server: &Server,
    user: Option<User>,
    SummaryRequest(req): SummaryRequest,
) -> Result<Json<RoomSummary>> {
    let (room_id, via) = match <&RoomId>::try_from(&*req.room_id_or_alias) {
        Ok(id) => (id.to_owned(), req.via),
        Err(alias) => {
            let located = directory::locate(&server.federation, alias).await?;
            (located.room_id, located.servers)
        }
    };
    let user = user.as_ref().map(|user| &*user.id);
    let viewer = user.map_or(Viewer::Anyone, Viewer::User);
    let known = spaces::summary(&server.store.read(), viewer, &room_id)?;
    let summary = match known {
        Known::Shown(summary) => summary,
        Known::Hidden => return Err(Error::not_found("There is no such room, or you may not see it.")),
        Known::Unknown => elsewhere::summary(&server.federation, viewer, &room_id, &via).await?,
    };
    let membership = match user {
        Some(user) => Some(membership(&server.store.read(), user, &room_id)?),
        None => None,
    };
    Ok(Json(RoomSummary { summary, membership }))
}

/// What the user is in the room; `leave` as well if they never were there.
fn membership(read: &dyn Read, user: &UserId, room: &RoomId) -> Result<MembershipState> {
    let Some(no) = rooms::find(read, room)? else { return Ok(MembershipState::Leave) };
    Ok(members::user_room(read, user, no)?.map_or(MembershipState::Leave, |own| own.membership))
}
