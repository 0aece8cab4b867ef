//! Canonical JSON, redaction and hashes of events.
//!
//! Works on `serde_json`'s maps, which are sorted as [canonical JSON](https://spec.matrix.org/latest/appendices/#canonical-json)
//! wants and, unlike ruma's canonical type, can hold the fractions and large numbers that room versions 1 to 5 let in.

use ring::digest::{SHA256, digest};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::redact_content_in_place,
    room_version_rules::{EventIdFormatVersion, RedactionRules},
    serde::{
        Base64,
        base64::{Standard, UrlSafe},
    },
};
use serde_json::{Map, Value, value::RawValue};

use crate::error::{Error, Result};

/// The largest number that canonical JSON can hold.
const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Reads an event's content as a client or server gave it; `strict` refuses numbers that are not canonical, as room
/// version 6 and later do.
///
/// # Errors
/// 400 `M_BAD_JSON` when it is no object or not canonical.
pub fn content(raw: &RawValue, strict: bool) -> Result<Map<String, Value>> {
    let map: Map<String, Value> = serde_json::from_str(raw.get())
        .map_err(|error| Error::bad_json(format!("The content of an event must be a JSON object: {error}.")))?;
    if strict && !map.values().all(is_canonical) {
        return Err(Error::bad_json(
            "Numbers in events must be whole and between -2^53 + 1 and 2^53 - 1 in this room's version.",
        ));
    }
    Ok(map)
}

/// Whether every number in the value is one that canonical JSON can hold.
pub fn is_canonical(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|number| (-MAX_INTEGER..=MAX_INTEGER).contains(&number)),
        Value::Array(values) => values.iter().all(is_canonical),
        Value::Object(map) => map.values().all(is_canonical),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// What a redaction leaves of the content of an event of type `kind`. Of the fields that stay, numbers that are not
/// canonical are dropped as well: none of them has a meaning there.
pub fn redacted_content(map: &Map<String, Value>, kind: &str, rules: &RedactionRules) -> CanonicalJsonObject {
    // These are the only types that keep anything (https://spec.matrix.org/latest/rooms/v12/#redactions and earlier).
    let keeps = matches!(
        kind,
        "m.room.member"
            | "m.room.create"
            | "m.room.join_rules"
            | "m.room.power_levels"
            | "m.room.history_visibility"
            | "m.room.redaction"
            | "m.room.aliases"
    );
    if !keeps {
        return CanonicalJsonObject::new();
    }
    let canonical =
        |(key, value): (&String, &Value)| Some((key.clone(), CanonicalJsonValue::try_from(value.clone()).ok()?));
    let mut content: CanonicalJsonObject = map.iter().filter_map(canonical).collect();
    redact_content_in_place(&mut content, rules, kind);
    content
}

/// What a redaction leaves of a whole event
/// ([Redactions](https://spec.matrix.org/latest/rooms/v12/#redactions)).
///
/// # Errors
/// When our own JSON cannot be written, which does not happen.
pub fn redacted(mut event: Map<String, Value>, rules: &RedactionRules) -> Result<Map<String, Value>> {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let content = match event.get("content") {
        Some(Value::Object(content)) => redacted_content(content, kind, rules),
        _ => CanonicalJsonObject::new(),
    };
    event.insert("content".to_owned(), serde_json::to_value(content)?);
    event.retain(|key, _| match key.as_str() {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    });
    Ok(event)
}

/// The text that an event's reference hash and signatures are made over: redacted, without `signatures` and `unsigned`
/// ([Reference hash](https://spec.matrix.org/latest/server-server-api/#calculating-the-reference-hash-for-an-event)).
///
/// # Errors
/// 400 `M_BAD_JSON` when `json` is no object.
pub fn reference_text(json: &str, rules: &RedactionRules) -> Result<String> {
    let event =
        serde_json::from_str(json).map_err(|error| Error::bad_json(format!("An event is no object: {error}.")))?;
    let mut event = redacted(event, rules)?;
    event.remove("signatures");
    Ok(serde_json::to_string(&event)?)
}

/// The SHA-256 hash of `text` in unpadded standard base64, as `hashes` have it.
pub fn hash(text: &str) -> String {
    Base64::<Standard, _>::new(digest(&SHA256, text.as_bytes()).as_ref()).encode()
}

/// The event ID made of a reference text; room versions 1 and 2 give their events IDs instead.
pub fn event_id(reference_text: &str, format: EventIdFormatVersion) -> String {
    let hash = digest(&SHA256, reference_text.as_bytes());
    match format {
        EventIdFormatVersion::V1 | EventIdFormatVersion::V2 => {
            format!("${}", Base64::<Standard, _>::new(hash.as_ref()).encode())
        }
        _ => format!("${}", Base64::<UrlSafe, _>::new(hash.as_ref()).encode()),
    }
}
