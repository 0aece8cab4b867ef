//! Answers with lists of events, read while they come: the answer to a join, and the state of a room.
//!
//! The state of a large room is tens of megabytes of JSON. It is never here as a whole: [`Splitter`] cuts the lists into
//! events as their bytes arrive, and [`Reading`] verifies them some hundreds at a time, so that only the events themselves
//! are kept, once. How much all answers together take in memory is bounded: what is too much is read no further.

use std::mem;

use bytes::{Buf, Bytes};
use ruma::{OwnedServerName, RoomVersionId, ServerName};
use serde_json::value::RawValue;

use super::{Failure, Federation, keys::Vouched};
use crate::{
    error::Result,
    http::{Body, Share},
    rooms::{
        Signed,
        partial::Omitted,
        receive::{MAX_EVENT, MAX_FIELD},
    },
};

/// How many events are verified at a time: enough to keep all cores busy and to fetch keys together.
const BATCH: usize = 512;

/// The longest value that is no list of events, in bytes: a list of servers in the largest rooms.
const MAX_VALUE: usize = 1024 * 1024;

/// How many bytes an event takes in memory for each byte of its JSON, about.
const WEIGHT: usize = 2;

/// What a server answers to a join: see [`ruma::api::federation::membership::create_join_event::v2::RoomState`].
pub(super) struct Answer<'a> {
    /// The event as the server sends it on.
    pub(super) event: Option<Box<RawValue>>,
    /// The state before it, as far as its signatures are right.
    pub(super) state: Vec<Signed>,
    /// The events that allow it and the state, likewise.
    pub(super) auth_chain: Vec<Signed>,
    /// Whether the members are missing in the state.
    members_omitted: bool,
    /// The servers in the room.
    servers: Vec<OwnedServerName>,
    /// What all that takes in memory, as long as it is there.
    pub(super) held: Share<'a>,
}

impl<'a> Answer<'a> {
    /// Reads the answer of the server `via`. It vouches for keys that cannot be had otherwise: a room must not be closed for
    /// ever since the server of somebody in it is gone.
    ///
    /// # Errors
    /// 502 or 504 when it ends early, is too long or no such answer; when the database fails.
    pub(super) async fn read(
        federation: &'a Federation,
        version: &'a RoomVersionId,
        via: &'a ServerName,
        body: Body,
    ) -> Result<Self> {
        let mut answer = Self {
            event: None,
            state: Vec::new(),
            auth_chain: Vec::new(),
            members_omitted: false,
            servers: Vec::new(),
            held: federation.share(),
        };
        let mut reading = Reading::within(federation.share(), federation, version, body);
        reading = reading.vouched_by(Some(Vouched::new(via)));
        while let Some(piece) = reading.next().await?? {
            match piece {
                Piece::Events(List::State, events) => answer.state.extend(events),
                Piece::Events(List::AuthChain, events) => answer.auth_chain.extend(events),
                Piece::Field(name, value) => answer.take(&name, &value)?,
            }
        }
        answer.held = reading.share;
        Ok(answer)
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Failure> {
        match name {
            b"event" => self.event = Some(serde_json::from_slice(value).map_err(|error| malformed(&error))?),
            b"members_omitted" => {
                self.members_omitted = serde_json::from_slice(value).map_err(|error| malformed(&error))?;
            }
            b"servers_in_room" => {
                let names: Vec<String> = serde_json::from_slice(value).map_err(|error| malformed(&error))?;
                self.servers = names.into_iter().filter_map(|name| ServerName::parse(name).ok()).collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// What the server, `via`, says in place of the members, if it omitted them.
    pub(super) fn omitted(&mut self, federation: &Federation, via: &ServerName) -> Option<Omitted> {
        let mut servers = mem::take(&mut self.servers);
        servers.push(via.to_owned());
        servers.retain(|server| server != federation.server_name());
        servers.sort();
        servers.dedup();
        self.members_omitted.then(|| Omitted { via: via.to_owned(), servers })
    }
}

/// What comes out of an answer.
pub(super) enum Piece {
    /// Events of one of the lists, as far as their signatures are right. Should the room need one of the others, that
    /// shows.
    Events(List, Vec<Signed>),
    /// Any other field: its name and value.
    Field(Vec<u8>, Vec<u8>),
}

/// An answer that is coming.
pub(super) struct Reading<'a> {
    federation: &'a Federation,
    version: &'a RoomVersionId,
    body: Body,
    bytes: Bytes,
    splitter: Splitter,
    vouched: Option<Vouched<'a>>,
    /// Events of one list that are not verified yet.
    open: Vec<Box<RawValue>>,
    list: List,
    /// What has been read takes in memory.
    share: Share<'a>,
}

impl<'a> Reading<'a> {
    /// The events are of a room of version `version`. Other servers caused that they are read.
    pub(super) fn new(federation: &'a Federation, version: &'a RoomVersionId, body: Body) -> Self {
        let mut share = federation.share();
        share.be_modest();
        Self::within(share, federation, version, body)
    }

    /// [`new`](Self::new), where what is read counts in this share.
    pub(super) fn within(share: Share<'a>, federation: &'a Federation, version: &'a RoomVersionId, body: Body) -> Self {
        let (bytes, splitter) = (Bytes::new(), Splitter::default());
        Self { federation, version, body, bytes, splitter, vouched: None, open: Vec::new(), list: List::State, share }
    }

    /// Of what came so far, these events alone are still in memory.
    pub(super) fn keeps(&mut self, events: &[Signed]) {
        self.share.shrink_to(events.iter().map(|event| WEIGHT * event.pdu().json.len()).sum());
    }

    /// The same, with somebody's word for keys that cannot be had otherwise.
    pub(super) fn vouched_by(self, vouched: Option<Vouched<'a>>) -> Self {
        Self { vouched, ..self }
    }

    /// All events. They count as held for as long as this is there.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(super) async fn all(&mut self) -> Result<Result<Vec<Signed>, Failure>> {
        let mut all = Vec::new();
        loop {
            match self.next().await? {
                Ok(Some(Piece::Events(_, events))) => all.extend(events),
                Ok(Some(Piece::Field(..))) => {}
                Ok(None) => return Ok(Ok(all)),
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the database fails. That the answer stalls, is too long or no object is inside.
    pub(super) async fn next(&mut self) -> Result<Result<Option<Piece>, Failure>> {
        let (list, events) = match self.collect().await {
            Ok(Some(Next::Verify(list, events))) => (list, events),
            Ok(Some(Next::Field(name, value))) => return Ok(Ok(Some(Piece::Field(name, value)))),
            Ok(None) => return Ok(Ok(None)),
            Err(failure) => return Ok(Err(failure)),
        };
        let mut kept = Vec::with_capacity(events.len());
        for (id, signed) in self.federation.verify_vouched(self.version, events, self.vouched.as_mut()).await? {
            match signed {
                Ok(signed) => kept.push(signed),
                Err(why) => tracing::debug!("event {id:?} of a room's state is dropped: {why}"),
            }
        }
        Ok(Ok(Some(Piece::Events(list, kept))))
    }

    async fn collect(&mut self) -> Result<Option<Next>, Failure> {
        loop {
            while self.bytes.has_remaining() {
                match self.splitter.take(self.bytes.get_u8()).map_err(|error| malformed(&error))? {
                    None => {}
                    Some(Part::Field(name, value)) => return Ok(Some(Next::Field(name, value))),
                    Some(Part::Event(of, bytes)) => {
                        self.share.grow(WEIGHT * bytes.len()).map_err(|_| too_much(&self.share))?;
                        let text = String::from_utf8(bytes).map_err(|error| malformed(&error))?;
                        let event = RawValue::from_string(text).map_err(|error| malformed(&error))?;
                        let is_full = of != self.list || self.open.len() >= BATCH;
                        let full = if is_full { mem::take(&mut self.open) } else { Vec::new() };
                        let list = mem::replace(&mut self.list, of);
                        self.open.push(event);
                        if !full.is_empty() {
                            return Ok(Some(Next::Verify(list, full)));
                        }
                    }
                }
            }
            match self.body.next().await.map_err(|error| Failure::Unreachable(error.to_string()))? {
                Some(bytes) => self.bytes = bytes,
                None if self.splitter.place != Place::End => return Err(malformed(&"it ends too early")),
                None if self.open.is_empty() => return Ok(None),
                None => return Ok(Some(Next::Verify(self.list, mem::take(&mut self.open)))),
            }
        }
    }
}

/// What is read and not verified.
enum Next {
    Verify(List, Vec<Box<RawValue>>),
    Field(Vec<u8>, Vec<u8>),
}

/// Why what is `held` cannot grow.
fn too_much(held: &Share<'_>) -> Failure {
    if held.is_too_large() { malformed(&"there is more than this server has memory for") } else { Failure::Busy }
}

fn malformed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Malformed(format!("its lists of events: {error}"))
}

/// The lists of events in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    /// `state`, or `pdus` where the answer is about nothing else.
    State,
    /// `auth_chain`.
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
            b"state" | b"pdus" => Some(List::State),
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
    use crate::http::Held;

    #[test]
    fn what_is_too_much_by_itself_is_not_to_be_asked_for_again() {
        let held = Held::default();
        let (mut large, mut small) = (held.share(100), held.share(100));
        assert!(large.grow(90).is_ok() && small.grow(20).is_err());
        assert!(matches!(too_much(&small), Failure::Busy));
        assert!(large.grow(20).is_err());
        assert!(matches!(too_much(&large), Failure::Malformed(_)));
    }

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
