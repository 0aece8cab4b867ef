//! What a client's [filter](https://spec.matrix.org/latest/client-server-api/#filtering) lets through.
//!
//! The definitions are ruma's; here is what they mean for one event. An absent list lets everything through, an empty
//! one nothing; `not_` lists win over the others. Limits, lazy loading and counts are not about single events and stay
//! with whoever uses them.

use ruma::{
    RoomId, UserId,
    api::client::filter::{Filter, RoomEventFilter, RoomFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Whether all events of a room pass `filter`, as those of most clients do.
pub fn is_open(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
}

/// Whether a room event passes `filter`. Its lists of rooms are not looked at: see [`allows_room`].
pub fn allows_event(filter: &RoomEventFilter, kind: &str, sender: &UserId, content: &RawValue) -> bool {
    allows_type(filter.types.as_deref(), &filter.not_types, kind)
        && allows_id(filter.senders.as_deref(), &filter.not_senders, sender)
        && filter.url_filter.is_none_or(|wanted| (wanted == UrlFilter::EventsWithUrl) == has_url(content))
}

/// Whether an event of no room (account data, presence) passes `filter`.
pub fn allows_global(filter: &Filter, kind: &str, sender: &UserId) -> bool {
    allows_type(filter.types.as_deref(), &filter.not_types, kind)
        && allows_id(filter.senders.as_deref(), &filter.not_senders, sender)
}

/// Whether an event type passes a filter's `types` and `not_types`, in which `*` stands for any characters.
pub fn allows_type(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    types.is_none_or(|types| types.iter().any(|pattern| glob(pattern, kind)))
        && !not_types.iter().any(|pattern| glob(pattern, kind))
}

/// Whether a filter for the events of rooms lets events of `room` through.
pub fn allows_room(filter: &RoomEventFilter, room: &RoomId) -> bool {
    allows_id(filter.rooms.as_deref(), &filter.not_rooms, room)
}

/// Whether a filter for rooms lets `room` through.
pub fn includes_room(filter: &RoomFilter, room: &RoomId) -> bool {
    allows_id(filter.rooms.as_deref(), &filter.not_rooms, room)
}

fn allows_id<O: std::borrow::Borrow<B>, B: ?Sized + PartialEq>(only: Option<&[O]>, not: &[O], id: &B) -> bool {
    only.is_none_or(|only| only.iter().any(|listed| listed.borrow() == id))
        && !not.iter().any(|listed| listed.borrow() == id)
}

/// Whether `text` matches `pattern`, in which each `*` stands for any number of characters.
pub fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').map_or((None, rest), |(middle, last)| (Some(middle), last));
    for part in middle.into_iter().flat_map(|middle| middle.split('*')) {
        // The leftmost match of each part leaves the most text for the later ones.
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(last)
}

/// Whether the content has a `url`, as `contains_url` asks.
fn has_url(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        url: Option<&'a RawValue>,
    }
    serde_json::from_str::<Content<'_>>(content.get())
        .is_ok_and(|content| content.url.is_some_and(|url| url.get().starts_with('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, matches) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("*", "", true),
            ("m.*", "m.room", true),
            ("m.*", "im.room", false),
            ("*.room", "m.room", true),
            ("m.*.b*c", "m.a.bc", true),
            ("m.*.b*c", "m.a.b", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn urls() {
        let content = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        assert!(has_url(&content(r#"{"url": "mxc://a/b"}"#)));
        assert!(!has_url(&content(r#"{"url": 1}"#)) && !has_url(&content("{}")));
    }
}
