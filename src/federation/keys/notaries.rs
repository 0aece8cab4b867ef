//! Servers that tell the keys of others
//! ([Querying keys through another server](https://spec.matrix.org/latest/server-server-api/#querying-keys-through-another-server)).
//!
//! Those that the administrator trusts are asked about many servers at once, and what they tell is kept. Where they do not
//! know a server that is gone, [`ServerKeys::vouch`] takes the word of another, for one purpose.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, ServerName, UInt,
    api::federation::discovery::get_remote_server_keys_batch, serde::Base64, signatures::PublicKeySet,
};

use super::{
    KnownKeys, Needed, Purpose, ServerKeys,
    documents::{Document, MAX_KEYS, is_signed},
};
use crate::{
    clock,
    error::Result,
    federation::{Federation, Limits},
    store::{Direction, trees::SERVER_KEYS},
};

/// About how many servers a notary is asked in one question, and how many questions it is asked at a time.
const BATCH: usize = 100;
const AT_A_TIME: usize = 4;

const LIMITS: Limits = Limits { body: 8 * 1024 * 1024, timeout: std::time::Duration::from_secs(30), redirects: 0 };

/// Keys of servers that cannot be reached and of which no trusted server tells, as one server tells of them. Who can make
/// up a server's keys can speak in its name, so they hold only for what that server alone answers for, the room that
/// somebody joins through it, and are forgotten with it; nor can it replace keys that are known.
pub(in crate::federation) struct Vouched<'a> {
    by: &'a ServerName,
    asked: BTreeSet<OwnedServerName>,
    keys: KnownKeys,
}

impl<'a> Vouched<'a> {
    /// Nothing yet.
    pub(in crate::federation) fn new(by: &'a ServerName) -> Self {
        Self { by, asked: BTreeSet::new(), keys: KnownKeys::default() }
    }
}

impl ServerKeys {
    pub(super) async fn ask_notaries(&self, federation: &Federation, missing: &Needed, purpose: Purpose) -> Result<()> {
        let config = self.config.get();
        for notary in config.trusted_servers.iter().filter(|server| **server != config.server_name) {
            if self.has_failed(notary) {
                continue;
            }
            let mut left = self.missing(missing, &self.known(missing)?);
            left.remove(notary);
            self.ask_in_batches(federation, notary, &left, |document| self.learn(document, false, purpose)).await?;
        }
        Ok(())
    }

    /// Asks `notary` about all these servers, until it fails; hands on what it tells as it comes.
    async fn ask_in_batches(
        &self,
        federation: &Federation,
        notary: &ServerName,
        servers: &Needed,
        mut hand_on: impl FnMut(&Document) -> Result<()>,
    ) -> Result<()> {
        let servers: Vec<_> = servers.iter().collect();
        let questions: Vec<_> = servers.chunks(BATCH).map(|batch| self.ask_notary(federation, notary, batch)).collect();
        let mut answers = stream::iter(questions).buffer_unordered(AT_A_TIME);
        while let Some(answer) = answers.next().await {
            match answer? {
                Ok(documents) => documents.iter().try_for_each(&mut hand_on)?,
                Err(error) => {
                    tracing::debug!(%notary, %error, "no keys from a notary");
                    break;
                }
            }
        }
        Ok(())
    }

    /// The documents of these servers that `notary` passes on, signed by it as well.
    async fn ask_notary(
        &self,
        federation: &Federation,
        notary: &ServerName,
        batch: &[(&OwnedServerName, &BTreeMap<OwnedServerSigningKeyId, u64>)],
    ) -> Result<Result<Vec<Document>, String>> {
        let criteria = |time: &u64| {
            let mut criteria = get_remote_server_keys_batch::v2::QueryCriteria::new();
            criteria.minimum_valid_until_ts = UInt::new(*time).map(MilliSecondsSinceUnixEpoch);
            criteria
        };
        let keys = |(server, ids): &(&OwnedServerName, &BTreeMap<_, _>)| {
            let ids = ids.iter().map(|(id, time): (&OwnedServerSigningKeyId, &u64)| (id.clone(), criteria(time)));
            ((*server).clone(), ids.collect())
        };
        let request = get_remote_server_keys_batch::v2::Request::new(batch.iter().map(keys).collect());
        let documents = match federation.exchange(notary, request, LIMITS).await {
            Ok(answer) => answer.server_keys,
            Err(failure) => return Ok(Err(failure.to_string())),
        };
        let asked: BTreeSet<_> = batch.iter().map(|(server, _)| *server).collect();
        let mut passed_on = Vec::with_capacity(documents.len().min(batch.len()));
        for document in documents {
            let Ok(document) = Document::read(document.json().get()) else { continue };
            if !asked.contains(&document.server) {
                continue;
            }
            if let Err(why) = self.verify_object(federation, notary, &document.object).await? {
                return Ok(Err(why));
            }
            passed_on.push(document);
        }
        Ok(Ok(passed_on))
    }

    /// Adds to `known` what of `needed` nobody else tells, on the word of who vouches for it.
    ///
    /// # Errors
    /// When the database fails.
    pub(in crate::federation) async fn vouch(
        &self,
        federation: &Federation,
        needed: &Needed,
        known: &mut KnownKeys,
        vouched: &mut Vouched<'_>,
    ) -> Result<()> {
        let mut missing = Needed::new();
        for (server, ids) in needed {
            let lacks = |(id, time): (&OwnedServerSigningKeyId, &u64)| !known.has(server, id.as_str(), *time);
            let is_own = server == self.ours.server_name() || server == vouched.by;
            if !is_own && ids.iter().any(lacks) && vouched.asked.insert(server.clone()) {
                missing.insert(server.clone(), ids.clone());
            }
        }
        self.ask_in_batches(federation, vouched.by, &missing, |document| self.take_word(vouched, document)).await?;
        for (server, ids) in needed {
            let Some(keys) = vouched.keys.0.get(server) else { continue };
            let of_server = known.0.entry(server.clone()).or_default();
            for (id, key) in ids.keys().filter_map(|id| Some((id, keys.get(id.as_str())?))) {
                if of_server.get(id.as_str()).is_none_or(|known| known.1 < key.1) {
                    of_server.insert(id.to_string(), key.clone());
                }
            }
        }
        Ok(())
    }

    /// Takes the word for a server's keys, unless other ones of it are known, with which it did not sign them.
    fn take_word(&self, vouched: &mut Vouched<'_>, document: &Document) -> Result<()> {
        let mut known = PublicKeySet::new();
        for row in SERVER_KEYS.scan(&self.store.read(), (&document.server,), Direction::Forward).take(2 * MAX_KEYS) {
            let ((_, id), row) = row?;
            known.extend(Base64::parse(row.key).ok().map(|key| (id, key)));
        }
        if !known.is_empty() && is_signed(&document.object, &document.server, &known).is_err() {
            return Ok(());
        }
        let config = self.config.get();
        let keys = document.keys(clock::now_ms()).filter(|(_, key, _)| !config.ignored_keys.contains(key));
        let keys = keys.map(|(id, key, until)| (id.to_owned(), (key, until)));
        vouched.keys.0.entry(document.server.clone()).or_default().extend(keys);
        Ok(())
    }
}
