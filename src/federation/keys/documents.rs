//! The documents in which servers publish their keys
//! ([spec](https://spec.matrix.org/latest/server-server-api/#publishing-keys)), and signatures by such keys.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm, UInt,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeySet, to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde::Deserialize;

/// How far ahead a key is believed at most, in milliseconds ("the lesser of this field and 7 days into the future").
pub(super) const BELIEVED_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// A document has a few keys; more are not read.
pub(super) const MAX_KEYS: usize = 64;

/// What a document of keys says, which its server signed with one of them.
pub(super) struct Document {
    /// Whose keys they are.
    pub(super) server: OwnedServerName,
    /// Until when the document is to be used, in milliseconds since the Unix epoch.
    pub(super) valid_until_ts: u64,
    /// The document itself.
    pub(super) object: CanonicalJsonObject,
    published: Published,
}

#[derive(Deserialize)]
struct Published {
    server_name: OwnedServerName,
    verify_keys: BTreeMap<String, VerifyKey>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldVerifyKey>,
    #[serde(default)]
    valid_until_ts: UInt,
}

#[derive(Deserialize)]
struct VerifyKey {
    key: String,
}

#[derive(Deserialize)]
struct OldVerifyKey {
    key: String,
    expired_ts: UInt,
}

impl Document {
    /// Reads a document and checks that its server signed it with one of the keys in it.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let object: CanonicalJsonObject = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let published: Published = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let current = published.verify_keys.iter().take(MAX_KEYS);
        let keys: PublicKeySet =
            current.filter_map(|(id, key)| Some((id.clone(), Base64::parse(&key.key).ok()?))).collect();
        is_signed(&object, &published.server_name, &keys)?;
        let (server, valid_until_ts) = (published.server_name.clone(), published.valid_until_ts.into());
        Ok(Self { server, valid_until_ts, object, published })
    }

    /// The keys by their IDs, each with until when it is believed that the server signed with it, as seen at `now`
    /// (milliseconds since the Unix epoch).
    pub(super) fn keys(&self, now: u64) -> impl Iterator<Item = (&str, Base64, u64)> {
        let until = self.valid_until_ts.min(now + BELIEVED_MS);
        let current = self.published.verify_keys.iter().map(move |(id, key)| (id, &key.key, until));
        let old = self.published.old_verify_keys.iter();
        let old = old.map(move |(id, key)| (id, &key.key, u64::from(key.expired_ts).min(now)));
        let all = current.take(MAX_KEYS).chain(old.take(MAX_KEYS));
        all.filter_map(|(id, key, until)| Some((&**id, Base64::parse(key).ok()?, until)))
    }
}

/// The signatures of `server` under an object, with the IDs of their keys.
pub(super) fn signatures<'o>(
    object: &'o CanonicalJsonObject,
    server: &ServerName,
) -> impl Iterator<Item = (&'o str, &'o str)> {
    let of_server = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|signatures| signatures.get(server.as_str()))
        .and_then(CanonicalJsonValue::as_object);
    of_server.into_iter().flatten().filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
}

/// Whether `server` signed the object with one of `keys`; the reason if not
/// ([Checking for a signature](https://spec.matrix.org/latest/appendices/#checking-for-a-signature)).
pub fn is_signed(object: &CanonicalJsonObject, server: &ServerName, keys: &PublicKeySet) -> Result<(), String> {
    let text = to_canonical_json_string_for_signing(object).map_err(|error| error.to_string())?;
    let is_right = |(id, signature): (&str, &str)| -> Option<()> {
        let key = keys.get(id).filter(|_| id.starts_with("ed25519:"))?;
        let signature = Base64::<Standard>::parse(signature).ok()?;
        let ed25519 = SigningKeyAlgorithm::Ed25519;
        verify_canonical_json_bytes(&ed25519, key.as_bytes(), signature.as_bytes(), text.as_bytes()).ok()
    };
    let right = signatures(object, server).take(MAX_KEYS).find_map(is_right);
    right.ok_or_else(|| format!("it has no signature of {server} that can be verified"))
}
