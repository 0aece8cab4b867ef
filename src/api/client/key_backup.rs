//! Server-side backups of room keys.

use std::collections::BTreeMap;

use ruma::{
    RoomId,
    api::client::backup::{
        RoomKeyBackup, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session, create_backup_version,
        delete_backup_keys, delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    api::auth::User,
    error::{Error, Result},
    server::Server,
    users::key_backup::{self, Description, Scope, State},
};

/// `POST /_matrix/client/v3/room_keys/version`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3room_keysversion))
pub async fn post_room_keys_version(
    server: &Server,
    user: User,
    req: create_backup_version::v3::Request,
) -> Result<create_backup_version::v3::Response> {
    let description = Description::parse(req.algorithm.json())?;
    let version = server.store.write(|tx| key_backup::create(tx, &user.id, description))?;
    Ok(create_backup_version::v3::Response::new(version))
}

/// `GET /_matrix/client/v3/room_keys/version`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keysversion))
pub async fn get_room_keys_version_current(
    server: &Server,
    user: User,
    _: get_latest_backup_info::v3::Request,
) -> Result<get_latest_backup_info::v3::Response> {
    let (version, backup) = key_backup::current(&server.store.read(), &user.id)?;
    let (count, etag) = key_backup::state(&backup);
    let algorithm = Raw::from_json(key_backup::description(&backup)?);
    Ok(get_latest_backup_info::v3::Response::new(algorithm, count, etag, version.to_string()))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keysversionversion))
pub async fn get_room_keys_version(
    server: &Server,
    user: User,
    req: get_backup_info::v3::Request,
) -> Result<get_backup_info::v3::Response> {
    let (version, backup) = key_backup::require(&server.store.read(), &user.id, &req.version)?;
    let (count, etag) = key_backup::state(&backup);
    let algorithm = Raw::from_json(key_backup::description(&backup)?);
    Ok(get_backup_info::v3::Response::new(algorithm, count, etag, version.to_string()))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keysversionversion))
pub async fn put_room_keys_version(
    server: &Server,
    user: User,
    req: update_backup_version::v3::Request,
) -> Result<update_backup_version::v3::Response> {
    let description = Description::parse(req.algorithm.json())?;
    server.store.write(|tx| key_backup::update(tx, &user.id, &req.version, description))?;
    Ok(update_backup_version::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keysversionversion))
pub async fn delete_room_keys_version(
    server: &Server,
    user: User,
    req: delete_backup_version::v3::Request,
) -> Result<delete_backup_version::v3::Response> {
    server.store.write(|tx| key_backup::delete(tx, &user.id, &req.version))?;
    Ok(delete_backup_version::v3::Response::new())
}

/// Adds keys to a version.
fn add<'a>(
    server: &Server,
    user: &User,
    version: &str,
    keys: impl IntoIterator<Item = (&'a RoomId, &'a str, &'a RawValue)>,
) -> Result<State> {
    server.store.write(|tx| key_backup::add(tx, &user.id, version, keys))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid))
pub async fn put_room_key_by_session_id(
    server: &Server,
    user: User,
    req: add_backup_keys_for_session::v3::Request,
) -> Result<add_backup_keys_for_session::v3::Response> {
    let key = (&*req.room_id, req.session_id.as_str(), req.session_data.json());
    let (count, etag) = add(server, &user, &req.version, [key])?;
    Ok(add_backup_keys_for_session::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeysroomid))
pub async fn put_room_keys_by_room_id(
    server: &Server,
    user: User,
    req: add_backup_keys_for_room::v3::Request,
) -> Result<add_backup_keys_for_room::v3::Response> {
    let keys = req.sessions.iter().map(|(session, key)| (&*req.room_id, session.as_str(), key.json()));
    let (count, etag) = add(server, &user, &req.version, keys)?;
    Ok(add_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeys))
pub async fn put_room_keys(
    server: &Server,
    user: User,
    req: add_backup_keys::v3::Request,
) -> Result<add_backup_keys::v3::Response> {
    let keys = req.rooms.iter().flat_map(|(room, backup)| {
        backup.sessions.iter().map(move |(session, key)| (&**room, session.as_str(), key.json()))
    });
    let (count, etag) = add(server, &user, &req.version, keys)?;
    Ok(add_backup_keys::v3::Response::new(etag, count))
}

/// The keys of a version that `scope` names, as ruma has them.
fn keys(
    server: &Server,
    user: &User,
    version: &str,
    scope: Scope<'_>,
) -> Result<BTreeMap<ruma::OwnedRoomId, RoomKeyBackup>> {
    let keys = key_backup::get(&server.store.read(), &user.id, version, scope)?;
    let room = |sessions: BTreeMap<String, Box<RawValue>>| {
        RoomKeyBackup::new(sessions.into_iter().map(|(session, key)| (session, Raw::from_json(key))).collect())
    };
    Ok(keys.into_iter().map(|(id, sessions)| (id, room(sessions))).collect())
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid))
pub async fn get_room_key_by_session_id(
    server: &Server,
    user: User,
    req: get_backup_keys_for_session::v3::Request,
) -> Result<get_backup_keys_for_session::v3::Response> {
    let scope = Scope::Session(&req.room_id, &req.session_id);
    let mut sessions = keys(server, &user, &req.version, scope)?.into_values().flat_map(|room| room.sessions);
    let (_, key) =
        sessions.next().ok_or_else(|| Error::not_found("There is no key for the session in this backup."))?;
    Ok(get_backup_keys_for_session::v3::Response::new(key))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeysroomid))
pub async fn get_room_keys_by_room_id(
    server: &Server,
    user: User,
    req: get_backup_keys_for_room::v3::Request,
) -> Result<get_backup_keys_for_room::v3::Response> {
    let rooms = keys(server, &user, &req.version, Scope::Room(&req.room_id))?;
    let sessions = rooms.into_values().flat_map(|room| room.sessions).collect();
    Ok(get_backup_keys_for_room::v3::Response::new(sessions))
}

/// `GET /_matrix/client/v3/room_keys/keys`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeys))
pub async fn get_room_keys(
    server: &Server,
    user: User,
    req: get_backup_keys::v3::Request,
) -> Result<get_backup_keys::v3::Response> {
    Ok(get_backup_keys::v3::Response::new(keys(server, &user, &req.version, Scope::All)?))
}

/// Deletes the keys of a version that `scope` names.
fn remove(server: &Server, user: &User, version: &str, scope: Scope<'_>) -> Result<State> {
    server.store.write(|tx| key_backup::remove(tx, &user.id, version, scope))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid))
pub async fn delete_room_key_by_session_id(
    server: &Server,
    user: User,
    req: delete_backup_keys_for_session::v3::Request,
) -> Result<delete_backup_keys_for_session::v3::Response> {
    let (count, etag) = remove(server, &user, &req.version, Scope::Session(&req.room_id, &req.session_id))?;
    Ok(delete_backup_keys_for_session::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeysroomid))
pub async fn delete_room_keys_by_room_id(
    server: &Server,
    user: User,
    req: delete_backup_keys_for_room::v3::Request,
) -> Result<delete_backup_keys_for_room::v3::Response> {
    let (count, etag) = remove(server, &user, &req.version, Scope::Room(&req.room_id))?;
    Ok(delete_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeys))
pub async fn delete_room_keys(
    server: &Server,
    user: User,
    req: delete_backup_keys::v3::Request,
) -> Result<delete_backup_keys::v3::Response> {
    let (count, etag) = remove(server, &user, &req.version, Scope::All)?;
    Ok(delete_backup_keys::v3::Response::new(etag, count))
}
