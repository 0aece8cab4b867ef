//! The text of an event of our own, written once in canonical order for each of its three uses.
//!
//! The content hash is made over everything but `hashes` and `signatures`; the signature and the reference hash over
//! what a redaction would leave (both without `signatures`, so it is the same text); what is stored and sent has all.

use ruma::{CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{canonical, sticky::Sticky};
use crate::{error::Result, signing::SigningKeys};

/// A reference to an event; with its reference hash in room versions 1 and 2.
#[derive(Clone)]
pub(super) struct Reference {
    pub(super) id: OwnedEventId,
    pub(super) hash: Option<String>,
}

/// What an event says.
pub(super) struct Parts<'a> {
    pub(super) kind: &'a str,
    pub(super) state_key: Option<&'a str>,
    pub(super) sender: &'a str,
    pub(super) room_id: Option<&'a str>,
    /// The content, canonical.
    pub(super) content: &'a RawValue,
    /// What a redaction would leave of it.
    pub(super) redacted_content: CanonicalJsonObject,
    pub(super) depth: u64,
    pub(super) origin_server_ts: MilliSecondsSinceUnixEpoch,
    pub(super) prev_events: &'a [Reference],
    pub(super) auth_events: &'a [Reference],
    pub(super) redacts: Option<&'a str>,
    pub(super) sticky: Option<Sticky>,
}

/// Where a writer of the event stands.
#[derive(Default)]
struct Layers<'a> {
    event_id: Option<&'a str>,
    hash: Option<&'a str>,
    signature: Option<(&'a SigningKeys, &'a str)>,
    redacted: bool,
}

impl Parts<'_> {
    /// The signed event, and the text that its reference hash is made over. `event_id` is the ID that room versions 1
    /// and 2 give it.
    pub(super) fn sign(&self, keys: &SigningKeys, event_id: Option<&str>) -> Result<(String, String)> {
        let hash = canonical::hash(&self.write(&Layers { event_id, ..Layers::default() })?);
        let hash = Some(hash.as_str());
        let reference = self.write(&Layers { event_id, hash, redacted: true, signature: None })?;
        let signature = keys.sign(reference.as_bytes());
        let json = self.write(&Layers { event_id, hash, signature: Some((keys, &signature)), redacted: false })?;
        Ok((json, reference))
    }

    fn write(&self, layers: &Layers<'_>) -> Result<String> {
        let mut out = Writer { out: Vec::with_capacity(1024) };
        out.references("{\"auth_events\":", self.auth_events)?;
        match layers.redacted {
            true => out.field(",\"content\":", &self.redacted_content)?,
            false => out.field(",\"content\":", self.content)?,
        }
        out.field(",\"depth\":", &self.depth)?;
        out.optional(",\"event_id\":", layers.event_id)?;
        if let Some(hash) = layers.hash {
            out.field(",\"hashes\":{\"sha256\":", hash)?;
            out.out.push(b'}');
        }
        if let Some(sticky) = self.sticky.filter(|_| !layers.redacted) {
            out.field(",\"msc4354_sticky\":", &sticky)?;
        }
        out.field(",\"origin_server_ts\":", &self.origin_server_ts)?;
        out.references(",\"prev_events\":", self.prev_events)?;
        out.optional(",\"redacts\":", self.redacts.filter(|_| !layers.redacted))?;
        out.optional(",\"room_id\":", self.room_id)?;
        out.field(",\"sender\":", self.sender)?;
        if let Some((keys, signature)) = layers.signature {
            out.field(",\"signatures\":{", keys.server_name().as_str())?;
            out.field(":{", keys.id())?;
            out.field(":", signature)?;
            out.out.extend_from_slice(b"}}");
        }
        out.optional(",\"state_key\":", self.state_key)?;
        out.field(",\"type\":", self.kind)?;
        out.out.push(b'}');
        String::from_utf8(out.out).map_err(crate::error::Error::internal)
    }
}

struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        self.out.extend_from_slice(name.as_bytes());
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    fn optional(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        value.map_or(Ok(()), |value| self.field(name, value))
    }

    fn references(&mut self, name: &str, references: &[Reference]) -> Result<()> {
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'[');
        for (index, reference) in references.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            match &reference.hash {
                None => self.field("", reference.id.as_str())?,
                Some(hash) => {
                    self.field("[", reference.id.as_str())?;
                    self.field(",{\"sha256\":", hash)?;
                    self.out.extend_from_slice(b"}]");
                }
            }
        }
        self.out.push(b']');
        Ok(())
    }
}
