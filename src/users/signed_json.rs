//! Signed JSON of clients' making: device keys, cross-signing keys
//! ([spec](https://spec.matrix.org/latest/appendices/#signing-json)).
//!
//! Pure functions: they know nothing of the store. Key IDs here are whole ones, with the algorithm: `ed25519:DEVICE`.

use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, UserId,
    api::error::ErrorKind,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// What is kept of a key beside what its signatures cover.
const SIGNATURES: &str = "signatures";
const UNSIGNED: &str = "unsigned";

/// An ed25519 public key in base64 takes so many bytes.
const PUBLIC_KEY: usize = 32;

/// Reads JSON that is to be an object of the canonical kind.
///
/// # Errors
/// 400 `M_BAD_JSON` for anything else, with `what` as its subject.
pub fn parse(json: &RawValue, what: &str) -> Result<CanonicalJsonObject> {
    match serde_json::from_str(json.get()) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        _ => Err(Error::bad_json(format!("{what} must be a JSON object without floating-point numbers."))),
    }
}

/// Reads a row that holds such an object; an empty one if it does not, which no signature fits.
pub fn stored(json: &RawValue) -> CanonicalJsonObject {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// The object as a row holds it.
///
/// # Errors
/// When it cannot be serialized.
pub fn to_raw(object: &CanonicalJsonObject) -> Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(object)?)
}

/// Whether two objects are the same but for their signatures and unsigned parts.
pub fn same_content(a: &CanonicalJsonObject, b: &CanonicalJsonObject) -> bool {
    fn content(object: &CanonicalJsonObject) -> impl Iterator<Item = (&String, &CanonicalJsonValue)> {
        object.iter().filter(|(key, _)| *key != SIGNATURES && *key != UNSIGNED)
    }
    content(a).eq(content(b))
}

/// A string field of an object.
pub fn text<'a>(object: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    object.get(field).and_then(CanonicalJsonValue::as_str)
}

/// The public key with this ID in the object's `keys`.
pub fn public_key<'a>(object: &'a CanonicalJsonObject, key_id: &str) -> Option<&'a str> {
    object.get("keys").and_then(CanonicalJsonValue::as_object).and_then(|keys| text(keys, key_id))
}

/// The signatures by `user` in the object: key IDs and signatures.
pub fn signatures_by<'a>(
    object: &'a CanonicalJsonObject,
    user: &UserId,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let signatures = object.get(SIGNATURES).and_then(CanonicalJsonValue::as_object);
    let by_user = signatures.and_then(|all| all.get(user.as_str())).and_then(CanonicalJsonValue::as_object);
    by_user.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

/// Removes all signatures but those by `user`, and the unsigned part.
pub fn keep_signatures_by(object: &mut CanonicalJsonObject, user: &UserId) {
    object.remove(UNSIGNED);
    if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut(SIGNATURES) {
        signatures.retain(|signer, _| signer == user.as_str());
    }
}

/// Lays another signature onto the object.
pub fn add_signature(object: &mut CanonicalJsonObject, signer: &UserId, key_id: &str, signature: &str) {
    let all = object.entry(SIGNATURES.to_owned()).or_insert_with(|| CanonicalJsonValue::Object(Default::default()));
    let CanonicalJsonValue::Object(all) = all else { return };
    let by_signer = all.entry(signer.to_string()).or_insert_with(|| CanonicalJsonValue::Object(Default::default()));
    if let CanonicalJsonValue::Object(by_signer) = by_signer {
        by_signer.insert(key_id.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
    }
}

/// Whether `text` is an ed25519 public key in base64.
pub fn is_public_key(text: &str) -> bool {
    Base64::<Standard>::parse(text).is_ok_and(|key| key.as_bytes().len() == PUBLIC_KEY)
}

/// Whether `signature` is the ed25519 key's signature of the object.
pub fn verifies(object: &CanonicalJsonObject, public_key: &str, signature: &str) -> bool {
    let (Ok(key), Ok(signature)) = (Base64::<Standard>::parse(public_key), Base64::<Standard>::parse(signature)) else {
        return false;
    };
    let Ok(json) = to_canonical_json_string_for_signing(object) else { return false };
    verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key.as_bytes(), signature.as_bytes(), json.as_bytes())
        .is_ok()
}

/// 400 `M_INVALID_SIGNATURE`.
pub fn invalid_signature(message: impl Into<String>) -> Error {
    let kind = serde_json::from_value(serde_json::json!({ "errcode": "M_INVALID_SIGNATURE" }));
    Error::new(StatusCode::BAD_REQUEST, kind.unwrap_or(ErrorKind::InvalidParam), message)
}
