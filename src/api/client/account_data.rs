//! Account data: what clients keep on the server for themselves. An empty object counts as deleted
//! ([MSC3391](https://github.com/matrix-org/matrix-spec-proposals/pull/3391), a proposal).

use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedUserId, UserId,
    api::{
        auth_scheme::AccessToken,
        client::config::{
            get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
        },
        error::ErrorKind,
    },
    serde::Raw,
};
use serde_json::{Map, Value as JsonValue, json, value::RawValue};

use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    operation,
    rooms::{self, notifications},
    server::Server,
    store::Tx,
    users::account_data,
};

/// The longest type, in bytes.
const MAX_TYPE: usize = 255;

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridaccount_datatype))
pub async fn set_account_data(
    server: &Server,
    user: User,
    req: set_global_account_data::v3::Request,
) -> Result<set_global_account_data::v3::Response> {
    user.require_self(&req.user_id, "You cannot set the account data of others.")?;
    let kind = req.event_type.to_string();
    let content = checked(&kind, req.data)?;
    server.store.write(|tx| {
        account_data::put(tx, &user.id, None, &kind, content)?;
        changed(tx, server, &user.id, &kind)
    })?;
    Ok(set_global_account_data::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridaccount_datatype))
pub async fn get_account_data(
    server: &Server,
    user: User,
    req: get_global_account_data::v3::Request,
) -> Result<get_global_account_data::v3::Response> {
    user.require_self(&req.user_id, "You cannot see the account data of others.")?;
    let content = account_data::get(&server.store.read(), &user.id, None, &req.event_type.to_string())?;
    let content = content.filter(|content| !account_data::is_deleted(content));
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(content.ok_or_else(absent)?)))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype))
pub async fn set_account_data_per_room(
    server: &Server,
    user: User,
    req: set_room_account_data::v3::Request,
) -> Result<set_room_account_data::v3::Response> {
    user.require_self(&req.user_id, "You cannot set the account data of others.")?;
    let kind = req.event_type.to_string();
    let content = checked(&kind, req.data)?;
    server.store.write(|tx| {
        let (room, _) = rooms::require(tx, &req.room_id)?;
        account_data::put(tx, &user.id, Some(room), &kind, content)
    })?;
    Ok(set_room_account_data::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype))
pub async fn get_account_data_per_room(
    server: &Server,
    user: User,
    req: get_room_account_data::v3::Request,
) -> Result<get_room_account_data::v3::Response> {
    user.require_self(&req.user_id, "You cannot see the account data of others.")?;
    let read = server.store.read();
    let (room, _) = rooms::require(&read, &req.room_id)?;
    let content = account_data::get(&read, &user.id, Some(room), &req.event_type.to_string())?;
    let content = content.filter(|content| !account_data::is_deleted(content));
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(content.ok_or_else(absent)?)))
}

/// A request to delete account data.
pub struct DeleteAccountDataRequest {
    user_id: OwnedUserId,
    kind: String,
}
operation!(
    DELETE "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}",
    AccessToken: DeleteAccountDataRequest => Json<JsonValue>,
    |_request, args| {
        let (user_id, kind) = own::path(args)?;
        Self { user_id, kind }
    }
);

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3391))
pub async fn delete_account_data(
    server: &Server,
    user: User,
    req: DeleteAccountDataRequest,
) -> Result<Json<JsonValue>> {
    user.require_self(&req.user_id, "You cannot delete the account data of others.")?;
    check_type(&req.kind)?;
    server.store.write(|tx| {
        account_data::delete(tx, &user.id, None, &req.kind)?;
        changed(tx, server, &user.id, &req.kind)
    })?;
    Ok(Json(json!({})))
}

/// A request to delete account data of a room.
pub struct DeleteRoomAccountDataRequest {
    user_id: OwnedUserId,
    room_id: OwnedRoomId,
    kind: String,
}
operation!(
    DELETE "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
    AccessToken: DeleteRoomAccountDataRequest => Json<JsonValue>,
    |_request, args| {
        let (user_id, room_id, kind) = own::path(args)?;
        Self { user_id, room_id, kind }
    }
);

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/3391))
pub async fn delete_account_data_per_room(
    server: &Server,
    user: User,
    req: DeleteRoomAccountDataRequest,
) -> Result<Json<JsonValue>> {
    user.require_self(&req.user_id, "You cannot delete the account data of others.")?;
    check_type(&req.kind)?;
    server.store.write(|tx| {
        let (room, _) = rooms::require(tx, &req.room_id)?;
        account_data::delete(tx, &user.id, Some(room), &req.kind)
    })?;
    Ok(Json(json!({})))
}

/// Follows a change of what the server looks at itself: what ignored users write does not count as unread.
fn changed(tx: &mut Tx<'_>, server: &Server, user: &UserId, kind: &str) -> Result<()> {
    match kind {
        "m.ignored_user_list" => notifications::rules_changed(tx, &server.rooms.rosters, user),
        _ => Ok(()),
    }
}

fn absent() -> Error {
    Error::not_found("There is no account data of this type.")
}

/// Refuses to touch what the server keeps itself.
fn check_type(kind: &str) -> Result<()> {
    if matches!(kind, "m.fully_read" | "m.push_rules") {
        let message = format!("{kind} has endpoints of its own; it cannot be set as account data.");
        return Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, message));
    }
    Ok(())
}

/// The content, if clients may write it: an object, of a type that the server does not keep itself.
fn checked<T>(kind: &str, data: Raw<T>) -> Result<Box<RawValue>> {
    check_type(kind)?;
    if kind.len() > MAX_TYPE {
        return Err(Error::invalid_param(format!("A type must not be longer than {MAX_TYPE} bytes.")));
    }
    let content = data.into_json();
    serde_json::from_str::<Map<String, JsonValue>>(content.get())
        .map_err(|_| Error::bad_json("Account data must be a JSON object."))?;
    Ok(content)
}
