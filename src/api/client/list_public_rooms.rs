//! [The published room directory](https://spec.matrix.org/latest/client-server-api/#published-room-directory).

use std::sync::Arc;

use http::StatusCode;
use ruma::{
    OwnedRoomId, ServerName,
    api::{
        auth_scheme::AccessTokenOptional,
        client::{
            directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
            room::Visibility,
        },
        error::ErrorKind,
    },
    directory::{Filter, RoomNetwork},
};
use serde::Deserialize;

use super::directory::may_curate;
use crate::{
    answers_json,
    api::{
        auth::{Anyone, User},
        own::{self, Json},
    },
    error::{Error, Result},
    federation::{self, directory::Listing},
    reads,
    rooms::{
        self,
        directory::{self, Page},
    },
    server::Server,
    stands_in_for,
    users::accounts,
};

answers_json! {
    /// A request for the directory, whose answer writes all join rules out. It may need a token.
    pub struct ListRequest(get_public_rooms::v3::Request, AccessTokenOptional) => Page;
}
answers_json! {
    /// A search in the directory, whose answer writes all join rules out.
    pub struct QueryRequest(get_public_rooms_filtered::v3::Request) => Page;
}

/// `GET /_matrix/client/v3/publicRooms`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3publicrooms))
pub async fn get_public_rooms(
    server: &Server,
    user: Option<User>,
    ListRequest(req): ListRequest,
) -> Result<Json<Page>> {
    if user.is_none() && !server.config().allow_public_room_directory_without_auth {
        let message = "Log in to see the rooms of this server.";
        return Err(Error::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, message));
    }
    let limit = req.limit.map(Into::into);
    page(server, req.server.as_deref(), &RoomNetwork::Matrix, &Filter::new(), req.since.as_deref(), limit).await
}

/// `POST /_matrix/client/v3/publicRooms`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3publicrooms))
pub async fn query_public_rooms(server: &Server, _: User, QueryRequest(req): QueryRequest) -> Result<Json<Page>> {
    let limit = req.limit.map(Into::into);
    page(server, req.server.as_deref(), &req.room_network, &req.filter, req.since.as_deref(), limit).await
}

async fn page(
    server: &Server,
    of: Option<&ServerName>,
    network: &RoomNetwork,
    filter: &Filter,
    since: Option<&str>,
    limit: Option<u64>,
) -> Result<Json<Page>> {
    if let Some(other) = of.filter(|of| *of != server.name()) {
        let listing = Listing { network, filter, since, limit };
        let page = federation::directory::page_of(&server.federation, other, listing).await?;
        return Ok(Json(Arc::unwrap_or_clone(page)));
    }
    directory::page(&server.store.read(), network, filter, since, limit).map(Json)
}

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3directorylistroomroomid))
pub async fn get_room_visibility_on_directory(
    server: &Server,
    _: Anyone,
    req: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response> {
    let snapshot = server.store.read();
    let (no, _) = rooms::require(&snapshot, &req.room_id)?;
    let visibility = if directory::is_published(&snapshot, no)? { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// A request to list a room, or no longer: ruma's does not know that `public` is the default.
pub struct SetVisibilityRequest {
    room_id: OwnedRoomId,
    visibility: Visibility,
}
stands_in_for!(SetVisibilityRequest, set_room_visibility::v3::Request);

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3directorylistroomroomid))
pub async fn set_room_visibility_on_directory(
    server: &Server,
    user: User,
    req: SetVisibilityRequest,
) -> Result<set_room_visibility::v3::Response> {
    let published = match req.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("visibility must be public or private.")),
    };
    server.store.write(|tx| {
        let (no, room) = rooms::require(tx, &req.room_id)?;
        if !accounts::require(tx, &user.id)?.admin && !may_curate(tx, &user, no, &room)? {
            return Err(Error::forbidden("You have not the power to decide whether this room is listed."));
        }
        directory::set_published(tx, no, published);
        Ok(())
    })?;
    Ok(set_room_visibility::v3::Response::new())
}

reads!(SetVisibilityRequest => set_room_visibility::v3::Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Body {
        visibility: Option<Visibility>,
    }
    let (room_id,) = own::path(path_args)?;
    let body: Body = own::body(&request)?;
    Self { room_id, visibility: body.visibility.unwrap_or(Visibility::Public) }
});
