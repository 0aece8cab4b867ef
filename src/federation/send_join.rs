//! The answer to a join, read while it comes.
//!
//! The state of a large room is tens of megabytes of JSON. It is never here as a whole: [`Splitter`] cuts the lists into
//! events as their bytes arrive, and [`read`] verifies them some hundreds at a time, so that only the events themselves
//! are kept, once.

use std::mem;

use ruma::RoomVersionId;
use serde_json::value::RawValue;

use super::{Failure, Federation};
use crate::{
    error::Result,
    http::Body,
    rooms::{
        Signed,
        receive::{MAX_EVENT, MAX_FIELD},
    },
};

/// How many events are verified at a time: enough to keep all cores busy and to fetch keys together.
const BATCH: usize = 512;

/// The longest value that is no list of events, in bytes: a list of servers in the largest rooms.
const MAX_VALUE: usize = 1024 * 1024;

/// What a server answers to a join: see [`ruma::api::federation::membership::create_join_event::v2::RoomState`].
#[derive(Default)]
pub(super) struct Answer {
    /// The event as the server sends it on.
    pub(super) event: Option<Box<RawValue>>,
    /// The state before it, as far as its signatures are right.
    pub(super) state: Vec<Signed>,
    /// The events that allow it and the state, likewise.
    pub(super) auth_chain: Vec<Signed>,
}

/// Reads the answer.
///
/// # Errors
/// 502 or 504 when it ends early, is too long or no such answer; when the database fails.
pub(super) async fn read(federation: &Federation, version: &RoomVersionId, mut body: Body) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut splitter = Splitter::default();
    let mut open: Vec<Box<RawValue>> = Vec::with_capacity(BATCH);
    let mut list = List::State;
    let malformed = |error: &dyn std::fmt::Display| Failure::Malformed(format!("its answer to a join: {error}"));
    while let Some(bytes) = body.next().await.map_err(|error| Failure::Unreachable(error.to_string()))? {
        for byte in bytes {
            let Some(part) = splitter.take(byte).map_err(|error| malformed(&error))? else { continue };
            let json = |bytes: Vec<u8>| {
                let text = String::from_utf8(bytes).map_err(|error| malformed(&error))?;
                RawValue::from_string(text).map_err(|error| malformed(&error))
            };
            match part {
                Part::Event(of, bytes) => {
                    if of != list || open.len() >= BATCH {
                        keep(federation, version, mem::take(&mut open), answer.list(list)).await?;
                        list = of;
                    }
                    open.push(json(bytes)?);
                }
                Part::Field(name, bytes) if name == b"event" => answer.event = Some(json(bytes)?),
                Part::Field(..) => {}
            }
        }
    }
    if splitter.place != Place::End {
        return Err(malformed(&"it ends too early").into());
    }
    keep(federation, version, open, answer.list(list)).await?;
    Ok(answer)
}

impl Answer {
    fn list(&mut self, list: List) -> &mut Vec<Signed> {
        match list {
            List::State => &mut self.state,
            List::AuthChain => &mut self.auth_chain,
        }
    }
}

/// Verifies events and keeps those that are right. Should the room need one of the others, that shows.
async fn keep(
    federation: &Federation,
    version: &RoomVersionId,
    events: Vec<Box<RawValue>>,
    kept: &mut Vec<Signed>,
) -> Result<()> {
    for (id, signed) in federation.verify(version, events).await? {
        match signed {
            Ok(signed) => kept.push(signed),
            Err(why) => tracing::debug!("event {id:?} of a room's state is dropped: {why}"),
        }
    }
    Ok(())
}

/// The lists of events in the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    State,
    AuthChain,
}

/// What a byte completes.
#[derive(PartialEq, Eq, Debug)]
enum Part {
    /// An event of one of the lists.
    Event(List, Vec<u8>),
    /// Any other field: its name and value.
    Field(Vec<u8>, Vec<u8>),
}

/// Where the next byte stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    /// Before the object.
    #[default]
    Start,
    /// Before a field's name, or the end of the object.
    Name,
    /// In a field's name.
    InName,
    /// Behind a field's name.
    Colon,
    /// In a field's value.
    Value,
    /// In a list of events.
    Events(List),
    /// Behind a list of events.
    BehindList,
    /// Behind the object.
    End,
}

/// Cuts an object into its fields, and its lists of events into events; whether these are JSON, it does not judge.
#[derive(Default)]
struct Splitter {
    place: Place,
    name: Vec<u8>,
    value: Vec<u8>,
    /// How many objects and lists are open within the value.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// Takes the next byte; gives what it completes.
    fn take(&mut self, byte: u8) -> Result<Option<Part>, &'static str> {
        let is_blank = byte.is_ascii_whitespace();
        match (self.place, byte) {
            (Place::Start, b'{') => self.place = Place::Name,
            (Place::Name, b'"') => self.place = Place::InName,
            (Place::Name | Place::BehindList, b'}') => self.place = Place::End,
            (Place::Name | Place::BehindList, b',') => self.place = Place::Name,
            (Place::InName, b'"') if !self.escaped => self.place = Place::Colon,
            (Place::InName, _) => {
                self.escaped = byte == b'\\' && !self.escaped;
                self.name.push(byte);
                if self.name.len() > MAX_FIELD {
                    return Err("a field's name is too long");
                }
            }
            (Place::Colon, b':') => self.place = Place::Value,
            (Place::Value, b'[') if self.value.is_empty() && self.list().is_some() => {
                self.place = self.list().map_or(Place::Value, Place::Events);
                self.name.clear();
            }
            (Place::Value, _) => return self.in_value(byte),
            (Place::Events(list), _) => return self.in_list(list, byte),
            _ if is_blank => {}
            _ => return Err("it is no object"),
        }
        Ok(None)
    }

    /// The list that a field of the present name is.
    fn list(&self) -> Option<List> {
        match &self.name[..] {
            b"state" => Some(List::State),
            b"auth_chain" => Some(List::AuthChain),
            _ => None,
        }
    }

    fn in_value(&mut self, byte: u8) -> Result<Option<Part>, &'static str> {
        let ends = self.is_outside() && matches!(byte, b',' | b'}');
        if !ends {
            return self.collect(byte, MAX_VALUE).map(|()| None);
        }
        self.place = if byte == b',' { Place::Name } else { Place::End };
        Ok(Some(Part::Field(mem::take(&mut self.name), mem::take(&mut self.value))))
    }

    fn in_list(&mut self, list: List, byte: u8) -> Result<Option<Part>, &'static str> {
        let ends = self.is_outside() && matches!(byte, b',' | b']');
        if !ends {
            return self.collect(byte, 4 * MAX_EVENT).map(|()| None);
        }
        if byte == b']' {
            self.place = Place::BehindList;
        }
        let event = mem::take(&mut self.value);
        Ok((!event.is_empty()).then_some(Part::Event(list, event)))
    }

    /// Whether no string, object or list is open within the value.
    fn is_outside(&self) -> bool {
        self.depth == 0 && !self.in_string
    }

    fn collect(&mut self, byte: u8, limit: usize) -> Result<(), &'static str> {
        if self.in_string {
            self.in_string = byte != b'"' || self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.checked_sub(1).ok_or("its brackets do not match")?,
                _ if byte.is_ascii_whitespace() => return Ok(()),
                _ => {}
            }
        }
        if self.value.len() >= limit {
            return Err("an event is too large");
        }
        self.value.push(byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn split(text: &str) -> Result<Vec<Part>, &'static str> {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        for byte in text.bytes() {
            parts.extend(splitter.take(byte)?);
        }
        assert_eq!(splitter.place, Place::End, "{text}");
        Ok(parts)
    }

    #[test]
    fn events_come_one_by_one() {
        let event = |number: usize| {
            let text = "\u{1f600} \"[{\\}]\" \\\\";
            json!({ "n": number, "content": { "body": text, "a": [[1], { "b": [] }, -1.5e3, null] }, text: "]" })
        };
        let answer = json!({
            "auth_chain": [event(1), event(2)],
            "event": event(3),
            "members_omitted": true,
            "origin": "a, \"b\" }",
            "servers_in_room": ["a", "b"],
            "state": [event(4)],
            "nothing": {},
        });
        for text in [serde_json::to_string(&answer).unwrap(), serde_json::to_string_pretty(&answer).unwrap()] {
            let (mut lists, mut fields) = (json!({ "state": [], "auth_chain": [] }), serde_json::Map::new());
            for part in split(&text).unwrap() {
                match part {
                    Part::Event(list, bytes) => {
                        let name = if list == List::State { "state" } else { "auth_chain" };
                        let event: Value = serde_json::from_slice(&bytes).unwrap();
                        lists[name].as_array_mut().unwrap().push(event);
                    }
                    Part::Field(name, bytes) => {
                        let value = serde_json::from_slice(&bytes).unwrap();
                        fields.insert(String::from_utf8(name).unwrap(), value);
                    }
                }
            }
            fields.extend(lists.as_object().unwrap().clone());
            assert_eq!(Value::Object(fields), answer);
        }
    }

    #[test]
    fn empty_lists_have_no_events() {
        assert_eq!(split(r#" { "state" : [ ] , "auth_chain":[]} "#), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in ["[", "{]", "nonsense", r#"{"a":1}}"#, r#"{"state":[1]]"#, r#"{"a":]"#] {
            let mut splitter = Splitter::default();
            let failed = text.bytes().any(|byte| splitter.take(byte).is_err());
            assert!(failed, "{text}");
        }
        let mut splitter = Splitter::default();
        let endless = b"{\"state\":[\"".iter().copied().chain(std::iter::repeat_n(b'a', 5 * MAX_EVENT));
        assert!(endless.into_iter().any(|byte| splitter.take(byte).is_err()));
    }
}
