//! [Room aliases](https://spec.matrix.org/latest/client-server-api/#room-aliases).

use http::StatusCode;
use ruma::{
    RoomAliasId,
    api::{
        client::{
            alias::{create_alias, delete_alias, get_alias},
            room::aliases as room_aliases,
        },
        error::ErrorKind,
    },
    events::StateEventType,
};

use crate::{
    api::auth::{Anyone, User},
    error::{Error, Result},
    federation::{self, policy},
    ids::RoomNo,
    rooms::{self, Room, aliases, build::Draft, members, membership::Content, power_levels, state, summary, upgrade},
    server::Server,
    store::Read,
    users::accounts,
};

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3directoryroomroomalias))
pub async fn set_room_alias(
    server: &Server,
    user: User,
    req: create_alias::v3::Request,
) -> Result<create_alias::v3::Response> {
    let alias = &*req.room_alias;
    if alias.server_name() != server.name() {
        return Err(Error::invalid_param(format!("Only aliases of {} can be made here.", server.name())));
    }
    aliases::parse_new(server.name(), &server.appservices, user.appservice.as_deref(), alias.alias())?;
    server.store.write(|tx| {
        let (no, _) = rooms::require(tx, &req.room_id)?;
        if !members::is_joined(tx, no, &user.id)? {
            return Err(Error::forbidden("You are not in the room that the alias is to point to."));
        }
        if aliases::get(tx, alias)?.is_some() {
            let message = format!("The alias {alias} exists already.");
            return Err(Error::new(StatusCode::CONFLICT, ErrorKind::RoomInUse, message));
        }
        aliases::set(tx, alias, no, &user.id)
    })?;
    Ok(create_alias::v3::Response::new())
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3directoryroomroomalias))
pub async fn get_room_id_by_alias(
    server: &Server,
    _: Anyone,
    req: get_alias::v3::Request,
) -> Result<get_alias::v3::Response> {
    let located = federation::directory::locate(&server.federation, &req.room_alias).await?;
    Ok(get_alias::v3::Response::new(located.room_id, located.servers))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3directoryroomroomalias))
pub async fn delete_room_alias(
    server: &Server,
    user: User,
    req: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response> {
    let alias = &*req.room_alias;
    let found = aliases::require(&server.store.read(), alias)?;
    let room = rooms::get(&server.store.read(), found.room)?;
    let guard = server.rooms.lock(&room.id).await;
    server.store.write(|tx| {
        let found = aliases::require(tx, alias)?;
        if found.creator != user.id
            && !user.appservice.as_ref().is_some_and(|service| service.has_alias(alias))
            && !accounts::require(tx, &user.id)?.admin
            && !may_curate(tx, &user, found.room, &room)?
        {
            return Err(Error::forbidden("Only who made an alias or has power in its room may delete it."));
        }
        aliases::remove(tx, alias)
    })?;
    // The alias is gone; that the room still names it, if the user may not change that, is no failure.
    let canonical = canonical_without(&server.store.read(), found.room, alias)?;
    if let Some(content) = canonical {
        let draft = Draft::state(StateEventType::RoomCanonicalAlias, "", &content)?;
        if let Err(error) = policy::send_and(&server.federation, &guard, &user.id, draft, |_, _| Ok(())).await
            && error.status() != StatusCode::FORBIDDEN
        {
            return Err(error);
        }
    }
    Ok(delete_alias::v3::Response::new())
}

/// Whether the user decides which aliases the room names, and whether it is listed.
///
/// # Errors
/// When the store fails.
pub(super) fn may_curate(read: &dyn Read, user: &User, no: RoomNo, room: &Room) -> Result<bool> {
    Ok(members::is_joined(read, no, &user.id)?
        && power_levels::of_room(read, no, room)?.user_can_send_state(&user.id, StateEventType::RoomCanonicalAlias))
}

/// What the room's canonical aliases are without this one, if it is among them.
fn canonical_without(read: &dyn Read, room: RoomNo, alias: &RoomAliasId) -> Result<Option<Content>> {
    let content: Option<Content> = state::content(read, room, &StateEventType::RoomCanonicalAlias, "")?;
    let Some(content) = content else { return Ok(None) };
    let without = upgrade::without_aliases(content.clone(), |listed| listed == alias.as_str());
    Ok((without != content).then_some(without))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidaliases))
pub async fn get_local_aliases(
    server: &Server,
    user: User,
    req: room_aliases::v3::Request,
) -> Result<room_aliases::v3::Response> {
    let snapshot = server.store.read();
    match rooms::find(&snapshot, &req.room_id)? {
        Some(no) if members::is_joined(&snapshot, no, &user.id)? || summary::is_world_readable(&snapshot, no)? => {
            Ok(room_aliases::v3::Response::new(aliases::of_room(&snapshot, no)?))
        }
        _ => Err(Error::forbidden("You are not in this room.")),
    }
}
