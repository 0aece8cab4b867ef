//! A registration: what an administrator grants to an application service
//! ([spec](https://spec.matrix.org/latest/application-service-api/#registration)).

use http::Uri;
use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use serde::Deserialize;

use super::namespaces::{Namespace, Written};
use crate::config::Secret;

/// The longest `id` that is taken, in bytes.
const MAX_ID: usize = 255;

/// An application service, as it is registered.
#[derive(Debug)]
pub struct Registration {
    /// Its own name, which never changes.
    pub id: String,
    /// Where it listens, without a slash at the end; none if it wants to hear nothing.
    pub url: Option<String>,
    /// What it proves itself with.
    pub as_token: Secret,
    /// What this server proves itself with to it.
    pub hs_token: Secret,
    /// The user that it is when it does not say otherwise.
    pub sender: OwnedUserId,
    /// Whether requests of its users, but for the sender, are limited like those of others.
    pub rate_limited: bool,
    /// Whether it wants typing, receipts and presence, and messages to its users' devices.
    pub ephemeral: Option<EphemeralName>,
    /// Whether it wants to hear of device lists and of one-time keys
    /// ([MSC3202](https://github.com/matrix-org/matrix-spec-proposals/pull/3202)).
    pub device_changes: bool,
    /// The networks that it knows, such as `irc`.
    pub protocols: Vec<String>,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
}

/// The name under which an application service looks for ephemeral events in a transaction: the one that it asks for
/// them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EphemeralName {
    /// `ephemeral`.
    Stable,
    /// `de.sorunome.msc2409.ephemeral`.
    Unstable,
}

/// A registration as its file has it.
#[derive(Deserialize)]
struct File {
    id: String,
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    #[serde(default)]
    namespaces: Namespaces,
    rate_limited: Option<bool>,
    protocols: Option<Vec<String>>,
    receive_ephemeral: Option<bool>,
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    push_ephemeral: Option<bool>,
    #[serde(rename = "org.matrix.msc3202")]
    device_changes: Option<bool>,
}

#[derive(Deserialize, Default)]
struct Namespaces {
    users: Option<Vec<Written>>,
    aliases: Option<Vec<Written>>,
    rooms: Option<Vec<Written>>,
}

impl Registration {
    /// Reads the registration that `yaml` holds, for the server called `server_name`.
    ///
    /// # Errors
    /// A sentence for the administrator.
    pub fn parse(yaml: &str, server_name: &ServerName) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(yaml).map_err(|error| first_line(&error))?;
        if file.id.is_empty() || file.id.len() > MAX_ID {
            return Err(format!("id must have between 1 and {MAX_ID} bytes"));
        }
        for (name, token) in [("as_token", &file.as_token), ("hs_token", &file.hs_token)] {
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("{name} must be a text of letters, digits and signs"));
            }
        }
        let sender = UserId::parse_with_server_name(file.sender_localpart.as_str(), server_name);
        let sender = sender.ok().filter(|sender| sender.validate_historical().is_ok());
        let compiled = |list: Option<Vec<Written>>| -> Result<Vec<_>, String> {
            list.unwrap_or_default().iter().map(Namespace::new).collect()
        };
        Ok(Self {
            url: file.url.filter(|url| !url.is_empty()).map(|url| check_url(&url)).transpose()?,
            as_token: Secret::new(file.as_token),
            hs_token: Secret::new(file.hs_token),
            sender: sender.ok_or("sender_localpart cannot be the first part of a user ID")?,
            // Without a word on it, limits are for everybody.
            rate_limited: file.rate_limited.unwrap_or(true),
            ephemeral: match (file.receive_ephemeral, file.push_ephemeral) {
                (Some(true), _) => Some(EphemeralName::Stable),
                (_, Some(true)) => Some(EphemeralName::Unstable),
                _ => None,
            },
            device_changes: file.device_changes == Some(true),
            protocols: file.protocols.unwrap_or_default(),
            users: compiled(file.namespaces.users)?,
            aliases: compiled(file.namespaces.aliases)?,
            rooms: compiled(file.namespaces.rooms)?,
            id: file.id,
        })
    }

    /// Whether it may act as `user`, and hears of them: its sender, or a user of this server in one of its namespaces.
    pub fn has_user(&self, user: &UserId) -> bool {
        self.is_local(user) && (*user == self.sender || self.users.iter().any(|names| names.has(user.as_str())))
    }

    /// Whether `user` is nobody else's: its sender, or a user of this server in one of its exclusive namespaces.
    pub fn owns_user(&self, user: &UserId) -> bool {
        let exclusive = |names: &Namespace| names.exclusive && names.has(user.as_str());
        self.is_local(user) && (*user == self.sender || self.users.iter().any(exclusive))
    }

    /// Whether the alias is in one of its namespaces.
    pub fn has_alias(&self, alias: &RoomAliasId) -> bool {
        self.aliases.iter().any(|names| names.has(alias.as_str()))
    }

    /// Whether the alias is in one of its exclusive namespaces.
    pub fn owns_alias(&self, alias: &RoomAliasId) -> bool {
        self.aliases.iter().any(|names| names.exclusive && names.has(alias.as_str()))
    }

    /// Whether it asks for all events of the room by the room's ID.
    pub fn has_room(&self, room: &RoomId) -> bool {
        self.rooms.iter().any(|names| names.has(room.as_str()))
    }

    /// Whether rooms are of interest to it for their IDs.
    pub fn wants_rooms(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// Whether rooms are of interest to it for their aliases.
    pub fn wants_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// What the IDs of its users begin with, each as narrow as it is obvious.
    pub fn user_prefixes(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|names| names.prefix.as_str()).chain([self.sender.as_str()])
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.sender.server_name()
    }
}

fn check_url(url: &str) -> Result<String, String> {
    let trimmed = url.trim_end_matches('/');
    let uri: Uri = trimmed.parse().map_err(|_| format!("url {url:?} is no address"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.query().is_none() => Ok(trimmed.to_owned()),
        _ => Err(format!("url {url:?} must begin with http:// or https://")),
    }
}

/// The parser explains itself with a picture of the file, which holds the tokens: only its first line is kept.
fn first_line(error: &serde_saphyr::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use ruma::{room_alias_id, room_id, server_name, user_id};

    use super::*;

    const IRC: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234/"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: 312
sender_localpart: "_irc_bot" # Will result in @_irc_bot:example.org
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
    - exclusive: false
      regex: "@alice.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
receive_ephemeral: true
de.sorunome.msc2409.push_ephemeral: true
"##;

    fn parse(yaml: &str) -> Result<Registration, String> {
        Registration::parse(yaml, server_name!("example.org"))
    }

    #[test]
    fn the_example_of_the_specification() {
        let irc = parse(IRC).unwrap();
        assert_eq!((irc.id.as_str(), irc.url.as_deref()), ("IRC Bridge", Some("http://127.0.0.1:1234")));
        assert_eq!(irc.sender, user_id!("@_irc_bot:example.org"));
        assert_eq!(irc.ephemeral, Some(EphemeralName::Stable));
        assert!(irc.hs_token.matches("312") && irc.rate_limited && !irc.device_changes);
        let ghost = user_id!("@_irc_bridge_bob:example.org");
        assert!(irc.has_user(ghost) && irc.owns_user(ghost));
        assert!(irc.has_user(&irc.sender) && irc.owns_user(&irc.sender));
        let alice = user_id!("@alice:example.org");
        assert!(irc.has_user(alice) && !irc.owns_user(alice));
        assert!(!irc.has_user(user_id!("@_irc_bridge_bob:elsewhere.org")), "users of other servers are nobody's");
        let alias = room_alias_id!("#_irc_bridge_x:example.org");
        assert!(irc.has_alias(alias) && !irc.owns_alias(alias));
        assert!(!irc.has_room(room_id!("!a:example.org")));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_tokens() {
        for (from, to, message) in [
            ("id: \"IRC Bridge\"", "id: \"\"", "id must"),
            ("hs_token: 312", "hs_token: \"\"", "hs_token must"),
            ("sender_localpart: \"_irc_bot\"", "sender_localpart: \"a b:c\"", "sender_localpart"),
            ("http://127.0.0.1:1234/", "ftp://127.0.0.1", "must begin with http"),
            ("\"@alice.*\"", "\"@alice(\"", "not understood"),
            ("sender_localpart", "sender", "sender_localpart"),
            ("id:", "\tid:", ""),
        ] {
            let error = parse(&IRC.replace(from, to)).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert!(!error.contains("30c05ae90a248") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn no_url_is_no_traffic() {
        let url = "url: \"http://127.0.0.1:1234/\"";
        for without in ["url: null", "url: ''", "url:", ""] {
            assert_eq!(parse(&IRC.replace(url, without)).unwrap().url, None);
        }
    }
}
