//! [Creating rooms](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom).

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{
        client::{
            membership::Invite3pid,
            room::{
                Visibility,
                create_room::v3::{Request, Response, RoomPreset},
            },
        },
        error::ErrorKind,
    },
};

use super::{
    administrative_contact::identity_server, room_send::check_encryption, third_party_membership::invite_by_3pid,
};
use crate::{
    api::auth::User,
    config::Config,
    error::{Error, Result},
    federation::invite,
    rooms::{
        aliases,
        create::{self, Creation, InitialState},
        membership::Content,
    },
    server::Server,
    users::accounts,
};

/// How many servers are told of invitations at a time.
const INVITES_AT_ONCE: usize = 10;

/// `POST /_matrix/client/v3/createRoom`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom))
pub async fn create_room(server: &Server, user: User, req: Request) -> Result<Response> {
    may_create(server, &user)?;
    let new_alias = |name| aliases::parse_new(server.name(), &server.appservices, user.appservice.as_deref(), name);
    let alias = req.room_alias_name.as_deref().map(new_alias).transpose()?;
    for invited in &req.invite_3pid {
        identity_server(server, &invited.id_server, &invited.id_access_token)?;
    }
    if req.invite.len() + req.invite_3pid.len() > create::MAX_INVITES || req.initial_state.len() > create::MAX_STATE {
        let (users, events) = (create::MAX_INVITES, create::MAX_STATE);
        let message = format!("A room is made with at most {users} invitations and {events} state events.");
        return Err(Error::invalid_param(message));
    }
    let preset = match req.preset {
        Some(preset @ (RoomPreset::PrivateChat | RoomPreset::PublicChat | RoomPreset::TrustedPrivateChat)) => preset,
        Some(_) => {
            return Err(Error::invalid_param("preset must be private_chat, trusted_private_chat or public_chat."));
        }
        None if req.visibility == Visibility::Public => RoomPreset::PublicChat,
        None => RoomPreset::PrivateChat,
    };
    let bad = |field: &'static str| move |_| Error::bad_json(format!("{field} is not of the right form."));
    let creation = Creation {
        version: version(&server.config(), req.room_version)?,
        content: create_content(req.creation_content.map(|raw| raw.into_json()).as_deref())?,
        preset,
        published: req.visibility == Visibility::Public,
        alias,
        name: req.name,
        topic: req.topic,
        initial_state: req
            .initial_state
            .iter()
            .map(|state| serde_json::from_str::<InitialState>(state.json().get()).map_err(bad("initial_state")))
            .collect::<Result<_>>()?,
        power_levels: match &req.power_level_content_override {
            Some(levels) => serde_json::from_str(levels.json().get()).map_err(bad("power_level_content_override"))?,
            None => Content::new(),
        },
        invites: req.invite,
        is_direct: req.is_direct,
        creator: user.id,
    };
    creation.initial_state.iter().try_for_each(|state| check_encryption(server, &state.kind))?;
    let room_id = server.store.write(|tx| create::create(tx, &server.rooms, &creation))?;
    invite_elsewhere(server, &creation, &room_id).await;
    invite_addresses(server, &creation.creator, &room_id, &req.invite_3pid).await;
    Ok(Response::new(room_id))
}

/// Invites the users of other servers into the new room. It is there already, so a server that cannot be reached is no
/// reason to say that it could not be made: its users are missing in it, and can be invited again.
async fn invite_elsewhere(server: &Server, creation: &Creation, room: &RoomId) {
    let invite = async |user: &OwnedUserId| {
        let creator = &creation.creator;
        let invited = invite::invite(&server.federation, room, creator, user, None, creation.is_direct).await;
        if let Err(error) = invited {
            tracing::debug!("{creator} cannot invite {user} to {room}: {error}");
        }
    };
    let elsewhere: BTreeSet<_> = creation.invites.iter().filter(|user| user.server_name() != server.name()).collect();
    stream::iter(elsewhere).for_each_concurrent(INVITES_AT_ONCE, invite).await;
}

/// The same for people whose addresses are known. Who cannot be invited so can be invited again.
async fn invite_addresses(server: &Server, creator: &UserId, room: &RoomId, addresses: &[Invite3pid]) {
    for invited in addresses {
        if let Err(error) = invite_by_3pid(server, room, creator, invited).await {
            tracing::debug!("{creator} cannot invite somebody to {room} by their address: {error}");
        }
    }
}

fn may_create(server: &Server, user: &User) -> Result<()> {
    if !server.config().allow_room_creation && !accounts::require(&server.store.read(), &user.id)?.admin {
        return Err(Error::forbidden("Room creation is disabled on this server."));
    }
    Ok(())
}

/// The version to create a room with: the one that is asked for, or the server's default.
///
/// # Errors
/// 400 `M_UNSUPPORTED_ROOM_VERSION`.
pub fn version(config: &Config, asked: Option<RoomVersionId>) -> Result<RoomVersionId> {
    let version = asked.unwrap_or_else(|| config.default_room_version.clone());
    if version.rules().is_none() {
        let message = format!("This server does not know room version {version}.");
        return Err(Error::bad_request(ErrorKind::UnsupportedRoomVersion, message));
    }
    Ok(version)
}

/// What the client wants in the create event. Creator and version are the server's to say.
fn create_content(given: Option<&serde_json::value::RawValue>) -> Result<Content> {
    let bad = |message: &str| Error::bad_json(format!("creation_content: {message}"));
    let Some(given) = given else { return Ok(Content::new()) };
    let mut content: Content = serde_json::from_str(given.get()).map_err(|_| bad("must be an object."))?;
    content.remove("creator");
    content.remove("room_version");
    if content.get("m.federate").is_some_and(|federate| !federate.is_boolean()) {
        return Err(bad("m.federate must be true or false."));
    }
    if content.get("type").is_some_and(|kind| !kind.is_string()) {
        return Err(bad("type must be a string."));
    }
    Ok(content)
}
