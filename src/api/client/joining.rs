//! [Joining rooms](https://spec.matrix.org/latest/client-server-api/#joining-rooms).

use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomId, RoomOrAliasId,
    api::{
        client::membership::{ThirdPartySigned, join_room_by_id, join_room_by_id_or_alias},
        error::DeserializationError,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::{auth::User, own},
    error::{Error, Result},
    federation::{self, third_party_invite},
    reads,
    rooms::{self, guests, membership::Content},
    server::Server,
    stands_in_for,
};

/// A request to join a room by its ID. All of its body goes into the member event, as clients put fields of their own
/// there.
pub struct ByIdRequest {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    proof: Option<Value>,
    content: Content,
}
stands_in_for!(ByIdRequest, join_room_by_id::v3::Request);

/// A request to join a room by its ID or alias.
pub struct ByIdOrAliasRequest {
    room: OwnedRoomOrAliasId,
    via: Vec<OwnedServerName>,
    proof: Option<Value>,
    content: Content,
}
stands_in_for!(ByIdOrAliasRequest, join_room_by_id_or_alias::v3::Request);

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidjoin))
pub async fn join_room_by_id(server: &Server, user: User, req: ByIdRequest) -> Result<join_room_by_id::v3::Response> {
    accept(server, &user, &req.room_id, req.proof).await?;
    join(server, &user, &req.room_id, req.via, req.content).await?;
    Ok(join_room_by_id::v3::Response::new(req.room_id))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3joinroomidoralias))
pub async fn join_room(
    server: &Server,
    user: User,
    req: ByIdOrAliasRequest,
) -> Result<join_room_by_id_or_alias::v3::Response> {
    let (room_id, via) = locate(server, &req.room, req.via).await?;
    accept(server, &user, &room_id, req.proof).await?;
    join(server, &user, &room_id, via, req.content).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// Has the invitation issued that came to the user's e-mail address, if an identity server's word for that comes with the
/// request ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3joinroomidoralias)).
async fn accept(server: &Server, user: &User, room: &RoomId, proof: Option<Value>) -> Result<()> {
    let Some(signed) = proof else { return Ok(()) };
    let proof: ThirdPartySigned = serde_json::from_value(signed.clone())
        .map_err(|_| Error::bad_json("third_party_signed is not what an identity server signs."))?;
    user.require_self(&proof.mxid, "The identity server signed for another user than you.")?;
    third_party_invite::exchange(&server.federation, room, &proof.sender, &proof.mxid, signed).await
}

async fn join(server: &Server, user: &User, room: &RoomId, via: Vec<OwnedServerName>, content: Content) -> Result<()> {
    if user.guest {
        // Whether a room of other servers admits guests is known once a user of this one is in it.
        let snapshot = server.store.read();
        guests::check_join(&snapshot, rooms::require(&snapshot, room)?.0, &user.id)?;
    }
    federation::join::join(&server.federation, room, &user.id, via, content).await
}

/// The room that an ID or alias names, and the servers through which it can be entered, those in `via` first.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such alias; 502 or 504 when its server does not answer.
pub async fn locate(
    server: &Server,
    room: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    match <&RoomId>::try_from(room) {
        Ok(id) => Ok((id.to_owned(), via)),
        Err(alias) => {
            let located = federation::directory::locate(&server.federation, alias).await?;
            via.extend(located.servers);
            Ok((located.room_id, via))
        }
    }
}

/// What a request says: its path, the servers to try, an identity server's word, and the rest of its body.
type Parts<T> = (T, Vec<OwnedServerName>, Option<Value>, Content);

/// The parts of a request whose path has one variable.
fn parse<T: DeserializeOwned>(
    request: &http::Request<&[u8]>,
    path_args: &[&str],
) -> Result<Parts<T>, DeserializationError> {
    #[derive(Deserialize)]
    struct Query {
        #[serde(default)]
        via: Vec<OwnedServerName>,
        // The name that `via` had before it was one.
        #[serde(default)]
        server_name: Vec<OwnedServerName>,
    }
    let (room,) = own::path(path_args)?;
    let Query { via, server_name } = own::query(request)?;
    let via = if via.is_empty() { server_name } else { via };
    let mut content: Content = own::body(request)?;
    let proof = content.remove("third_party_signed").filter(|proof| !proof.is_null());
    if content.get("reason").is_some_and(|reason| !reason.is_string()) {
        content.remove("reason");
    }
    Ok((room, via, proof, content))
}

reads!(ByIdRequest => join_room_by_id::v3::Response, |request, path_args| {
    let (room_id, via, proof, content) = parse(&request, path_args)?;
    Self { room_id, via, proof, content }
});

reads!(ByIdOrAliasRequest => join_room_by_id_or_alias::v3::Response, |request, path_args| {
    let (room, via, proof, content) = parse(&request, path_args)?;
    Self { room, via, proof, content }
});
