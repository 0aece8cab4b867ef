//! When files go by themselves: the limits of `media.retention`.
//!
//! Once a day all files are looked at. What nothing names goes, as do those that were not asked for, or are here, for longer
//! than their scope allows; and if a scope fills more than its space, what nobody asked for the longest. What a URI of another server names
//! can be fetched again; what a user of this server sent is gone, so that is only done where the administrator says so.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    files::Files,
    removal::{self, Item},
};
use crate::{
    clock,
    config::{Media, MediaScope},
    error::Result,
    store::{Store, trees},
};

/// To what an access is noted: more often would be a write for every look at a picture.
const ACCESS_GRAIN_MS: u64 = 24 * 60 * 60 * 1000;

/// Bytes written less long ago may just be named by somebody: they stay until the next time.
const SETTLED: Duration = Duration::from_secs(60 * 60);

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

/// Deletes what is over the limits, but for what `is_spared` says; gives how many files went and how many bytes they had.
/// Looks at the row of every file: for a thread of its own.
///
/// # Errors
/// When the database or the disk fails.
pub fn sweep(store: &Store, files: &Files, limits: &Media, is_spared: impl Fn(&Item) -> bool) -> Result<(u64, u64)> {
    let begun = clock::system_time();
    let mut items = removal::items(&store.read())?;
    items.iter_mut().for_each(|item| item.protected |= is_spared(item));
    let (going, staying) = sort_out(items, limits, clock::now_ms());
    // A name of bytes that are just being written waits.
    let going: Vec<Item> = going.into_iter().filter(|item| is_settled(files, &item.hash)).collect();
    let removed = removal::delete(store, files, begun, &going, &staying)?;
    removal::remove_unnamed(store, files, begun.checked_sub(SETTLED).unwrap_or(UNIX_EPOCH))?;
    Ok((removed.files, removed.bytes))
}

/// What goes and what stays.
fn sort_out(items: Vec<Item>, limits: &Media, now: u64) -> (Vec<Item>, Vec<Item>) {
    let is_over = |since: u64, most: Option<Duration>| {
        most.is_some_and(|most| u128::from(now.saturating_sub(since)) > most.as_millis())
    };
    let (mut going, mut staying): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| {
        let limits = limits.limits(item.scope);
        !item.protected && (is_over(item.accessed, limits.accessed) || is_over(item.created, limits.created))
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
            let goes = counts(item) && !item.protected && filled > space.bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ByteSize, Retention},
        media::removal::Name,
    };

    fn item(scope: MediaScope, accessed: u64, size: u64) -> Item {
        let name = Name::Thumbnail(String::new(), format!("{accessed}"));
        let hash = format!("{scope:?}{accessed}");
        Item { name, user: None, scope, hash, size, created: 0, accessed, protected: false }
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

    #[test]
    fn what_is_protected_stays() {
        let kept = Item { protected: true, ..item(MediaScope::Local, 1, 10) };
        let all = vec![kept, item(MediaScope::Local, 2, 10)];
        let retention = Retention {
            scope: Some(MediaScope::Local),
            accessed: Some(Duration::from_secs(1)),
            space: Some(ByteSize(5)),
            ..Retention::default()
        };
        assert_eq!(left(all, vec![retention], 10_000), ["Local1"]);
    }
}
