//! Taking files away: their names from the database, and from the disk what nothing names any more.
//!
//! Several URIs may name the same bytes, and thumbnails are named after them. Which bytes are still named is found out by
//! looking at the row of every file, so this is for what happens once a day or because an administrator asks for it, on a
//! thread of its own.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use ruma::{OwnedServerName, OwnedUserId, ServerName};

use super::files::Files;
use crate::{
    clock,
    config::MediaScope,
    error::Result,
    store::{Direction, Read, Store, Tx, records::Thumbnail, trees},
};

/// How many rows one transaction deletes.
pub(super) const BATCH: usize = 500;

/// A file with a name, as far as its stay depends on it.
pub struct Item {
    /// What it is called.
    pub name: Name,
    /// Who sent it, if a user of this server did.
    pub user: Option<OwnedUserId>,
    /// What kind of file it is.
    pub scope: MediaScope,
    /// The SHA-256 of its bytes.
    pub hash: String,
    /// Their number.
    pub size: u64,
    /// Since when it is here, in milliseconds since the Unix epoch.
    pub created: u64,
    /// When it was given out last, to the day.
    pub accessed: u64,
    /// Whether it stays until it is deleted by name.
    pub protected: bool,
}

/// What a file is called.
pub enum Name {
    /// The server name and media ID of its URI.
    Uri(OwnedServerName, String),
    /// The hash of the original and the name of the size.
    Thumbnail(String, String),
}

impl Item {
    /// The server name and media ID of its URI; none for a thumbnail.
    pub fn uri(&self) -> Option<(&ServerName, &str)> {
        match &self.name {
            Name::Uri(server, id) => Some((server, id)),
            Name::Thumbnail(..) => None,
        }
    }
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many names.
    pub names: u64,
    /// How many files of the disk.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Every name that has bytes.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn items(read: &dyn Read) -> Result<Vec<Item>> {
    let accessed = |hash: &str, created| Ok(trees::MEDIA_ACCESSED.get(read, hash)?.unwrap_or(created));
    let mut items = Vec::new();
    for row in trees::MEDIA.scan(read, (), Direction::Forward) {
        let ((server, id), file) = row?;
        let Some(content) = file.content else { continue };
        let scope = if file.user.is_some() { MediaScope::Local } else { MediaScope::Remote };
        let accessed: Result<u64> = accessed(&content.hash, file.created_ts);
        let (hash, size, created, accessed) = (content.hash, content.size, file.created_ts, accessed?);
        let (name, protected) = (Name::Uri(server, id), file.protected);
        items.push(Item { name, user: file.user, scope, hash, size, created, accessed, protected });
    }
    for row in trees::THUMBNAILS.scan(read, (), Direction::Forward) {
        let ((original, size_name), thumbnail) = row?;
        let Thumbnail::Made(content) = thumbnail else { continue };
        // A thumbnail is noted as given out when it is made.
        let accessed: Result<u64> = accessed(&content.hash, 0);
        let (hash, size, accessed) = (content.hash, content.size, accessed?);
        let name = Name::Thumbnail(original, size_name);
        let (scope, created) = (MediaScope::Thumbnail, accessed);
        items.push(Item { name, user: None, scope, hash, size, created, accessed, protected: false });
    }
    Ok(items)
}

/// Removes the files that have a URI and that `is_wanted` says, and the thumbnails of which no original is left; only
/// counts them if it is a `dry_run`.
///
/// # Errors
/// When the database or the disk fails.
pub fn remove(
    store: &Store,
    files: &Files,
    dry_run: bool,
    mut is_wanted: impl FnMut(&Item) -> bool,
) -> Result<Removed> {
    let begun = clock::system_time();
    let items = items(&store.read())?;
    let (mut going, staying): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| item.uri().is_some() && is_wanted(item));
    let hashes = |items: &[Item]| -> HashSet<String> {
        items.iter().filter(|item| item.uri().is_some()).map(|item| item.hash.clone()).collect()
    };
    let (gone, kept) = (hashes(&going), hashes(&staying));
    let (orphans, staying): (Vec<_>, Vec<_>) = staying.into_iter().partition(|item| match &item.name {
        Name::Thumbnail(original, _) => gone.contains(original) && !kept.contains(original),
        Name::Uri(..) => false,
    });
    going.extend(orphans);
    if dry_run { Ok(count(&going, &staying)) } else { delete(store, files, begun, &going, &staying) }
}

/// Removes the files of users who asked to be forgotten.
///
/// # Errors
/// When the database or the disk fails.
pub fn erase(store: &Store, files: &Files) -> Result<()> {
    let users: HashSet<OwnedUserId> = trees::ERASURES
        .scan(&store.read(), (), Direction::Forward)
        .map(|row| row.map(|(user, ())| user))
        .collect::<Result<_>>()?;
    if users.is_empty() {
        return Ok(());
    }
    remove(store, files, false, |item| item.user.as_ref().is_some_and(|user| users.contains(user)))?;
    store.write(|tx| {
        users.iter().for_each(|user| trees::ERASURES.delete(tx, &**user));
        Ok(())
    })
}

/// The bytes of `going` that none of `staying` names, each once.
fn unnamed<'a>(going: &'a [Item], staying: &[Item]) -> Vec<&'a Item> {
    let mut named: HashSet<&str> = staying.iter().map(|item| item.hash.as_str()).collect();
    going.iter().filter(|item| named.insert(item.hash.as_str())).collect()
}

fn count(going: &[Item], staying: &[Item]) -> Removed {
    let files = unnamed(going, staying);
    Removed {
        names: going.iter().filter(|item| item.uri().is_some()).count() as u64,
        files: files.len() as u64,
        bytes: files.iter().map(|item| item.size).sum(),
    }
}

/// Removes `going`; of their bytes those stay that `staying` name, and those that came anew since `begun`, before which
/// no item was read. No bytes go before it is certain that their names are gone, also after a power cut.
///
/// # Errors
/// When the database or the disk fails.
pub(super) fn delete(
    store: &Store,
    files: &Files,
    begun: SystemTime,
    going: &[Item],
    staying: &[Item],
) -> Result<Removed> {
    for batch in going.chunks(BATCH) {
        store.write(|tx| {
            batch.iter().for_each(|item| delete_name(tx, item));
            Ok(())
        })?;
    }
    let unnamed = unnamed(going, staying);
    for batch in unnamed.chunks(BATCH) {
        store.write(|tx| {
            batch.iter().for_each(|item| trees::MEDIA_ACCESSED.delete(tx, &*item.hash));
            Ok(())
        })?;
    }
    store.sync()?;
    for item in unnamed {
        match remove_file(&files.path(&item.hash)?, begun) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(count(going, staying))
}

/// Removes from the disk what nothing names: whose name was refused, or prevented by a crash. What came after `before` may
/// just be named by somebody. Gives how many files went.
///
/// # Errors
/// When the database or the disk fails.
pub fn remove_unnamed(store: &Store, files: &Files, before: SystemTime) -> Result<usize> {
    // In this order: what comes and is named between both is not among the files.
    let found = files.hashes()?;
    let named: HashSet<String> = items(&store.read())?.into_iter().map(|item| item.hash).collect();
    let mut removed = 0;
    for hash in found.iter().filter(|hash| !named.contains(*hash)) {
        // What else lies there is not ours.
        let Ok(path) = files.path(hash) else { continue };
        match came(&path).map(|came| came < before) {
            Ok(true) => {
                fs::remove_file(&path)?;
                removed += 1;
            }
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// Removes a file, but not if the same bytes were sent anew since `begun`: they have another name by now, or soon.
fn remove_file(path: &Path, begun: SystemTime) -> io::Result<()> {
    if came(path)? < begun { fs::remove_file(path) } else { Ok(()) }
}

/// When a file was put in its place. It was written before that, and may have been for a while.
fn came(path: &Path) -> io::Result<SystemTime> {
    let metadata = fs::metadata(path)?;
    let (seconds, nanoseconds) = (metadata.ctime().try_into(), metadata.ctime_nsec().try_into());
    Ok(SystemTime::UNIX_EPOCH + Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default()))
}

fn delete_name(tx: &mut Tx<'_>, item: &Item) {
    match &item.name {
        Name::Uri(server, id) => trees::MEDIA.delete(tx, (&**server as &ServerName, &**id)),
        Name::Thumbnail(original, size) => trees::THUMBNAILS.delete(tx, (&**original, &**size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_put_in_place_meanwhile_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (incoming, path) = (folder.path().join("incoming"), folder.path().join("file"));
        fs::write(&path, "the bytes").unwrap();
        fs::write(&incoming, "the bytes").unwrap();
        let begun = came(&incoming).unwrap() + Duration::from_nanos(1);
        // The clock of a file system may stand still for some milliseconds.
        while came(&path).unwrap() < begun {
            fs::rename(&path, &incoming).unwrap();
            fs::rename(&incoming, &path).unwrap();
        }
        remove_file(&path, begun).unwrap();
        assert!(path.exists());
        remove_file(&path, came(&path).unwrap() + Duration::from_nanos(1)).unwrap();
        assert!(!path.exists());
    }
}
