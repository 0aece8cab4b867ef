//! What is known of servers that this one has nothing to do with: for a while, in memory.
//!
//! Anybody can ask us, as a notary, for the keys of servers that they make up, or send requests in such names.

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, ServerName};

use super::documents::{BELIEVED_MS, Document};
use crate::{
    clock,
    error::Result,
    store::records::{ServerKey, ServerKeyDocument},
};

/// Bytes of documents kept: those of some 5,000 servers.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// What a document of keys said when it came.
pub(super) struct Told {
    /// The document.
    pub(super) document: ServerKeyDocument,
    /// The keys by their IDs.
    pub(super) keys: BTreeMap<String, ServerKey>,
    /// Whether it came from its server itself.
    is_own_word: bool,
}

impl Told {
    /// What `document` says, which came now.
    pub(super) fn new(document: &Document, is_own_word: bool) -> Result<Self> {
        let now = clock::now_ms();
        let key = |(id, key, valid_until_ts): (&str, ruma::serde::Base64, u64)| {
            (id.to_owned(), ServerKey { key: key.encode(), valid_until_ts })
        };
        let row = ServerKeyDocument {
            json: serde_json::to_string(&document.object)?,
            valid_until_ts: document.valid_until_ts,
            fetched_ts: now,
        };
        Ok(Self { document: row, keys: document.keys(now).map(key).collect(), is_own_word })
    }

    /// Whether it is to be believed rather than what came before: what the server itself says always is. Of others' words,
    /// that which is valid for longer is newer; but what says that it is valid for years is no newer for that.
    pub(super) fn is_newer_than(&self, before: &ServerKeyDocument) -> bool {
        let believed = |valid_until: u64| valid_until.min(clock::now_ms() + BELIEVED_MS);
        self.is_own_word || believed(before.valid_until_ts) <= believed(self.document.valid_until_ts)
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<OwnedServerName, Arc<Told>> for Weight {
    fn weight(&self, server: &OwnedServerName, told: &Arc<Told>) -> u64 {
        let keys: usize = told.keys.iter().map(|(id, key)| 128 + id.len() + key.key.len()).sum();
        (256 + server.as_str().len() + told.document.json.len() + keys) as u64
    }
}

/// The servers, with what they said last. Who was not asked about for longest goes first.
pub(super) struct Strangers(Cache<OwnedServerName, Arc<Told>, Weight>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Cache::with_weighter(5_000, MAX_BYTES, Weight))
    }
}

impl Strangers {
    /// Keeps what was told, unless it is older than what is known.
    pub(super) fn learn(&self, server: &ServerName, told: Told) {
        if self.0.get(server).is_none_or(|before| told.is_newer_than(&before.document)) {
            self.0.insert(server.to_owned(), Arc::new(told));
        }
    }

    /// The document of a server.
    pub(super) fn document(&self, server: &ServerName) -> Option<ServerKeyDocument> {
        self.0.get(server).map(|told| told.document.clone())
    }

    /// A key of a server.
    pub(super) fn key(&self, server: &ServerName, id: &str) -> Option<ServerKey> {
        self.0.get(server)?.keys.get(id).cloned()
    }

    /// Forgets a server; gives what was known.
    pub(super) fn remove(&self, server: &ServerName) -> Option<Arc<Told>> {
        self.0.remove(server).map(|(_, told)| told)
    }
}
