//! Files that users send: bytes on the disk, what is known of them in the store.
//!
//! Bytes lie in files named by their SHA-256 (`files.rs`), so equal uploads are kept once, and a file is complete or not
//! there at all: it is written under another name, synced, then renamed, and only then named in the database. Rows of
//! the database may name no bytes (a URI that waits for its upload), bytes never go unnamed except after a crash between
//! rename and commit.
//!
//! Thumbnails (`thumbnails.rs`) are made when first asked for, in a few fixed sizes, and kept the same way.
//!
//! Files of other servers are kept beside our own once they were fetched (`federation/media.rs`), and so are pictures of
//! web pages (`previews.rs`); `retention.rs` says how long. Both are without a user.
//!
//! Deliberately absent: network I/O.

pub mod disposition;
pub mod files;
pub mod multipart;
pub mod open_graph;
pub mod removal;
pub mod retention;
pub mod thumbnails;

use ruma::{OwnedServerName, ServerName, UserId, api::error::ErrorKind};

pub use crate::store::records::{MediaContent, MediaFile};
use crate::{
    clock,
    error::{Error, Result},
    store::{Direction, Read, Store, Tx, records::Block, trees},
};

/// How long a URI made ahead of its upload waits for it: the 24 hours that the specification recommends.
pub const UPLOAD_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

/// How many URIs without content a user may have at once.
pub const MAX_PENDING: usize = 50;

/// Length of a media ID: 24 characters of 5.95 bits cannot be guessed.
const ID_LENGTH: usize = 24;

/// Names content by a new URI of this server; gives the media ID. `user` is who sent it, if anybody did.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the bytes are blocked; when the system gives no random bytes.
pub fn insert(tx: &mut Tx<'_>, server: &ServerName, user: Option<&UserId>, content: MediaContent) -> Result<String> {
    check_accepted(tx, &content.hash)?;
    let id = clock::random_string(ID_LENGTH)?;
    let user = user.map(ToOwned::to_owned);
    let file =
        MediaFile { user, created_ts: clock::now_ms(), content: Some(content), expires_ts: None, protected: false };
    trees::MEDIA.put(tx, (server, &id), &file);
    Ok(id)
}

/// Keeps the content of another server's URI.
///
/// # Errors
/// 404 `M_NOT_FOUND` when the bytes are blocked.
pub fn keep(tx: &mut Tx<'_>, server: &ServerName, id: &str, content: MediaContent) -> Result<()> {
    check_shown(tx, &content.hash)?;
    let file = MediaFile {
        user: None,
        created_ts: clock::now_ms(),
        content: Some(content),
        expires_ts: None,
        protected: false,
    };
    trees::MEDIA.put(tx, (server, id), &file);
    Ok(())
}

/// Blocks bytes, whatever they are called or will be: they are neither taken nor given out.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions about blocks.
pub fn block(tx: &mut Tx<'_>, hash: &str, by: Option<&UserId>) -> Result<()> {
    if !trees::BLOCKED_MEDIA.contains(tx, hash)? {
        let block = Block { by: by.map(ToOwned::to_owned), since: clock::now_ms() };
        trees::BLOCKED_MEDIA.put(tx, hash, &block);
    }
    Ok(())
}

/// Ends the block of bytes.
pub fn unblock(tx: &mut Tx<'_>, hash: &str) {
    trees::BLOCKED_MEDIA.delete(tx, hash);
}

/// Protects a file of this server, or ends that: it stays until it is deleted by name, whatever its age, and is blocked
/// by name only.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn protect(tx: &mut Tx<'_>, server: &ServerName, id: &str, protected: bool) -> Result<()> {
    let file = trees::MEDIA.get(tx, (server, id))?.filter(|file| file.content.is_some());
    let file = file.ok_or_else(|| Error::not_found(format!("There is no file mxc://{server}/{id} here.")))?;
    trees::MEDIA.put(tx, (server, id), &MediaFile { protected, ..file });
    Ok(())
}

/// Refuses to give out bytes that are blocked, and to take them from other servers.
///
/// # Errors
/// 404 `M_NOT_FOUND` when they are.
pub fn check_shown(read: &dyn Read, hash: &str) -> Result<()> {
    match trees::BLOCKED_MEDIA.contains(read, hash)? {
        true => Err(Error::not_found("This file is blocked on this server.")),
        false => Ok(()),
    }
}

/// Refuses to take bytes from a user that are blocked.
fn check_accepted(read: &dyn Read, hash: &str) -> Result<()> {
    match trees::BLOCKED_MEDIA.contains(read, hash)? {
        true => Err(Error::forbidden("This file is blocked on this server.")),
        false => Ok(()),
    }
}

/// A new URI that waits for its upload; gives the media ID and when it expires.
///
/// # Errors
/// `M_LIMIT_EXCEEDED` when the user has [`MAX_PENDING`] such URIs.
pub fn reserve(tx: &mut Tx<'_>, server: &ServerName, user: &UserId) -> Result<(String, u64)> {
    let now = clock::now_ms();
    let mut pending = 0;
    let rows: Vec<_> = trees::MEDIA_PENDING.scan(tx, (user,), Direction::Forward).collect::<Result<_>>()?;
    for ((user, id), expires_ts) in rows {
        if expires_ts < now {
            forget_reserved(tx, server, &user, &id);
        } else {
            pending += 1;
        }
    }
    if pending >= MAX_PENDING {
        return Err(Error::limit_exceeded(std::time::Duration::from_secs(60)));
    }
    let id = clock::random_string(ID_LENGTH)?;
    let expires_ts = now + UPLOAD_WINDOW_MS;
    let file = MediaFile {
        user: Some(user.to_owned()),
        created_ts: now,
        content: None,
        expires_ts: Some(expires_ts),
        protected: false,
    };
    trees::MEDIA.put(tx, (server, &id), &file);
    trees::MEDIA_PENDING.put(tx, (user, &id), &expires_ts);
    Ok((id, expires_ts))
}

/// Whether `user` may upload to the URI now.
///
/// # Errors
/// 404 `M_NOT_FOUND` for an unknown or expired URI, 403 `M_FORBIDDEN` for another user's, 409
/// `M_CANNOT_OVERWRITE_MEDIA` when it has its content already.
pub fn check_reserved(read: &dyn Read, server: &ServerName, id: &str, user: &UserId) -> Result<MediaFile> {
    let unknown = || Error::not_found("There is no such media URI, or it has expired.");
    let file = trees::MEDIA.get(read, (server, id))?.ok_or_else(unknown)?;
    if file.user.as_deref() != Some(user) {
        return Err(Error::forbidden("Only the user who made the media URI can upload to it."));
    }
    if file.content.is_some() {
        return Err(Error::new(
            http::StatusCode::CONFLICT,
            ErrorKind::CannotOverwriteMedia,
            "Something was uploaded to this media URI already.",
        ));
    }
    if has_expired(&file) {
        return Err(unknown());
    }
    Ok(file)
}

/// Whether nothing can be uploaded to the file's URI any more, and nothing was.
pub fn has_expired(file: &MediaFile) -> bool {
    file.expires_ts.is_some_and(|expires_ts| expires_ts < clock::now_ms())
}

/// Forgets the URIs to which nothing was uploaded in time.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn forget_expired(store: &Store, server: &ServerName) -> Result<()> {
    let now = clock::now_ms();
    let mut expired = Vec::new();
    for row in trees::MEDIA_PENDING.scan(&store.read(), (), Direction::Forward) {
        let (key, expires_ts) = row?;
        if expires_ts < now {
            expired.push(key);
        }
    }
    for batch in expired.chunks(removal::BATCH) {
        store.write(|tx| {
            for (user, id) in batch {
                if trees::MEDIA_PENDING.contains(tx, (user, id))? {
                    forget_reserved(tx, server, user, id);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn forget_reserved(tx: &mut Tx<'_>, server: &ServerName, user: &UserId, id: &str) {
    trees::MEDIA_PENDING.delete(tx, (user, id));
    trees::MEDIA.delete(tx, (server, id));
}

/// The error for a URI whose file is still to come: 504 `M_NOT_YET_UPLOADED`.
pub fn not_yet_uploaded() -> Error {
    Error::new(
        http::StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::NotYetUploaded,
        "The file has not been uploaded yet. Try again later.",
    )
}

/// Gives a reserved URI its content.
///
/// # Errors
/// As [`check_reserved`]; 403 `M_FORBIDDEN` when the bytes are blocked.
pub fn fill(tx: &mut Tx<'_>, server: &ServerName, id: &str, user: &UserId, content: MediaContent) -> Result<()> {
    let mut file = check_reserved(tx, server, id, user)?;
    check_accepted(tx, &content.hash)?;
    file.content = Some(content);
    file.expires_ts = None;
    trees::MEDIA.put(tx, (server, id), &file);
    trees::MEDIA_PENDING.delete(tx, (user, id));
    Ok(())
}

/// The files that a text names by their URIs: server name and media ID of each.
pub fn named_in(text: &str) -> impl Iterator<Item = (OwnedServerName, &str)> {
    text.split("mxc://").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_./:[]~".contains(c))).unwrap_or(rest.len());
        let (server, id) = rest.get(..end)?.split_once('/')?;
        Some((ServerName::parse(server).ok()?, id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_whatever_stands_around_them() {
        let text =
            r#"{"url":"mxc://a.example/One","info":{"thumbnail_file":{"url":"mxc://b:8448/two_2"}},"x":"mxc://?/y"}"#;
        let found: Vec<_> = named_in(text).map(|(server, id)| format!("{server} {id}")).collect();
        assert_eq!(found, ["a.example One", "b:8448 two_2"]);
    }
}
