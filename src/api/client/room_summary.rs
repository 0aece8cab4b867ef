//! [Room summaries](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1room_summaryroomidoralias).

use ruma::{api::client::room::get_summary::v1::Request, events::room::member::MembershipState};
use serde::Serialize;

use super::joining::resolve;
use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    rooms::{
        self, members,
        summary::{self, Summary, Viewer},
    },
    server::Server,
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
    let snapshot = server.store.read();
    let not_found = || Error::not_found("There is no such room, or you may not see it.");
    let room_id = resolve(server, &snapshot, &req.room_id_or_alias)?;
    let no = rooms::find(&snapshot, &room_id)?.ok_or_else(not_found)?;
    let room = rooms::get(&snapshot, no)?;
    let user = user.as_ref().map(|user| &*user.id);
    if !summary::may_be_shown(&snapshot, no, &room, user.map_or(Viewer::Anyone, Viewer::User))? {
        return Err(not_found());
    }
    let membership = match user {
        Some(user) => {
            let member = members::get(&snapshot, no, user)?;
            Some(member.map_or(MembershipState::Leave, |member| member.membership))
        }
        None => None,
    };
    Ok(Json(RoomSummary { summary: summary::of(&snapshot, no, &room)?, membership }))
}
