//! Files ([reference](https://element-hq.github.io/synapse/latest/admin_api/media_admin_api.html)).
//!
//! A file in quarantine is one whose bytes are blocked, under whatever URI they are here or come again.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Dir, Nothing, Paging, Reply, ok, requests, sort, users::require};
use crate::{
    api::auth::Administrator,
    config::MediaScope,
    error::{Error, Result},
    media::{
        self, MediaContent, MediaFile,
        removal::{self, Item},
    },
    rooms::{self, avatars, event, timeline},
    server::Server,
    store::{
        Direction, Read,
        trees::{BLOCKED_MEDIA, MEDIA, MEDIA_ACCESSED},
    },
};

requests! {
    /// `GET /_synapse/admin/v1/media/{server_name}/{media_id}`
    GetMedia = GET "/_synapse/admin/v1/media/{server_name}/{media_id}" ((OwnedServerName, String), Nothing, Nothing);
    /// `DELETE /_synapse/admin/v1/media/{server_name}/{media_id}`
    DeleteMedia = DELETE "/_synapse/admin/v1/media/{server_name}/{media_id}" ((OwnedServerName, String), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/media/delete`
    DeleteByAge = POST "/_synapse/admin/v1/media/delete" (Nothing, DeleteQuery, Nothing);
    /// `POST /_synapse/admin/v1/purge_media_cache`
    PurgeCache = POST "/_synapse/admin/v1/purge_media_cache" (Nothing, PurgeQuery, Nothing);
    /// `POST /_synapse/admin/v1/media/quarantine/{server_name}/{media_id}`
    Quarantine = POST "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}" ((OwnedServerName, String), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}`
    Unquarantine = POST "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}" ((OwnedServerName, String), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/media/protect/{media_id}`
    Protect = POST "/_synapse/admin/v1/media/protect/{media_id}" ((String,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/media/unprotect/{media_id}`
    Unprotect = POST "/_synapse/admin/v1/media/unprotect/{media_id}" ((String,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/user/{user_id}/media/quarantine`
    QuarantineOfUser = POST "/_synapse/admin/v1/user/{user_id}/media/quarantine" ((OwnedUserId,), Nothing, Nothing);
    /// `POST /_synapse/admin/v1/room/{room_id}/media/quarantine`
    QuarantineOfRoom = POST "/_synapse/admin/v1/room/{room_id}/media/quarantine" ((OwnedRoomId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/room/{room_id}/media`
    MediaOfRoom = GET "/_synapse/admin/v1/room/{room_id}/media" ((OwnedRoomId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/media`
    MediaOfUser = GET "/_synapse/admin/v1/users/{user_id}/media" ((OwnedUserId,), Paging, Nothing);
    /// `DELETE /_synapse/admin/v1/users/{user_id}/media`
    DeleteMediaOfUser = DELETE "/_synapse/admin/v1/users/{user_id}/media" ((OwnedUserId,), Paging, Nothing);
}

/// Which files of this server to delete.
#[derive(Debug, Deserialize)]
pub struct DeleteQuery {
    before_ts: u64,
    #[serde(default)]
    size_gt: u64,
    /// Whether avatars of users and rooms stay.
    #[serde(default = "yes")]
    keep_profiles: bool,
}

fn yes() -> bool {
    true
}

/// Which copies of other servers' files to delete.
#[derive(Debug, Deserialize)]
pub struct PurgeQuery {
    before_ts: u64,
}

/// The file that a URI names.
fn stored(read: &dyn Read, server: &OwnedServerName, id: &str) -> Result<(MediaFile, MediaContent)> {
    let unknown = || Error::not_found(format!("There is no file mxc://{server}/{id} here."));
    let file = MEDIA.get(read, (server, id))?.ok_or_else(unknown)?;
    let content = file.content.clone().ok_or_else(unknown)?;
    Ok((file, content))
}

/// A file as this interface shows it.
fn shown(read: &dyn Read, server: &str, id: &str, file: &MediaFile, content: &MediaContent) -> Result<JsonValue> {
    let block = BLOCKED_MEDIA.get(read, &content.hash)?;
    Ok(json!({
        "media_origin": server,
        "user_id": file.user,
        "media_id": id,
        "media_type": content.content_type,
        "media_length": content.size,
        "upload_name": content.filename,
        "created_ts": file.created_ts,
        "filesystem_id": content.hash,
        "url_cache": null,
        "last_access_ts": MEDIA_ACCESSED.get(read, &content.hash)?,
        "quarantined_by": block.map(|block| block.by.map_or_else(|| json!("the server"), |by| json!(by))),
        "authenticated": true,
        "safe_from_quarantine": file.protected,
        "sha256": content.hash,
    }))
}

/// `GET /_synapse/admin/v1/media/{server_name}/{media_id}`
pub async fn get_media(server: &Server, _: Administrator, req: GetMedia) -> Result<Reply> {
    let (read, (origin, id)) = (server.store.read(), req.path);
    let (file, content) = stored(&read, &origin, &id)?;
    ok(json!({ "media_info": shown(&read, origin.as_str(), &id, &file, &content)? }))
}

/// Deletes the files that are wanted; gives the media IDs of those that were.
async fn delete(server: &Server, mut is_wanted: impl FnMut(&Item) -> bool + Send + 'static) -> Result<Vec<String>> {
    let (store, files) = (Arc::clone(&server.store), server.media.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut deleted = Vec::new();
        removal::remove(&store, &files, false, |item| {
            let wanted = is_wanted(item);
            deleted.extend(item.uri().filter(|_| wanted).map(|(_, id)| id.to_owned()));
            wanted
        })?;
        Ok(deleted)
    });
    work.await.map_err(Error::internal)?
}

fn deleted(ids: &[String]) -> Result<Reply> {
    ok(json!({ "deleted_media": ids, "total": ids.len() }))
}

/// `DELETE /_synapse/admin/v1/media/{server_name}/{media_id}`
pub async fn delete_media(server: &Server, _: Administrator, req: DeleteMedia) -> Result<Reply> {
    let (origin, id) = req.path;
    stored(&server.store.read(), &origin, &id)?;
    deleted(&delete(server, move |item| item.uri() == Some((&*origin, id.as_str()))).await?)
}

/// The media IDs of the files of this server that are avatars.
async fn avatars(server: &Server) -> Result<BTreeSet<String>> {
    let (store, name) = (Arc::clone(&server.store), server.name().to_owned());
    let work = tokio::task::spawn_blocking(move || avatars::of_server(&store.read(), &name));
    work.await.map_err(Error::internal)?
}

/// `POST /_synapse/admin/v1/media/delete`: of users of this server.
pub async fn delete_by_age(server: &Server, _: Administrator, req: DeleteByAge) -> Result<Reply> {
    let DeleteQuery { before_ts, size_gt, keep_profiles } = req.query;
    let kept = if keep_profiles { avatars(server).await? } else { BTreeSet::new() };
    let is_wanted = move |item: &Item| {
        let is_old = !item.protected && item.scope == MediaScope::Local && item.accessed < before_ts;
        is_old && item.size > size_gt && item.uri().is_none_or(|(_, id)| !kept.contains(id))
    };
    deleted(&delete(server, is_wanted).await?)
}

/// `POST /_synapse/admin/v1/purge_media_cache`: of other servers.
pub async fn purge_cache(server: &Server, _: Administrator, req: PurgeCache) -> Result<Reply> {
    let PurgeQuery { before_ts } = req.query;
    let ids = delete(server, move |item| item.scope == MediaScope::Remote && item.accessed < before_ts).await?;
    ok(json!({ "deleted": ids.len() }))
}

/// `POST /_synapse/admin/v1/media/quarantine/{server_name}/{media_id}`
pub async fn quarantine(server: &Server, admin: Administrator, req: Quarantine) -> Result<Reply> {
    let (origin, id) = req.path;
    server.store.write(|tx| {
        let (file, content) = stored(tx, &origin, &id)?;
        if file.protected {
            return Err(Error::forbidden("This file is protected."));
        }
        media::block(tx, &content.hash, Some(&admin.0))
    })?;
    ok(json!({}))
}

/// `POST /_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}`
pub async fn unquarantine(server: &Server, _: Administrator, req: Unquarantine) -> Result<Reply> {
    let (origin, id) = req.path;
    server.store.write(|tx| {
        let (_, content) = stored(tx, &origin, &id)?;
        media::unblock(tx, &content.hash);
        Ok(())
    })?;
    ok(json!({}))
}

/// `POST /_synapse/admin/v1/media/protect/{media_id}`: a file of this server stays, whatever its age, and is not put
/// into quarantine.
pub async fn protect(server: &Server, _: Administrator, req: Protect) -> Result<Reply> {
    server.store.write(|tx| media::protect(tx, server.name(), &req.path.0, true))?;
    ok(json!({}))
}

/// `POST /_synapse/admin/v1/media/unprotect/{media_id}`
pub async fn unprotect(server: &Server, _: Administrator, req: Unprotect) -> Result<Reply> {
    server.store.write(|tx| media::protect(tx, server.name(), &req.path.0, false))?;
    ok(json!({}))
}

/// Blocks the bytes of all of these; gives how many there are.
fn block_all(server: &Server, by: &UserId, hashes: BTreeSet<String>) -> Result<Reply> {
    server.store.write(|tx| hashes.iter().try_for_each(|hash| media::block(tx, hash, Some(by))))?;
    ok(json!({ "num_quarantined": hashes.len() }))
}

/// The URIs and files that a user of this server sent.
fn of_user(read: &dyn Read, user: &UserId) -> Result<Vec<(OwnedServerName, String, MediaFile, MediaContent)>> {
    let mut found = Vec::new();
    for row in MEDIA.scan(read, (), Direction::Forward) {
        let ((server, id), file) = row?;
        if file.user.as_deref() == Some(user)
            && let Some(content) = file.content.clone()
        {
            found.push((server, id, file, content));
        }
    }
    Ok(found)
}

/// `POST /_synapse/admin/v1/user/{user_id}/media/quarantine`
pub async fn quarantine_of_user(server: &Server, admin: Administrator, req: QuarantineOfUser) -> Result<Reply> {
    let found = of_user(&server.store.read(), &req.path.0)?;
    let found = found.into_iter().filter(|(.., file, _)| !file.protected);
    block_all(server, &admin.0, found.map(|(.., content)| content.hash).collect())
}

/// The URIs that a room's events name, as far as they are not encrypted.
fn of_room(read: &dyn Read, room: &OwnedRoomId) -> Result<BTreeSet<(OwnedServerName, String)>> {
    let (no, _) = rooms::require(read, room)?;
    let mut found = BTreeSet::new();
    for place in timeline::before(read, no, i64::MAX) {
        let event = event::require(read, place?.1)?;
        found.extend(media::named_in(event.pdu.content.get()).map(|(server, id)| (server, id.to_owned())));
    }
    Ok(found)
}

/// `POST /_synapse/admin/v1/room/{room_id}/media/quarantine`
pub async fn quarantine_of_room(server: &Server, admin: Administrator, req: QuarantineOfRoom) -> Result<Reply> {
    let mut hashes = BTreeSet::new();
    {
        let read = server.store.read();
        for (origin, id) in of_room(&read, &req.path.0)? {
            let file = MEDIA.get(&read, (&origin, &id))?.filter(|file| !file.protected);
            hashes.extend(file.and_then(|file| file.content).map(|content| content.hash));
        }
    }
    block_all(server, &admin.0, hashes)
}

/// `GET /_synapse/admin/v1/room/{room_id}/media`
pub async fn media_of_room(server: &Server, _: Administrator, req: MediaOfRoom) -> Result<Reply> {
    let named = of_room(&server.store.read(), &req.path.0)?;
    let (local, remote): (Vec<_>, Vec<_>) = named.into_iter().partition(|(origin, _)| origin == server.name());
    let uris = |files: Vec<(OwnedServerName, String)>| -> Vec<String> {
        files.into_iter().map(|(origin, id)| format!("mxc://{origin}/{id}")).collect()
    };
    ok(json!({ "local": uris(local), "remote": uris(remote) }))
}

/// The files of a user of this server as lists show them, in the order that is asked for: where nothing is, the newest
/// first.
fn sorted_of_user(server: &Server, user: &UserId, order: &Paging) -> Result<Vec<JsonValue>> {
    let read = server.store.read();
    require(server, &read, user)?;
    let mut rows = Vec::new();
    for (origin, id, file, content) in of_user(&read, user)? {
        rows.push(shown(&read, origin.as_str(), &id, &file, &content)?);
    }
    match order {
        Paging { order_by: None, dir: None, .. } => sort(&mut rows, "created_ts", Dir::B),
        order => order.sort(&mut rows, "created_ts"),
    }
    Ok(rows)
}

/// `GET /_synapse/admin/v1/users/{user_id}/media`
pub async fn media_of_user(server: &Server, _: Administrator, req: MediaOfUser) -> Result<Reply> {
    let rows = sorted_of_user(server, &req.path.0, &req.query)?;
    ok(req.query.page("media", rows))
}

/// `DELETE /_synapse/admin/v1/users/{user_id}/media`: the part of the list that the query asks for.
pub async fn delete_media_of_user(server: &Server, _: Administrator, req: DeleteMediaOfUser) -> Result<Reply> {
    let user = req.path.0;
    let rows = sorted_of_user(server, &user, &req.query)?;
    let page = rows.into_iter().skip(req.query.from).take(req.query.limit);
    let ids: BTreeSet<String> = page.filter_map(|row| Some(row["media_id"].as_str()?.to_owned())).collect();
    let is_wanted =
        move |item: &Item| item.user.as_ref() == Some(&user) && item.uri().is_some_and(|(_, id)| ids.contains(id));
    deleted(&delete(server, is_wanted).await?)
}
