//! [Rooms within spaces](https://spec.matrix.org/latest/client-server-api/#discovering-rooms-within-spaces).

use ruma::api::client::space::get_hierarchy::v1::Request;

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    rooms::{
        spaces::{self, Known, Page, Walk, Walker},
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
    let mut walker = Walker::new(&req.room_id, Vec::new(), walk, req.from.as_deref())?;
    while let Some(step) = walker.next() {
        match spaces::chunk(&server.store.read(), Viewer::User(&user.id), &step.room, walker.suggested_only())? {
            Known::Shown(chunk) => walker.found(&step, chunk),
            _ if step.room == req.room_id => return Err(Error::forbidden("You may not see this room.")),
            _ => {}
        }
    }
    Ok(Json(walker.page()))
}
