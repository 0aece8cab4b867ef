//! `media`: files.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedMxcUri, OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Answer,
    users::{self, date},
};
use crate::{
    clock,
    config::MediaScope,
    error::{Error, Result},
    media::{
        self,
        removal::{self, Item, Removed},
    },
    server::Server,
    store::{Direction, Read, trees},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How many rows a list has unless another number is asked for.
const LIMIT: usize = 100;

/// What can be done with files.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// Show how many files there are, and how much of the disk they take
    Sizes {
        /// For each user of this server
        #[arg(long, conflicts_with = "by_server")]
        by_user: bool,
        /// For each other server
        #[arg(long)]
        by_server: bool,
    },
    /// List files, the largest first
    List {
        #[command(flatten)]
        selection: Selection,
        /// How many
        #[arg(long, default_value_t = LIMIT)]
        limit: usize,
    },
    /// Show a file
    Show { uri: OwnedMxcUri },
    /// Delete files: those that are named, or all that the options describe
    Delete {
        /// Their URIs (mxc://...)
        uris: Vec<OwnedMxcUri>,
        #[command(flatten)]
        selection: Selection,
        /// Those of this server's users as well, if only their age or size is given: nobody can fetch them again
        #[arg(long)]
        local: bool,
        /// Only say what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Protect a file: it stays until it is deleted by its URI, whatever its age
    Protect { uri: OwnedMxcUri },
    /// Let a file go again as others do
    Unprotect { uri: OwnedMxcUri },
    /// Block a file, under whatever names it is here or comes again: nobody can send or see it
    Block {
        /// A URI (mxc://...), or the SHA-256 of the file
        file: String,
        /// Delete it as well
        #[arg(long)]
        delete: bool,
    },
    /// End the block of a file
    Unblock {
        /// A URI (mxc://...), or the SHA-256 of the file
        file: String,
    },
    /// List the blocked files
    Blocked,
}

/// Which files.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Selection {
    /// Those that this user sent
    #[arg(long)]
    user: Option<String>,
    /// Those of this server
    #[arg(long, conflicts_with = "user")]
    server: Option<OwnedServerName>,
    /// Those that are here for more than so many days
    #[arg(long)]
    older_than: Option<u32>,
    /// Those that nobody asked for in so many days
    #[arg(long)]
    unused_for: Option<u32>,
    /// Those of more than so many bytes
    #[arg(long)]
    larger_than: Option<u64>,
}

impl Selection {
    fn is_empty(&self) -> bool {
        self.is_of_anybody() && self.older_than.is_none() && self.unused_for.is_none() && self.larger_than.is_none()
    }

    fn is_of_anybody(&self) -> bool {
        self.user.is_none() && self.server.is_none()
    }

    /// With the whole ID of the user, who must have an account.
    fn resolved(self, server: &Server) -> Result<Self> {
        let user = self.user.as_deref().map(|name| users::find_any(&server.store.read(), server, name));
        Ok(Self { user: user.transpose()?.map(|(user, _)| user.to_string()), ..self })
    }

    fn matches(&self, item: &Item, now: u64) -> bool {
        let Some((server, _)) = item.uri() else { return false };
        let before = |days: u32| now.saturating_sub(u64::from(days) * DAY_MS);
        self.user.as_deref().is_none_or(|user| item.user.as_ref().is_some_and(|own| own == user))
            && self.server.as_deref().is_none_or(|wanted| wanted == server)
            && self.older_than.is_none_or(|days| item.created < before(days))
            && self.unused_for.is_none_or(|days| item.accessed < before(days))
            && self.larger_than.is_none_or(|bytes| item.size > bytes)
    }
}

pub(super) async fn run(server: &Server, command: Command, by: Option<&UserId>) -> Result<Answer> {
    match command {
        Command::Sizes { by_user, by_server } => sizes(&server.store.read(), by_user, by_server),
        Command::List { selection, limit } => list(server, selection, limit),
        Command::Show { uri } => show(server, &uri),
        Command::Delete { uris, selection, local, dry_run } => delete(server, uris, selection, local, dry_run).await,
        Command::Protect { uri } => protect(server, &uri, true),
        Command::Unprotect { uri } => protect(server, &uri, false),
        Command::Block { file, delete } => block(server, &file, delete, by).await,
        Command::Unblock { file } => server.store.write(|tx| {
            let hash = hash(tx, &file)?;
            media::unblock(tx, &hash);
            Ok(Answer::Sentence(format!("The file {hash} is not blocked.")))
        }),
        Command::Blocked => {
            let mut rows = Vec::new();
            for row in trees::BLOCKED_MEDIA.scan(&server.store.read(), (), Direction::Forward) {
                let (hash, block) = row?;
                rows.push(vec![json!(hash), date(Some(block.since)), json!(block.by)]);
            }
            Ok(Answer::Table(vec!["file", "since", "by"], rows))
        }
    }
}

fn sizes(read: &dyn Read, by_user: bool, by_server: bool) -> Result<Answer> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for item in removal::items(read)? {
        let key = match (&item.user, item.uri()) {
            (Some(user), _) if by_user => user.to_string(),
            (None, Some((server, _))) if by_server => server.to_string(),
            _ if by_user || by_server => continue,
            _ => match item.scope {
                MediaScope::Local => "sent by users of this server".to_owned(),
                MediaScope::Remote => "fetched from elsewhere".to_owned(),
                MediaScope::Thumbnail => "thumbnails".to_owned(),
            },
        };
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + 1, sum.1 + item.size);
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let rows = rows.into_iter().map(|(of, (files, bytes))| vec![json!(of), json!(files), json!(bytes)]).collect();
    Ok(Answer::Table(vec!["of", "files", "bytes"], rows))
}

fn list(server: &Server, selection: Selection, limit: usize) -> Result<Answer> {
    let (selection, now) = (selection.resolved(server)?, clock::now_ms());
    let mut items = removal::items(&server.store.read())?;
    items.retain(|item| selection.matches(item, now));
    items.sort_by_key(|item| std::cmp::Reverse(item.size));
    let row = |item: &Item| {
        let uri = item.uri().map_or(Value::Null, |(server, id)| json!(format!("mxc://{server}/{id}")));
        vec![uri, json!(item.size), json!(item.user), date(Some(item.created)), date(Some(item.accessed))]
    };
    let rows = items.iter().take(limit).map(row).collect();
    Ok(Answer::Table(vec!["uri", "bytes", "user", "created", "last_asked_for"], rows))
}

fn protect(server: &Server, uri: &OwnedMxcUri, protected: bool) -> Result<Answer> {
    let (origin, id) = parts(uri)?;
    server.store.write(|tx| media::protect(tx, origin, id, protected))?;
    let how = if protected { "is protected" } else { "goes as others do" };
    Ok(Answer::Sentence(format!("The file {uri} {how}.")))
}

fn parts(uri: &OwnedMxcUri) -> Result<(&ServerName, &str)> {
    uri.parts().map_err(|_| Error::invalid_param(format!("{uri} is no mxc:// URI.")))
}

/// The file that a URI names.
fn stored(read: &dyn Read, uri: &OwnedMxcUri) -> Result<(media::MediaFile, media::MediaContent)> {
    let unknown = || Error::not_found(format!("There is no file {uri} here."));
    let (server, id) = parts(uri)?;
    let file = trees::MEDIA.get(read, (server, id))?.ok_or_else(unknown)?;
    let content = file.content.clone().ok_or_else(unknown)?;
    Ok((file, content))
}

fn show(server: &Server, uri: &OwnedMxcUri) -> Result<Answer> {
    let read = server.store.read();
    let (file, content) = stored(&read, uri)?;
    let accessed = trees::MEDIA_ACCESSED.get(&read, &content.hash)?;
    Ok(Answer::Fields(vec![
        ("uri", json!(uri)),
        ("user", json!(file.user)),
        ("name", json!(content.filename)),
        ("type", json!(content.content_type)),
        ("bytes", json!(content.size)),
        ("sha256", json!(content.hash)),
        ("created", date(Some(file.created_ts))),
        ("last_asked_for", date(accessed)),
        ("protected", json!(file.protected)),
        ("blocked", json!(media::check_shown(&read, &content.hash).is_err())),
    ]))
}

/// A SHA-256 as it is given, or that of the file with the given URI.
fn hash(read: &dyn Read, file: &str) -> Result<String> {
    if file.starts_with("mxc://") {
        return Ok(stored(read, &file.into())?.1.hash);
    }
    let hash = file.to_ascii_lowercase();
    match hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(hash),
        false => {
            Err(Error::invalid_param(format!("{file} is neither a URI (mxc://...) nor a SHA-256 in hexadecimal.")))
        }
    }
}

async fn block(server: &Server, file: &str, delete: bool, by: Option<&UserId>) -> Result<Answer> {
    let hash = server.store.write(|tx| {
        let hash = hash(tx, file)?;
        media::block(tx, &hash, by)?;
        Ok(hash)
    })?;
    if !delete {
        return Ok(Answer::Sentence(format!("The file {hash} is blocked.")));
    }
    let of = hash.clone();
    let removed = remove(server, false, move |item| item.hash == of).await?;
    Ok(Answer::Sentence(format!("The file {hash} is blocked. {}", told(removed, false))))
}

async fn delete(
    server: &Server,
    uris: Vec<OwnedMxcUri>,
    selection: Selection,
    local: bool,
    dry_run: bool,
) -> Result<Answer> {
    if !uris.is_empty() {
        let removed = remove(server, dry_run, move |item| {
            item.uri().is_some_and(|named| uris.iter().any(|uri| uri.parts().is_ok_and(|parts| parts == named)))
        });
        return Ok(Answer::Sentence(told(removed.await?, dry_run)));
    }
    if selection.is_empty() {
        let message = "Say which: their URIs, or some of --user, --server, --older-than, --unused-for, --larger-than.";
        return Err(Error::invalid_param(message));
    }
    let selection = selection.resolved(server)?;
    let also_local = local || !selection.is_of_anybody();
    let now = clock::now_ms();
    let removed = remove(server, dry_run, move |item| {
        (also_local || item.scope != MediaScope::Local) && !item.protected && selection.matches(item, now)
    });
    Ok(Answer::Sentence(told(removed.await?, dry_run)))
}

/// [`removal::remove`] on a thread of its own.
async fn remove(
    server: &Server,
    dry_run: bool,
    is_wanted: impl FnMut(&Item) -> bool + Send + 'static,
) -> Result<Removed> {
    let (store, files) = (Arc::clone(&server.store), server.media.clone());
    let work = tokio::task::spawn_blocking(move || removal::remove(&store, &files, dry_run, is_wanted));
    work.await.map_err(Error::internal)?
}

fn told(Removed { names, files, bytes }: Removed, dry_run: bool) -> String {
    let done = if dry_run { "Would be deleted" } else { "Deleted" };
    format!("{done}: {names} URIs, {files} files with thumbnails, {bytes} bytes.")
}
