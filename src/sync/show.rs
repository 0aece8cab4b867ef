//! How events look that a client is shown: the format and the fields that its filter asks for.

use std::sync::Arc;

use ruma::api::client::filter::{EventFormat, FilterDefinition};
use serde_json::value::RawValue;

use super::{View, response::Json};
use crate::{error::Result, rooms::Event};

/// Events of a timeline, in the format and with the fields that the client wants.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn timeline(view: &View<'_>, filter: &FilterDefinition, events: &[Arc<Event>]) -> Result<Vec<Json>> {
    events.iter().map(|event| formatted(filter, event, || timeline_event(view, event))).collect()
}

/// Events that are told for what they set, in the same way.
///
/// # Errors
/// As [`timeline`].
pub fn state(view: &View<'_>, filter: &FilterDefinition, events: &[Arc<Event>]) -> Result<Vec<Json>> {
    events.iter().map(|event| formatted(filter, event, || state_event(view, event))).collect()
}

fn formatted(filter: &FilterDefinition, event: &Event, shown: impl FnOnce() -> Result<Json>) -> Result<Json> {
    let shown = match filter.event_format {
        EventFormat::Federation => RawValue::from_string(event.pdu.json.clone())?,
        _ => shown()?,
    };
    Ok(match &filter.event_fields {
        Some(fields) => pick_fields(shown, fields),
        None => shown,
    })
}

/// An event of a timeline.
///
/// # Errors
/// As [`timeline`].
pub fn timeline_event(view: &View<'_>, event: &Event) -> Result<Json> {
    Ok(view.events.timeline(event)?.into_json())
}

/// An event that is told for what it sets.
///
/// # Errors
/// As [`timeline`].
pub fn state_event(view: &View<'_>, event: &Event) -> Result<Json> {
    Ok(view.events.setting(event)?.into_json())
}

/// The event with only those of its fields that `event_fields` names, as dotted paths in which `\.` is a dot of a
/// name. What is no JSON object stays as it is.
fn pick_fields(event: Json, fields: &[String]) -> Json {
    let Ok(serde_json::Value::Object(whole)) = serde_json::from_str(event.get()) else { return event };
    let mut picked = Object::new();
    for field in fields {
        copy_path(&whole, &mut picked, &field_path(field));
    }
    serde_json::value::to_raw_value(&picked).unwrap_or(event)
}

type Object = serde_json::Map<String, serde_json::Value>;

fn field_path(field: &str) -> Vec<String> {
    let mut path = Vec::new();
    let mut part = String::new();
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => path.push(std::mem::take(&mut part)),
            '\\' => part.push(characters.next().unwrap_or('\\')),
            character => part.push(character),
        }
    }
    path.push(part);
    path
}

fn copy_path(from: &Object, to: &mut Object, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match from.get(first) {
        Some(value) if rest.is_empty() => {
            to.insert(first.clone(), value.clone());
        }
        Some(serde_json::Value::Object(inner)) => {
            let target = to.entry(first.clone()).or_insert_with(|| serde_json::Value::Object(Object::new()));
            if let serde_json::Value::Object(target) = target {
                copy_path(inner, target, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_fields() {
        let event = serde_json::json!({"type": "a", "sender": "b", "content": {"body": "c", "x.y": 1, "z": {"w": 2}}});
        let event = serde_json::value::to_raw_value(&event).unwrap();
        let fields = ["type", "content.body", "content.x\\.y", "content.z.w", "gone.too"].map(str::to_owned);
        let picked: serde_json::Value = serde_json::from_str(pick_fields(event, &fields).get()).unwrap();
        assert_eq!(picked, serde_json::json!({"type": "a", "content": {"body": "c", "x.y": 1, "z": {"w": 2}}}));
    }
}
