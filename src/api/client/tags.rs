//! Tags of rooms: the account data `m.tag` of a room, one tag at a time.

use ruma::{
    OwnedRoomId,
    api::client::tag::{create_tag, delete_tag, get_tags},
    events::tag::{TagInfo, TagName, Tags},
};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use crate::{
    api::auth::User,
    error::{Error, Result},
    ids::RoomNo,
    rooms,
    server::Server,
    store::{Read, Tx},
    users::account_data,
};

/// The longest name of a tag, in bytes (spec: "Room Tagging").
const MAX_NAME: usize = 255;

/// How many tags a room can have.
const MAX_TAGS: usize = 1_000;

/// The content of `m.tag`. Ruma's type has no default for a missing map.
#[derive(Default, Deserialize, Serialize)]
struct TagContent {
    #[serde(default)]
    tags: Tags,
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridroomsroomidtags))
pub async fn get_room_tags(server: &Server, user: User, req: get_tags::v3::Request) -> Result<get_tags::v3::Response> {
    user.require_self(&req.user_id, "You cannot see the tags of others.")?;
    let read = server.store.read();
    let (room, _) = rooms::require(&read, &req.room_id)?;
    Ok(get_tags::v3::Response::new(tags(&read, &user, room)?.tags))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag))
pub async fn set_room_tag(
    server: &Server,
    user: User,
    req: create_tag::v3::Request,
) -> Result<create_tag::v3::Response> {
    user.require_self(&req.user_id, "You cannot set the tags of others.")?;
    if req.tag.len() > MAX_NAME {
        return Err(Error::invalid_param(format!("The name of a tag must not be longer than {MAX_NAME} bytes.")));
    }
    change(server, &user, req.room_id, |tags| set(tags, TagName::from(req.tag), req.tag_info))?;
    Ok(create_tag::v3::Response::new())
}

fn set(tags: &mut Tags, name: TagName, info: TagInfo) -> Result<()> {
    tags.insert(name, info);
    if tags.len() > MAX_TAGS { Err(Error::invalid_param("This room has too many tags.")) } else { Ok(()) }
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag))
pub async fn delete_room_tag(
    server: &Server,
    user: User,
    req: delete_tag::v3::Request,
) -> Result<delete_tag::v3::Response> {
    user.require_self(&req.user_id, "You cannot remove the tags of others.")?;
    change(server, &user, req.room_id, |tags| {
        tags.remove(&TagName::from(req.tag));
        Ok(())
    })?;
    Ok(delete_tag::v3::Response::new())
}

fn change(server: &Server, user: &User, room: OwnedRoomId, change: impl FnOnce(&mut Tags) -> Result<()>) -> Result<()> {
    server.store.write(|tx: &mut Tx<'_>| {
        let (room, _) = rooms::require(tx, &room)?;
        let mut content = tags(tx, user, room)?;
        change(&mut content.tags)?;
        account_data::put(tx, &user.id, Some(room), "m.tag", to_raw_value(&content)?)?;
        Ok(())
    })
}

fn tags(read: &dyn Read, user: &User, room: RoomNo) -> Result<TagContent> {
    let content = account_data::get(read, &user.id, Some(room), "m.tag")?;
    // A client may have written anything there before this type was reserved.
    Ok(content.and_then(|content| serde_json::from_str(content.get()).ok()).unwrap_or_default())
}
