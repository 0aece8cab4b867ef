//! [Querying for information](https://spec.matrix.org/latest/server-server-api/#querying-for-information).

use http::StatusCode;
use ruma::api::{
    error::ErrorKind,
    federation::query::{get_custom_information, get_profile_information, get_room_information},
};

use crate::{
    api::auth::Origin,
    error::{Error, Result},
    outgoing::appservices,
    rooms::{self, aliases, servers},
    server::Server,
    users::profiles,
};

/// `GET /_matrix/federation/v1/query/{queryType}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryquerytype))
///
/// The types that the specification knows have operations of their own; here arrive all others.
pub async fn query_info(
    _: &Server,
    _: Origin,
    req: get_custom_information::v1::Request,
) -> Result<get_custom_information::v1::Response> {
    let message = format!("This server answers no queries of the type {}.", req.query_type);
    Err(Error::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, message))
}

/// `GET /_matrix/federation/v1/query/directory`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1querydirectory))
pub async fn query_room_directory(
    server: &Server,
    _: Origin,
    req: get_room_information::v1::Request,
) -> Result<get_room_information::v1::Response> {
    let outgoing = &server.federation.outgoing;
    appservices::query_room_alias(outgoing, &server.appservices, &server.store, &req.room_alias).await?;
    let read = server.store.read();
    let room = aliases::require(&read, &req.room_alias)?.room;
    let servers = servers::to_join_through(&read, room, server.name())?;
    Ok(get_room_information::v1::Response::new(rooms::get(&read, room)?.id, servers))
}

/// `GET /_matrix/federation/v1/query/profile`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryprofile))
pub async fn query_profile(
    server: &Server,
    _: Origin,
    req: get_profile_information::v1::Request,
) -> Result<get_profile_information::v1::Response> {
    if !server.config().allow_profile_lookup_over_federation {
        return Err(Error::forbidden("This server does not tell other servers of its users' profiles."));
    }
    let outgoing = &server.federation.outgoing;
    appservices::query_user_id(outgoing, &server.appservices, &server.store, &req.user_id).await?;
    let profile = profiles::of_account(&server.store.read(), &req.user_id)?;
    let wanted = |name: &String| req.field.as_ref().is_none_or(|field| field.as_str() == name);
    Ok(profile.fields.into_iter().filter(|(name, _)| wanted(name)).collect())
}
