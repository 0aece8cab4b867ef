//! When files go by themselves: the limits of `media.retention`.
//!
//! Once a day all files are looked at, and those go that were not asked for, or are here, for longer than their scope
//! allows; and if a scope fills more than its space, what nobody asked for the longest. What a URI of another server names
//! can be fetched again; what a user of this server sent is gone, so that is only done where the administrator says so.

use std::{
    collections::HashSet,
    time::{Duration, UNIX_EPOCH},
};

use ruma::{OwnedServerName, ServerName};

use super::files::Files;
use crate::{
    clock,
    config::{Media, MediaScope},
    error::Result,
    store::{Direction, Read, Store, Tx, records::Thumbnail, trees},
};

/// To what an access is noted: more often would be a write for every look at a picture.
const ACCESS_GRAIN_MS: u64 = 24 * 60 * 60 * 1000;

/// Bytes written less long ago may just be named by somebody: they stay until the next time.
const SETTLED: Duration = Duration::from_secs(60 * 60);

/// How many rows one transaction deletes.
const BATCH: usize = 500;

/// Notes that the bytes with this hash were given out, if that was not noted today.
///
/// # Errors
/// When the database fails.
pub fn note_access(store: &Store, hash: &str) -> Result<()> {
    let now = clock::now_ms();
    let noted = trees::MEDIA_ACCESSED.get(&store.read(), hash)?;
    if noted.is_some_and(|noted| now.saturating_sub(noted) < ACCESS_GRAIN_MS) {
        return Ok(());
    }
    store.write(|tx| {
        trees::MEDIA_ACCESSED.put(tx, hash, &now);
        Ok(())
    })
}

/// A file with a name, as far as its stay depends on it.
struct Item {
    name: Name,
    scope: MediaScope,
    hash: String,
    size: u64,
    created: u64,
    accessed: u64,
}

enum Name {
    Uri(OwnedServerName, String),
    Thumbnail(String, String),
}

/// Deletes what is over the limits; gives how many files went and how many bytes they had. Looks at the row of every file:
/// for a thread of its own.
///
/// # Errors
/// When the database or the disk fails.
pub fn sweep(store: &Store, files: &Files, limits: &Media) -> Result<(u64, u64)> {
    let items = items(&store.read())?;
    let (going, staying) = sort_out(items, limits, clock::now_ms());
    // A name of bytes that are just being written waits.
    let going: Vec<Item> = going.into_iter().filter(|item| is_settled(files, &item.hash)).collect();
    for batch in going.chunks(BATCH) {
        store.write(|tx| {
            batch.iter().for_each(|item| delete(tx, item));
            Ok(())
        })?;
    }
    let named: HashSet<&str> = staying.iter().map(|item| item.hash.as_str()).collect();
    let (mut count, mut bytes) = (0, 0);
    let mut gone = HashSet::new();
    for item in &going {
        if named.contains(item.hash.as_str()) || !gone.insert(&item.hash) {
            continue;
        }
        match std::fs::remove_file(files.path(&item.hash)?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        count += 1;
        bytes += item.size;
    }
    Ok((count, bytes))
}

/// Every name that has bytes.
fn items(read: &dyn Read) -> Result<Vec<Item>> {
    let accessed = |hash: &str, created| Ok(trees::MEDIA_ACCESSED.get(read, hash)?.unwrap_or(created));
    let mut items = Vec::new();
    for row in trees::MEDIA.scan(read, (), Direction::Forward) {
        let ((server, id), file) = row?;
        let Some(content) = file.content else { continue };
        let scope = if file.user.is_some() { MediaScope::Local } else { MediaScope::Remote };
        let accessed: Result<u64> = accessed(&content.hash, file.created_ts);
        let (hash, size, created, accessed) = (content.hash, content.size, file.created_ts, accessed?);
        items.push(Item { name: Name::Uri(server, id), scope, hash, size, created, accessed });
    }
    for row in trees::THUMBNAILS.scan(read, (), Direction::Forward) {
        let ((original, size_name), thumbnail) = row?;
        let Thumbnail::Made(content) = thumbnail else { continue };
        // A thumbnail is noted as given out when it is made.
        let accessed: Result<u64> = accessed(&content.hash, 0);
        let (hash, size, accessed) = (content.hash, content.size, accessed?);
        let name = Name::Thumbnail(original, size_name);
        items.push(Item { name, scope: MediaScope::Thumbnail, hash, size, created: accessed, accessed });
    }
    Ok(items)
}

/// What goes and what stays.
fn sort_out(items: Vec<Item>, limits: &Media, now: u64) -> (Vec<Item>, Vec<Item>) {
    let is_over = |since: u64, most: Option<Duration>| {
        most.is_some_and(|most| u128::from(now.saturating_sub(since)) > most.as_millis())
    };
    let (mut going, mut staying): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| {
        let limits = limits.limits(item.scope);
        is_over(item.accessed, limits.accessed) || is_over(item.created, limits.created)
    });
    // What can be had again goes before what users sent.
    staying.sort_by_key(|item| (item.scope == MediaScope::Local, item.accessed));
    for scope in [Some(MediaScope::Local), Some(MediaScope::Remote), Some(MediaScope::Thumbnail), None] {
        let space = match scope {
            Some(scope) => limits.limits(scope).space,
            None => limits.total_space(),
        };
        let Some(space) = space else { continue };
        let counts = |item: &Item| scope.is_none_or(|scope| scope == item.scope);
        let mut filled: u64 = staying.iter().filter(|item| counts(item)).map(|item| item.size).sum();
        let (over, kept) = staying.into_iter().partition(|item| {
            let goes = counts(item) && filled > space.bytes();
            if goes {
                filled -= item.size;
            }
            goes
        });
        let over: Vec<Item> = over;
        going.extend(over);
        staying = kept;
    }
    (going, staying)
}

fn is_settled(files: &Files, hash: &str) -> bool {
    let modified = files.path(hash).ok().and_then(|path| path.metadata().ok()?.modified().ok());
    let modified = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    modified.is_none_or(|modified| modified + SETTLED < Duration::from_millis(clock::now_ms()))
}

fn delete(tx: &mut Tx<'_>, item: &Item) {
    match &item.name {
        Name::Uri(server, id) => trees::MEDIA.delete(tx, (&**server as &ServerName, &**id)),
        Name::Thumbnail(original, size) => trees::THUMBNAILS.delete(tx, (&**original, &**size)),
    }
    trees::MEDIA_ACCESSED.delete(tx, &*item.hash);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Retention};

    fn item(scope: MediaScope, accessed: u64, size: u64) -> Item {
        let name = Name::Thumbnail(String::new(), format!("{accessed}"));
        Item { name, scope, hash: format!("{scope:?}{accessed}"), size, created: 0, accessed }
    }

    fn left(items: Vec<Item>, retention: Vec<Retention>, now: u64) -> Vec<String> {
        let limits = Media { retention, ..Media::default() };
        let mut left: Vec<_> = sort_out(items, &limits, now).1.into_iter().map(|item| item.hash).collect();
        left.sort();
        left
    }

    #[test]
    fn by_default_what_is_not_ours_goes_after_a_month() {
        let day = 24 * 60 * 60 * 1000;
        let items = || {
            [MediaScope::Local, MediaScope::Remote, MediaScope::Thumbnail]
                .into_iter()
                .flat_map(|scope| [item(scope, day, 1), item(scope, 20 * day, 1)])
                .collect()
        };
        let default = Media::default().retention;
        assert_eq!(left(items(), default.clone(), 25 * day).len(), 6);
        let kept = left(items(), default, 40 * day);
        assert_eq!(kept, ["Local1728000000", "Local86400000", "Remote1728000000", "Thumbnail1728000000"]);
    }

    #[test]
    fn over_its_space_what_was_not_looked_at_for_the_longest_goes_first() {
        let of = |scope, space| Retention { scope, space: Some(ByteSize(space)), ..Retention::default() };
        let remote = || (1..=4).map(|at| item(MediaScope::Remote, at, 10)).collect::<Vec<_>>();
        assert_eq!(left(remote(), vec![of(Some(MediaScope::Remote), 25)], 5), ["Remote3", "Remote4"]);
        // The total takes what can be had again before what users sent, however old that is.
        let mut all = remote();
        all.push(item(MediaScope::Local, 0, 10));
        assert_eq!(left(all, vec![of(None, 25)], 5), ["Local0", "Remote4"]);
    }
}
