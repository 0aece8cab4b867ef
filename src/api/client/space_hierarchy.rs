//! [Rooms within spaces](https://spec.matrix.org/latest/client-server-api/#discovering-rooms-within-spaces).

use ruma::api::client::space::get_hierarchy::v1::Request;

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    federation::spaces,
    rooms::{
        spaces::{Page, Walk},
        summary::Viewer,
    },
    server::Server,
};

answers_json! {
    /// A request to walk a space.
    pub struct HierarchyRequest(Request) => Page;
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy))
pub async fn get_space_hierarchy(
    server: &Server,
    user: User,
    HierarchyRequest(req): HierarchyRequest,
) -> Result<Json<Page>> {
    let limit = req.limit.map(u64::from);
    if limit == Some(0) {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    let walk = Walk { max_depth: req.max_depth.map(u64::from), suggested_only: req.suggested_only, limit };
    let viewer = Viewer::User(&user.id);
    spaces::walk(&server.federation, viewer, &req.room_id, walk, req.from.as_deref()).await.map(Json)
}
