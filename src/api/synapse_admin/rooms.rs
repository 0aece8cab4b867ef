//! Rooms ([reference](https://element-hq.github.io/synapse/latest/admin_api/rooms.html)): lists, details, deletion, blocks.

use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId, RoomId, events::StateEventType};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Dir, Nothing, Paging, Reply, not_here, ok, requests, sort};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    federation::{join, policy},
    ids::RoomNo,
    rooms::{
        self, Room, blocks,
        deletion::{self, Deletion, DeletionStage},
        directory, extremities, members, purge, room_admin, state, summary,
    },
    server::Server,
    store::{
        Direction, Read,
        trees::{ROOM_DELETIONS, ROOMS},
    },
    users::devices,
};

requests! {
    /// `GET /_synapse/admin/v1/rooms`
    ListRooms = GET "/_synapse/admin/v1/rooms" (Nothing, RoomQuery, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}`
    GetRoom = GET "/_synapse/admin/v1/rooms/{room_id}" ((OwnedRoomId,), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/rooms/{room_id}`
    DeleteRoomV1 = DELETE "/_synapse/admin/v1/rooms/{room_id}" ((OwnedRoomId,), Nothing, DeleteOptions);
    /// `DELETE /_synapse/admin/v2/rooms/{room_id}`
    DeleteRoom = DELETE "/_synapse/admin/v2/rooms/{room_id}" ((OwnedRoomId,), Nothing, DeleteOptions);
    /// `GET /_synapse/admin/v2/rooms/{room_id}/delete_status`
    DeletionsOfRoom = GET "/_synapse/admin/v2/rooms/{room_id}/delete_status" ((OwnedRoomId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v2/rooms/delete_status/{delete_id}`
    DeletionById = GET "/_synapse/admin/v2/rooms/delete_status/{delete_id}" ((String,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/block`
    GetBlock = GET "/_synapse/admin/v1/rooms/{room_id}/block" ((OwnedRoomId,), Nothing, Nothing);
    /// `PUT /_synapse/admin/v1/rooms/{room_id}/block`
    PutBlock = PUT "/_synapse/admin/v1/rooms/{room_id}/block" ((OwnedRoomId,), Nothing, Blocked);
    /// `POST /_synapse/admin/v1/rooms/{room_id}/make_room_admin`
    MakeRoomAdmin = POST "/_synapse/admin/v1/rooms/{room}/make_room_admin" ((OwnedRoomOrAliasId,), Nothing, WhichUser);
    /// `POST /_synapse/admin/v1/join/{room}`
    JoinRoom = POST "/_synapse/admin/v1/join/{room}" ((OwnedRoomOrAliasId,), Nothing, OneUser);
    /// `GET /_synapse/admin/v1/rooms/{room_id}/forward_extremities`
    GetExtremities = GET "/_synapse/admin/v1/rooms/{room}/forward_extremities" ((OwnedRoomOrAliasId,), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/rooms/{room_id}/forward_extremities`
    DeleteExtremities = DELETE "/_synapse/admin/v1/rooms/{room}/forward_extremities" ((OwnedRoomOrAliasId,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/purge_history/{room_id}`
    PurgeHistory = POST "/_synapse/admin/v1/purge_history/{room_id}" ((OwnedRoomId,), Nothing, UpTo);
    /// `POST /_synapse/admin/v1/purge_history/{room_id}/{event_id}`
    PurgeHistoryToEvent = POST "/_synapse/admin/v1/purge_history/{room_id}/{event_id}" ((OwnedRoomId, String), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/purge_history_status/{purge_id}`
    PurgeStatus = GET "/_synapse/admin/v1/purge_history_status/{purge_id}" ((OwnedRoomId,), Nothing, Nothing);
}

/// Which rooms to list.
#[derive(Debug, Deserialize)]
pub struct RoomQuery {
    #[serde(flatten)]
    paging: Paging,
    search_term: Option<String>,
    public_rooms: Option<bool>,
    empty_rooms: Option<bool>,
}

/// How to delete a room.
#[derive(Debug, Default, Deserialize)]
pub struct DeleteOptions {
    new_room_user_id: Option<String>,
    #[serde(default)]
    block: bool,
    purge: Option<bool>,
}

/// Whether to block.
#[derive(Debug, Deserialize)]
pub struct Blocked {
    block: bool,
}

/// A user, or the caller.
#[derive(Debug, Deserialize)]
pub struct WhichUser {
    user_id: Option<OwnedUserId>,
}

/// A user.
#[derive(Debug, Deserialize)]
pub struct OneUser {
    user_id: OwnedUserId,
}

/// How much history to delete.
#[derive(Debug, Deserialize)]
pub struct UpTo {
    purge_up_to_ts: Option<u64>,
    purge_up_to_event_id: Option<String>,
}

/// A room as lists show it.
fn entry(read: &dyn Read, no: RoomNo, room: &Room) -> Result<JsonValue> {
    let seen = summary::of(read, no, room)?;
    let create = room.create.map(|create| rooms::event::require(read, create)).transpose()?;
    let field = |kind: StateEventType, field: &str| -> Result<JsonValue> {
        let content: Option<JsonValue> = state::content(read, no, &kind, "")?;
        Ok(content.and_then(|content| content.get(field).cloned()).unwrap_or_default())
    };
    let federatable = field(StateEventType::RoomCreate, "m.federate")?;
    Ok(json!({
        "room_id": room.id,
        "name": seen.name,
        "canonical_alias": seen.canonical_alias,
        "joined_members": room.joined,
        "joined_local_members": room.local_joined,
        "version": room.version,
        "creator": create.map(|create| create.pdu.sender.clone()),
        "encryption": seen.encryption,
        "federatable": federatable != json!(false),
        "public": directory::is_published(read, no)?,
        "join_rules": seen.join_rule,
        "guest_access": field(StateEventType::RoomGuestAccess, "guest_access")?,
        "history_visibility": field(StateEventType::RoomHistoryVisibility, "history_visibility")?,
        "state_events": state::all(read, no)?.len(),
        "room_type": seen.room_type,
    }))
}

/// Sorts rooms by the field that is asked for, some of which have names from before. Where the most is what one looks for,
/// it comes first.
fn sort_rooms(rows: &mut [JsonValue], order: &Paging) {
    let field = match order.order_by.as_deref().unwrap_or("name") {
        "alphabetical" => "name",
        "size" => "joined_members",
        field => field,
    };
    let most_first = matches!(field, "joined_members" | "joined_local_members" | "version" | "state_events");
    let dir = match (order.dir.unwrap_or(Dir::F), most_first) {
        (Dir::F, true) | (Dir::B, false) => Dir::B,
        (Dir::F, false) | (Dir::B, true) => Dir::F,
    };
    sort(rows, field, dir);
}

/// `GET /_synapse/admin/v1/rooms`
pub async fn list_rooms(server: &Server, _: Administrator, req: ListRooms) -> Result<Reply> {
    let (read, query) = (server.store.read(), req.query);
    let term = query.search_term.as_deref().map(str::to_lowercase);
    let mut rows = Vec::new();
    for row in ROOMS.scan(&read, (), Direction::Forward) {
        let (no, room) = row?;
        // What is known from outside alone, or left of a deleted room, is no room here.
        let fits = room.create.is_some()
            && query.empty_rooms.is_none_or(|empty| (room.joined == 0) == empty)
            && query.public_rooms.is_none_or(|public| directory::is_published(&read, no).unwrap_or(false) == public);
        if !fits {
            continue;
        }
        let row = entry(&read, no, &room)?;
        let matches =
            |field: &str, term: &str| row[field].as_str().is_some_and(|text| text.to_lowercase().contains(term));
        if term.as_deref().is_none_or(|term| {
            matches("name", term) || matches("canonical_alias", term) || room.id.as_str().to_lowercase() == term
        }) {
            rows.push(row);
        }
    }
    sort_rooms(&mut rows, &query.paging);
    let mut answer = query.paging.page("rooms", rows);
    // This list has names of its own for where it goes on.
    let next = answer["next_token"].as_str().and_then(|next| next.parse::<usize>().ok());
    answer["offset"] = json!(query.paging.from);
    answer["total_rooms"] = answer["total"].take();
    if let Some(object) = answer.as_object_mut() {
        object.remove("next_token");
        object.remove("total");
        object.extend(next.map(|next| ("next_batch".to_owned(), json!(next))));
    }
    if query.paging.from > 0 {
        answer["prev_batch"] = json!(query.paging.from.saturating_sub(query.paging.limit));
    }
    ok(answer)
}

/// `GET /_synapse/admin/v1/rooms/{room_id}`
pub async fn get_room(server: &Server, _: Administrator, req: GetRoom) -> Result<Reply> {
    let read = server.store.read();
    let (no, room) = rooms::require(&read, &req.path.0)?;
    if room.create.is_none() {
        return Err(Error::not_found("This server knows the room from outside alone, or it was deleted."));
    }
    let seen = summary::of(&read, no, &room)?;
    let mut shown = entry(&read, no, &room)?;
    let mut logins = 0;
    for user in members::local_joined(&read, no)? {
        logins += devices::all(&read, &user).count();
    }
    shown["avatar"] = json!(seen.avatar_url);
    shown["topic"] = json!(seen.topic);
    shown["joined_local_devices"] = json!(logins);
    shown["forgotten"] = json!(room.local_joined == 0);
    shown["tombstoned"] = json!(state::event_no(&read, no, &StateEventType::RoomTombstone, "")?.is_some());
    ok(shown)
}

fn delete(server: &Server, admin: &Administrator, room: &RoomId, options: &DeleteOptions) -> Result<RoomNo> {
    let no = server.store.write(|tx| {
        let (no, _) = rooms::require(tx, room)?;
        if options.block {
            blocks::block(tx, room, Some(&admin.0))?;
        }
        deletion::begin(tx, no, Some(&admin.0), false)?;
        Ok(no)
    })?;
    server.rooms.deletions.notify_one();
    Ok(no)
}

/// Refuses what deleting cannot be combined with here.
fn check(options: &DeleteOptions) -> Result<()> {
    let refused = match options {
        DeleteOptions { new_room_user_id: Some(_), .. } => "new room to move the users to: leave new_room_user_id out",
        DeleteOptions { purge: Some(false), .. } => {
            "deletion of a room that keeps its data. To keep users out, block it; to take single users out, kick them"
        }
        _ => return Ok(()),
    };
    not_here(refused).map(drop)
}

/// `DELETE /_synapse/admin/v1/rooms/{room_id}`: begins, and does not wait for the end. A room that is not known can be
/// blocked.
pub async fn delete_room_v1(server: &Server, admin: Administrator, req: DeleteRoomV1) -> Result<Reply> {
    check(&req.body)?;
    let room = &req.path.0;
    let known = rooms::find(&server.store.read(), room)?;
    if known.is_none() && req.body.block {
        server.store.write(|tx| blocks::block(tx, room, Some(&admin.0)))?;
        return ok(json!({
            "kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": null,
        }));
    }
    let no = delete(server, &admin, room, &req.body)?;
    let deletion = deletion::get(&server.store.read(), no)?;
    ok(deletion.as_ref().map_or(json!({}), outcome))
}

/// `DELETE /_synapse/admin/v2/rooms/{room_id}`
pub async fn delete_room(server: &Server, admin: Administrator, req: DeleteRoom) -> Result<Reply> {
    check(&req.body)?;
    let no = delete(server, &admin, &req.path.0, &req.body)?;
    let deletion = deletion::get(&server.store.read(), no)?;
    ok(json!({ "delete_id": deletion.map(|deletion| delete_id(no, &deletion)) }))
}

/// The room's number and when the deletion began.
pub(super) fn delete_id(no: RoomNo, deletion: &Deletion) -> String {
    format!("{no}-{}", deletion.since)
}

pub(super) fn outcome(deletion: &Deletion) -> JsonValue {
    json!({
        "kicked_users": deletion.left,
        "failed_to_kick_users": deletion.stuck,
        "local_aliases": deletion.aliases,
        "new_room_id": null,
    })
}

fn status(no: RoomNo, room: &RoomId, deletion: &Deletion) -> JsonValue {
    let status = match deletion.stage {
        DeletionStage::Leaving | DeletionStage::Telling(_) => "shutting_down",
        DeletionStage::Freeing => "purging",
        DeletionStage::Done(_) => "complete",
    };
    json!({
        "delete_id": delete_id(no, deletion),
        "room_id": room,
        "status": status,
        "shutdown_room": outcome(deletion),
    })
}

/// `GET /_synapse/admin/v2/rooms/{room_id}/delete_status`
pub async fn deletions_of_room(server: &Server, _: Administrator, req: DeletionsOfRoom) -> Result<Reply> {
    let (read, room) = (server.store.read(), req.path.0);
    let no = rooms::find(&read, &room)?;
    let deletion = no.map(|no| deletion::get(&read, no)).transpose()?.flatten();
    match no.zip(deletion) {
        Some((no, deletion)) => ok(json!({ "results": [status(no, &room, &deletion)] })),
        None => Err(Error::not_found("The room was not deleted.")),
    }
}

/// `GET /_synapse/admin/v2/rooms/delete_status/{delete_id}`
pub async fn deletion_by_id(server: &Server, _: Administrator, req: DeletionById) -> Result<Reply> {
    let (read, id) = (server.store.read(), req.path.0);
    let unknown = || Error::not_found("There is no such deletion.");
    let no = id.split_once('-').and_then(|(no, _)| no.parse().ok()).map(RoomNo).ok_or_else(unknown)?;
    let deletion = ROOM_DELETIONS.get(&read, no)?.filter(|deletion| delete_id(no, deletion) == id);
    let deletion = deletion.ok_or_else(unknown)?;
    ok(status(no, &rooms::get(&read, no)?.id, &deletion))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/block`
pub async fn get_block(server: &Server, _: Administrator, req: GetBlock) -> Result<Reply> {
    ok(match blocks::get(&server.store.read(), &req.path.0)? {
        Some(block) => json!({ "block": true, "user_id": block.by }),
        None => json!({ "block": false }),
    })
}

/// `PUT /_synapse/admin/v1/rooms/{room_id}/block`
pub async fn put_block(server: &Server, admin: Administrator, req: PutBlock) -> Result<Reply> {
    let room = &req.path.0;
    server.store.write(|tx| {
        if req.body.block {
            return blocks::block(tx, room, Some(&admin.0));
        }
        blocks::unblock(tx, room);
        Ok(())
    })?;
    ok(json!({ "block": req.body.block }))
}

/// `POST /_synapse/admin/v1/rooms/{room_id}/make_room_admin`
pub async fn make_room_admin(server: &Server, admin: Administrator, req: MakeRoomAdmin) -> Result<Reply> {
    let user = req.body.user_id.unwrap_or(admin.0);
    let id = rooms::by_name(&server.store.read(), &req.path.0)?.1.id;
    let guard = server.rooms.lock(&id).await;
    let (giver, drafts) = {
        let read = server.store.read();
        let (no, room) = rooms::require(&read, &id)?;
        room_admin::promotion(&read, no, &room, &user)?
    };
    for draft in drafts {
        policy::send_and(&server.federation, &guard, &giver, draft, |_, _| Ok(())).await?;
    }
    ok(json!({}))
}

/// `POST /_synapse/admin/v1/join/{room}`
pub async fn join_room(server: &Server, _: Administrator, req: JoinRoom) -> Result<Reply> {
    super::users::require(server, &server.store.read(), &req.body.user_id)?;
    let room = join::join_by_name(&server.federation, &req.path.0, &req.body.user_id).await?;
    ok(json!({ "room_id": room }))
}

/// `GET /_synapse/admin/v1/rooms/{room_id}/forward_extremities`
pub async fn get_extremities(server: &Server, _: Administrator, req: GetExtremities) -> Result<Reply> {
    let read = server.store.read();
    let (no, _) = rooms::by_name(&read, &req.path.0)?;
    let mut results = Vec::new();
    for event in extremities::of(&read, no)? {
        let event = rooms::event::require(&read, event)?;
        results.push(json!({
            "event_id": event.pdu.event_id,
            "state_group": event.state_after,
            "depth": event.pdu.depth,
            "received_ts": event.received_ts,
        }));
    }
    ok(json!({ "count": results.len(), "results": results }))
}

/// `DELETE /_synapse/admin/v1/rooms/{room_id}/forward_extremities`: refused, since the room's state comes from them.
pub async fn delete_extremities(_: &Server, _: Administrator, _: DeleteExtremities) -> Result<Reply> {
    not_here("way to drop forward extremities, which would lose state of the room. Events that are sent join them")
}

fn purge_to_event(server: &Server, room: &RoomId, event: &str) -> Result<Reply> {
    server.store.write(|tx| {
        let (no, _) = rooms::require(tx, room)?;
        let id = <&ruma::EventId>::try_from(event).map_err(|_| Error::invalid_param("This is no ID of an event."))?;
        let event = rooms::event::by_id(tx, id)?.filter(|event| event.room == no && event.order != 0);
        let event = event.ok_or_else(|| Error::not_found("There is no such event in the room."))?;
        purge::begin_before(tx, no, event.order)
    })?;
    server.rooms.deletions.notify_one();
    ok(json!({ "purge_id": room }))
}

/// `POST /_synapse/admin/v1/purge_history/{room_id}/{event_id}`: also of the messages of this server's users.
pub async fn purge_history_to_event(server: &Server, _: Administrator, req: PurgeHistoryToEvent) -> Result<Reply> {
    purge_to_event(server, &req.path.0, &req.path.1)
}

/// `POST /_synapse/admin/v1/purge_history/{room_id}`: also of the messages of this server's users.
pub async fn purge_history(server: &Server, _: Administrator, req: PurgeHistory) -> Result<Reply> {
    match req.body {
        UpTo { purge_up_to_event_id: Some(event), .. } => purge_to_event(server, &req.path.0, &event),
        UpTo { purge_up_to_ts: Some(ts), .. } => {
            server.store.write(|tx| {
                let (no, _) = rooms::require(tx, &req.path.0)?;
                purge::begin(tx, no, ts)
            })?;
            server.rooms.deletions.notify_one();
            ok(json!({ "purge_id": req.path.0 }))
        }
        UpTo { .. } => Err(Error::missing_param("purge_up_to_ts or purge_up_to_event_id is missing.")),
    }
}

/// `GET /_synapse/admin/v1/purge_history_status/{purge_id}`: the room's ID is that of its purge.
pub async fn purge_status(server: &Server, _: Administrator, req: PurgeStatus) -> Result<Reply> {
    let read = server.store.read();
    let (no, _) = rooms::require(&read, &req.path.0)?;
    let status = if purge::is_under_way(&read, no)? { "active" } else { "complete" };
    ok(json!({ "status": status }))
}
