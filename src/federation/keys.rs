//! The keys that servers sign with: ours as others see them, theirs as we believe them
//! ([Retrieving server keys](https://spec.matrix.org/latest/server-server-api/#retrieving-server-keys)).
//!
//! A server publishes a document of its keys, signed by itself. It is fetched from the server, or from a server that we
//! trust to pass it on (a notary, which signs it as well); when many servers are asked for at once, as on joining a large
//! room, notaries come first, since they answer for all of them together; else they are asked as well where the server
//! itself is not quick. What was learned stays in the database, if it is of a server that shares a room with this one, or
//! that signed something which stays; else in memory for a while (`strangers.rs`), since anybody can have us ask for the
//! keys of servers that they make up.
//!
//! Invariants: a document that its own server did not sign teaches nothing; an older document takes nothing back that a
//! newer one said, and what a server itself says is newest; no key is believed for longer than seven days ahead.

mod documents;
mod notaries;
mod strangers;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use quick_cache::sync::Cache;
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::discovery::get_server_keys,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet},
};
use tokio::time::timeout;

pub use self::documents::is_signed;
pub(super) use self::notaries::Vouched;
use self::{
    documents::{BELIEVED_MS, Document, MAX_KEYS, signatures},
    strangers::{Strangers, Told},
};
use super::{Federation, Limits};
use crate::{
    clock,
    config::Current,
    error::{Error, Result},
    outgoing::{Gate, Turns},
    signing::SigningKeys,
    store::{Direction, Store, Tx, records::ServerKeyDocument, trees},
};

/// How long our own document says that it is valid.
const OURS_VALID_MS: u64 = 24 * 60 * 60 * 1000;

/// From how many servers on notaries are asked first.
const MANY: usize = 8;

/// How long fewer are waited for before notaries are asked, too.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many servers are asked at once: those of which nothing bad is known, those that failed before, and those that take
/// long. They have these turns for themselves: whoever sends requests in made-up names has us ask for keys, and must not
/// keep us from sending anything else, nor from asking for the keys of others.
const GATE: (usize, usize, usize) = (AT_ONCE, 8, 256);
const AT_ONCE: usize = 32;

/// How long a server that gave no keys, or keys that somebody finds too old, is not asked again; and how many servers that
/// gave none are remembered.
const AFTER_FAILURE_MS: u64 = 60 * 1000;
const AFTER_FAILURE: Duration = Duration::from_millis(AFTER_FAILURE_MS);
const FAILURES: usize = 5_000;

/// How many keys of one server are stored: those of several documents, more than servers have in their lives.
const MAX_STORED: usize = 4 * MAX_KEYS;

/// How the pause grows for a server that fails again and again.
const MAX_DOUBLINGS: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

const LIMITS: Limits = Limits { body: 128 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// The keys that are needed, by server; each with the latest time at which it must be valid, in milliseconds since the
/// Unix epoch (0 where that does not matter).
pub type Needed = BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, u64>>;

/// What keys are needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// For what stays, such as events.
    Lasting,
    /// For what is over soon: a request, or the question of somebody else.
    Passing,
}

/// The keys of other servers.
pub struct ServerKeys {
    store: Arc<Store>,
    /// What is known of servers that this one has nothing to do with.
    strangers: Strangers,
    ours: Arc<SigningKeys>,
    config: Current,
    /// Who gave no usable keys lately.
    failed: Cache<OwnedServerName, Failed>,
    asking: Turns<OwnedServerName>,
    gate: Gate,
}

/// A server that gave no usable keys: when last, and how often before that.
#[derive(Clone, Copy)]
struct Failed {
    at: Instant,
    before: u32,
}

impl Failed {
    /// Whether it is left in peace: for a minute at first, and for twice as long each time, up to an hour.
    fn is_recent(&self) -> bool {
        self.at.elapsed() < AFTER_FAILURE.saturating_mul(1 << self.before.min(MAX_DOUBLINGS)).min(LONGEST_PAUSE)
    }
}

/// Keys that were asked for, as far as they are known.
#[derive(Debug, Default)]
pub struct KnownKeys(BTreeMap<OwnedServerName, BTreeMap<String, (Base64, u64)>>);

impl KnownKeys {
    /// Those that may have signed what was made at `time`, in milliseconds since the Unix epoch; all if the time does not
    /// matter, as in room versions 1 to 4
    /// ([Signing key validity period](https://spec.matrix.org/latest/rooms/v5/#signing-key-validity-period)).
    pub fn valid_at<'s>(&self, servers: impl IntoIterator<Item = &'s ServerName>, time: Option<u64>) -> PublicKeyMap {
        let of = |server: &ServerName| -> Option<(String, PublicKeySet)> {
            let valid = self.0.get(server)?.iter().filter(|(_, (_, until))| time.is_none_or(|time| time <= *until));
            Some((server.to_string(), valid.map(|(id, (key, _))| (id.clone(), key.clone())).collect()))
        };
        servers.into_iter().filter_map(of).collect()
    }

    fn has(&self, server: &ServerName, id: &str, valid_at: u64) -> bool {
        self.0.get(server).and_then(|keys| keys.get(id)).is_some_and(|(_, until)| valid_at <= *until)
    }
}

impl ServerKeys {
    /// No keys but those in the database and the server's own.
    pub fn new(config: Current, store: Arc<Store>, ours: Arc<SigningKeys>) -> Self {
        Self {
            store,
            strangers: Strangers::default(),
            ours,
            config,
            failed: Cache::new(FAILURES),
            asking: Turns::default(),
            gate: Gate::new(GATE.0, GATE.1, GATE.2),
        }
    }

    /// Our own document of keys, signed.
    ///
    /// # Errors
    /// Not with keys as they are made.
    pub fn published(&self) -> Result<CanonicalJsonObject> {
        let now = clock::now_ms();
        let mut old = serde_json::Map::new();
        for key in self.ours.old() {
            old.insert(key.id.clone(), serde_json::json!({ "key": key.public, "expired_ts": key.expired_ts }));
        }
        let document = serde_json::json!({
            "server_name": self.ours.server_name(),
            "verify_keys": { self.ours.id(): { "key": self.ours.public_key() } },
            "old_verify_keys": old,
            "valid_until_ts": now + OURS_VALID_MS,
        });
        let mut document = serde_json::from_value(document)?;
        self.ours.sign_json(&mut document)?;
        Ok(document)
    }

    /// The keys in `needed`, which signed what stays here: from the database, else from their servers and notaries. What
    /// cannot be had is missing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fetch(&self, federation: &Federation, needed: &Needed) -> Result<KnownKeys> {
        let known = self.find(federation, needed, Purpose::Lasting).await?;
        for server in needed.keys() {
            self.strangers.remove(server).map_or(Ok(()), |told| self.keep(server, &told))?;
        }
        Ok(known)
    }

    async fn find(&self, federation: &Federation, needed: &Needed, purpose: Purpose) -> Result<KnownKeys> {
        let missing = self.missing(needed, &self.known(needed)?);
        if missing.len() >= MANY {
            self.ask_notaries(federation, &missing, purpose).await?;
            let left = self.missing(&missing, &self.known(&missing)?);
            self.ask_servers(federation, &left, purpose).await?;
        } else if !missing.is_empty() {
            self.ask_few(federation, &missing, purpose).await?;
        }
        let known = self.known(needed)?;
        self.missing(needed, &known).into_keys().for_each(|server| self.note_failure(server));
        Ok(known)
    }

    /// Asks servers for their keys, and notaries for what they do not tell, or not soon: those that are slow, or gone,
    /// need not be waited for if somebody else tells.
    async fn ask_few(&self, federation: &Federation, missing: &Needed, purpose: Purpose) -> Result<()> {
        let mut servers = pin!(self.ask_servers(federation, missing, purpose));
        if let Ok(asked) = timeout(PATIENCE, &mut servers).await {
            asked?;
            return self.ask_notaries(federation, missing, purpose).await;
        }
        // Both go on: a notary may be one of the servers.
        let mut notaries = pin!(self.ask_notaries(federation, missing, purpose));
        let have_servers_told = tokio::select! {
            asked = &mut servers => asked.map(|()| true),
            told = &mut notaries => told.map(|()| false),
        }?;
        match have_servers_told {
            _ if self.missing(missing, &self.known(missing)?).is_empty() => Ok(()),
            true => notaries.await,
            false => servers.await,
        }
    }

    /// The keys with which `server`, which sends us a request, may sign it with key `id` now. That it sends one says that it
    /// is there: however often it failed before, it is asked again after a minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of_caller(
        &self,
        federation: &Federation,
        server: &OwnedServerName,
        id: &OwnedServerSigningKeyId,
    ) -> Result<PublicKeyMap> {
        if self.failed.get(server).is_some_and(|failed| failed.at.elapsed() > AFTER_FAILURE) {
            self.failed.remove(server);
        }
        let now = clock::now_ms();
        let needed = Needed::from([(server.clone(), [(id.clone(), now)].into())]);
        Ok(self.find(federation, &needed, Purpose::Passing).await?.valid_at([&**server], Some(now)))
    }

    fn note_failure(&self, server: OwnedServerName) {
        let before = self.failed.get(&server).map_or(0, |failed| failed.before.saturating_add(1));
        self.failed.insert(server, Failed { at: clock::instant(), before });
    }

    /// The document that `server` published last, asked of it anew unless what we have is valid at `minimum_valid_until`
    /// (milliseconds since the Unix epoch); an older one if that brings nothing. For those who ask us as a notary.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn document(
        &self,
        federation: &Federation,
        server: &OwnedServerName,
        minimum_valid_until: u64,
    ) -> Result<Option<CanonicalJsonObject>> {
        if server == self.ours.server_name() {
            return self.published().map(Some);
        }
        let is_enough = |row: &ServerKeyDocument| {
            let Some(age) = clock::now_ms().checked_sub(row.fetched_ts) else { return false };
            // Half-way through what a document is valid for it is asked for again, so that who asks us gets it in time.
            let lifetime = row.valid_until_ts.saturating_sub(row.fetched_ts).min(BELIEVED_MS);
            age < AFTER_FAILURE_MS || (row.valid_until_ts >= minimum_valid_until && age < lifetime / 2)
        };
        if !self.last_document(server)?.is_some_and(|row| is_enough(&row))
            && !self.has_failed(server)
            && let Err(error) = self.ask_server(federation, server, is_enough, Purpose::Passing).await?
        {
            tracing::debug!(%server, %error, "no new keys");
            self.note_failure(server.clone());
        }
        let Some(row) = self.last_document(server)? else { return Ok(None) };
        let corrupt = |_| Error::corrupt(trees::SERVER_KEY_DOCUMENTS.name, server.as_str());
        Ok(Some(serde_json::from_str(&row.json).map_err(corrupt)?))
    }

    /// The document of a server that is kept.
    fn last_document(&self, server: &OwnedServerName) -> Result<Option<ServerKeyDocument>> {
        let stored = trees::SERVER_KEY_DOCUMENTS.get(&self.store.read(), server)?;
        Ok(stored.or_else(|| self.strangers.document(server)))
    }

    /// What is kept of the keys in `needed`.
    fn known(&self, needed: &Needed) -> Result<KnownKeys> {
        let (read, config) = (self.store.read(), self.config.get());
        let mut known = KnownKeys::default();
        for (server, ids) in needed {
            let mut keys = BTreeMap::new();
            for id in ids.keys() {
                if server == self.ours.server_name() {
                    keys.extend(self.our_key(id.as_str()).map(|key| (id.to_string(), key)));
                    continue;
                }
                let stored = trees::SERVER_KEYS.get(&read, (server, id.as_str()))?;
                if let Some(row) = stored.or_else(|| self.strangers.key(server, id.as_str())) {
                    let key = Base64::parse(&row.key).map_err(|_| Error::corrupt(trees::SERVER_KEYS.name, row.key))?;
                    if !config.ignored_keys.contains(&key) {
                        keys.insert(id.to_string(), (key, row.valid_until_ts));
                    }
                }
            }
            known.0.insert(server.clone(), keys);
        }
        Ok(known)
    }

    fn our_key(&self, id: &str) -> Option<(Base64, u64)> {
        let parsed = |key: &str, until| Some((Base64::parse(key).ok()?, until));
        if id == self.ours.id() {
            return parsed(&self.ours.public_key(), u64::MAX);
        }
        let old = self.ours.old().iter().find(|old| old.id == id)?;
        parsed(&old.public, old.expired_ts)
    }

    /// What of `needed` is not in `known`, without servers that failed just now.
    fn missing(&self, needed: &Needed, known: &KnownKeys) -> Needed {
        let mut missing = Needed::new();
        for (server, ids) in needed {
            if server == self.ours.server_name() || self.has_failed(server) {
                continue;
            }
            let ids: BTreeMap<_, _> = ids
                .iter()
                .filter(|(id, time)| !known.has(server, id.as_str(), **time))
                .map(|(id, time)| (id.clone(), *time))
                .collect();
            if !ids.is_empty() {
                missing.insert(server.clone(), ids);
            }
        }
        missing
    }

    fn has_failed(&self, server: &OwnedServerName) -> bool {
        self.failed.get(server).is_some_and(|failed| failed.is_recent())
    }

    async fn ask_servers(&self, federation: &Federation, missing: &Needed, purpose: Purpose) -> Result<()> {
        let now = clock::now_ms();
        let servers: Vec<_> = missing.keys().cloned().collect();
        let asked = stream::iter(servers).map(|server| async move {
            // Who waited for another's question finds its answer.
            let is_enough = |row: &ServerKeyDocument| (now..=clock::now_ms()).contains(&row.fetched_ts);
            let outcome = self.ask_server(federation, &server, is_enough, purpose).await?;
            if let Err(error) = outcome {
                tracing::debug!(%server, %error, "no keys from their server");
            }
            Ok(())
        });
        asked.buffer_unordered(AT_ONCE).collect::<Vec<Result<()>>>().await.into_iter().collect()
    }

    /// Asks a server for its keys and learns them, unless the stored document is enough by the time that it is our turn.
    async fn ask_server(
        &self,
        federation: &Federation,
        server: &OwnedServerName,
        is_enough: impl Fn(&ServerKeyDocument) -> bool,
        purpose: Purpose,
    ) -> Result<Result<(), String>> {
        let _turn = self.asking.wait(server).await;
        if self.last_document(server)?.is_some_and(|row| is_enough(&row)) {
            return Ok(Ok(()));
        }
        let place = self.gate.enter(self.failed.get(server).is_some()).await;
        let asked = federation.exchange(server, get_server_keys::v2::Request::new(), LIMITS);
        let (answer, _) = place.pass(Box::pin(asked)).await;
        let document = match answer {
            Ok(answer) => answer.server_key.into_json(),
            Err(failure) => return Ok(Err(failure.to_string())),
        };
        match Document::read(document.get()) {
            Ok(document) if document.server == *server => self.learn(&document, true, purpose).map(Ok),
            Ok(document) => Ok(Err(format!("it gave the keys of {}", document.server))),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Checks that `server` signed a JSON object, now.
    ///
    /// # Errors
    /// When the database fails; inside, why it is not signed.
    pub async fn verify_object(
        &self,
        federation: &Federation,
        server: &ServerName,
        object: &CanonicalJsonObject,
    ) -> Result<Result<(), String>> {
        let now = clock::now_ms();
        let ids = signatures(object, server).map(|(id, _)| id);
        let ids = ids.filter_map(|id| OwnedServerSigningKeyId::try_from(id).ok().map(|id| (id, now))).take(MAX_KEYS);
        let needed = Needed::from([(server.to_owned(), ids.collect())]);
        // Boxed, since fetching keys from a notary verifies the notary's own signature.
        let known = Box::pin(self.fetch(federation, &needed)).await?;
        let keys = known.valid_at([server], Some(now)).remove(server.as_str()).unwrap_or_default();
        Ok(is_signed(object, server, &keys))
    }

    /// Keeps what a document says, which came from its server itself or not.
    fn learn(&self, document: &Document, is_own_word: bool, purpose: Purpose) -> Result<()> {
        let server = &document.server;
        let told = Told::new(document, is_own_word)?;
        let is_stranger = {
            let read = self.store.read();
            let shares_a_room = trees::SERVER_ROOMS.scan(&read, (server,), Direction::Forward).next().transpose()?;
            shares_a_room.is_none() && !trees::SERVER_KEY_DOCUMENTS.contains(&read, server)?
        };
        if is_stranger && purpose == Purpose::Passing {
            self.strangers.learn(server, told);
            return Ok(());
        }
        self.strangers.remove(server);
        self.keep(server, &told)
    }

    /// Forgets the keys of a server, so that they are fetched anew when they are needed.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget(&self, server: &ServerName) -> Result<()> {
        self.strangers.remove(server);
        self.store.write(|tx| trees::SERVER_KEYS.delete_all(tx, (server,)))
    }

    /// Stores what a document says.
    fn keep(&self, server: &ServerName, told: &Told) -> Result<()> {
        self.store.write(|tx| {
            let before = trees::SERVER_KEY_DOCUMENTS.get(tx, server)?;
            let is_newest = before.is_none_or(|before| told.is_newer_than(&before));
            if is_newest {
                trees::SERVER_KEY_DOCUMENTS.put(tx, server, &told.document);
            }
            for (id, key) in &told.keys {
                if is_newest || !trees::SERVER_KEYS.contains(tx, (server, id))? {
                    trees::SERVER_KEYS.put(tx, (server, id), key);
                }
            }
            forget_oldest(tx, server)
        })
    }
}

/// Forgets the keys of a server that were valid longest ago, if it made up too many.
fn forget_oldest(tx: &mut Tx<'_>, server: &ServerName) -> Result<()> {
    let mut keys = Vec::new();
    for row in trees::SERVER_KEYS.scan(tx, (server,), Direction::Forward) {
        let ((_, id), key) = row?;
        keys.push((key.valid_until_ts, id));
    }
    keys.sort_unstable();
    for (_, id) in keys.iter().take(keys.len().saturating_sub(MAX_STORED)) {
        trees::SERVER_KEYS.delete(tx, (server, id.as_str()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_and_again_is_asked_ever_less_but_at_least_once_an_hour() {
        let minutes_ago = |minutes: u64| clock::instant().checked_sub(Duration::from_secs(60 * minutes)).unwrap();
        let recent = |minutes, before| Failed { at: minutes_ago(minutes), before }.is_recent();
        assert!(recent(0, 0) && !recent(1, 0));
        assert!(recent(7, 3) && !recent(8, 3));
        assert!(recent(59, u32::MAX) && !recent(60, u32::MAX));
    }
}
