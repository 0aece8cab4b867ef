//! [Rooms within spaces](https://spec.matrix.org/latest/server-server-api/#spaces), for other servers.

use ruma::api::federation::space::get_hierarchy::v1::Request;

use crate::{
    answers_json,
    api::{auth::Origin, own::Json},
    error::{Error, Result},
    rooms::{
        spaces::{self, Hierarchy},
        summary::Viewer,
    },
    server::Server,
};

answers_json! {
    /// A request for a space and its children, whose answer writes all join rules out.
    pub struct HierarchyRequest(Request) => Hierarchy;
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid))
pub async fn get_space_hierarchy(
    server: &Server,
    origin: Origin,
    HierarchyRequest(req): HierarchyRequest,
) -> Result<Json<Hierarchy>> {
    let viewer = Viewer::Server(&origin.server);
    let hierarchy = spaces::hierarchy(&server.store.read(), viewer, &req.room_id, req.suggested_only)?;
    hierarchy.map(Json).ok_or_else(|| Error::not_found("This server does not know the room, or you may not see it."))
}
