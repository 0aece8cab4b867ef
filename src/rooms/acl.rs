//! Which servers a room lets take part
//! ([Server ACLs](https://spec.matrix.org/latest/client-server-api/#server-access-control-lists-acls-for-rooms)).
//!
//! The list is the room's current `m.room.server_acl`. It stops requests and transactions at the door and has no say in
//! the authorization rules.

use ruma::{
    ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};
use serde_json::{Map, Value};

use super::state;
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::Read,
};

/// That the room lets the server take part.
///
/// # Errors
/// 403 `M_FORBIDDEN` if it does not; else when a row is damaged or the database fails.
pub fn check(read: &dyn Read, room: RoomNo, server: &ServerName) -> Result<()> {
    match allows(read, room, server)? {
        true => Ok(()),
        false => Err(Error::forbidden(format!("The room does not let the server {server} take part."))),
    }
}

/// Whether the room lets the server take part.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn allows(read: &dyn Read, room: RoomNo, server: &ServerName) -> Result<bool> {
    let Some(event) = state::get(read, room, &StateEventType::RoomServerAcl, "")? else { return Ok(true) };
    let content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
    Ok(understood(&content).is_allowed(server))
}

/// The list that an event's content makes. What is not of its type counts as absent, entry by entry; without `allow`,
/// nobody is let in.
fn understood(content: &Map<String, Value>) -> RoomServerAclEventContent {
    let names = |field: &str| {
        let entries = content.get(field).and_then(Value::as_array).into_iter().flatten();
        entries.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let allow_ip_literals = content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true);
    RoomServerAclEventContent::new(allow_ip_literals, names("allow"), names("deny"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allowed(content: Value, server: &str) -> bool {
        understood(content.as_object().unwrap()).is_allowed(server.try_into().unwrap())
    }

    #[test]
    fn order_of_the_rules() {
        let list = json!({"allow": ["*"], "deny": ["evil.com", "*.evil.com"], "allow_ip_literals": false});
        for (server, expected) in [
            ("example.org", true),
            ("evil.com", false),
            ("EVIL.com", false),
            ("evil.com:1234", false),
            ("deeply.Evil.com:8448", false),
            ("notevil.com", true),
            ("192.0.2.1", false),
            ("[2001:db8::1]:8448", false),
        ] {
            assert_eq!(allowed(list.clone(), server), expected, "{server}");
        }
        assert!(allowed(json!({"allow": ["192.0.2.?"]}), "192.0.2.1:80"));
        assert!(!allowed(json!({"allow": ["Example.ORG"]}), "a.example.org"));
        assert!(allowed(json!({"allow": ["Example.ORG"]}), "example.org"));
    }

    #[test]
    fn what_is_not_understood_counts_as_absent() {
        assert!(!allowed(json!({}), "example.org"));
        assert!(!allowed(json!({"allow": "*"}), "example.org"));
        let list = json!({"allow": [7, "*"], "deny": {"evil.com": true}, "allow_ip_literals": "no"});
        assert!(allowed(list.clone(), "evil.com") && allowed(list, "192.0.2.1"));
    }
}
