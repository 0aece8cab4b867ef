//! [Rooms within spaces](https://spec.matrix.org/latest/client-server-api/#discovering-rooms-within-spaces).

use ruma::api::client::space::get_hierarchy::v1::Request;
use serde::Serialize;

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    rooms::spaces::{self, Chunk, Walk},
    server::Server,
};

answers_json! {
    /// A request to walk a space.
    pub struct HierarchyRequest(Request) => Hierarchy;
}

/// A page of a space's rooms.
#[derive(Serialize)]
pub struct Hierarchy {
    rooms: Vec<Chunk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidhierarchy))
pub async fn get_space_hierarchy(
    server: &Server,
    user: User,
    HierarchyRequest(req): HierarchyRequest,
) -> Result<Json<Hierarchy>> {
    let limit = req.limit.map(u64::from);
    if limit == Some(0) {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    let walk = Walk { max_depth: req.max_depth.map(u64::from), suggested_only: req.suggested_only, limit };
    let page = spaces::page(&server.store.read(), &user.id, &req.room_id, walk, req.from.as_deref())?;
    Ok(Json(Hierarchy { rooms: page.rooms, next_batch: page.next_batch }))
}
