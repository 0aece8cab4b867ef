//! Events as clients see them.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::event::Event;
use crate::error::Result;

#[derive(Serialize)]
struct Stripped<'a> {
    content: &'a RawValue,
    sender: &'a str,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: String,
}

/// A state event as [stripped state](https://spec.matrix.org/latest/client-server-api/#stripped-state).
///
/// # Errors
/// When it cannot be written as JSON, which does not happen.
pub fn stripped(event: &Event) -> Result<Box<RawValue>> {
    let pdu = &event.pdu;
    Ok(to_raw_value(&Stripped {
        content: &pdu.content,
        sender: pdu.sender.as_str(),
        state_key: pdu.state_key.as_deref().unwrap_or_default(),
        kind: pdu.kind.to_string(),
    })?)
}
