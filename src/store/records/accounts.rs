//! Accounts, devices and what logs them in, and what belongs to an account: profile, account data, pushers.

use std::{collections::BTreeMap, net::IpAddr};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, value::RawValue};

use crate::{ids::Position, record};

/// An account of this server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// The argon2id hash of the password in PHC form; none for accounts that cannot log in with one.
    pub password_hash: Option<String>,
    /// Whether the account administers the server.
    #[serde(default)]
    pub admin: bool,
    /// Whether the account is a guest.
    #[serde(default)]
    pub guest: bool,
    /// Whether the account was deactivated; its name is never given out again.
    #[serde(default)]
    pub deactivated: bool,
    /// Whether the account is locked: nothing works until an administrator unlocks it.
    #[serde(default)]
    pub locked: bool,
    /// Whether the account is suspended: until an administrator ends that, it can look, but say nothing.
    #[serde(default)]
    pub suspended: bool,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// The e-mail addresses and phone numbers that are proven to be the user's.
    #[serde(default)]
    pub threepids: Vec<ThreePid>,
    /// Who the user is at identity providers.
    #[serde(default)]
    pub identities: Vec<ProviderIdentity>,
    /// How much it may send, if that is not what all accounts may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_limit: Option<SendLimit>,
    /// Which identity servers know addresses and numbers as the user's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<Binding>,
    /// Until when it may replace its cross-signing keys without authenticating once more, if an administrator said so;
    /// in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_replaceable_until: Option<u64>,
}
record!(Account, 1);

/// How much one account may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendLimit {
    /// How many events each second; 0 is any number of requests of all kinds.
    pub per_second: u32,
    /// How many at once after a pause.
    pub burst: u32,
}

/// Somebody, as an identity provider knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderIdentity {
    /// The provider's address.
    pub issuer: String,
    /// The provider's name for them, which never changes and is nobody else's.
    pub subject: String,
}

/// A third-party identifier of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreePid {
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address, in its canonical form.
    pub address: String,
    /// When it was proven, in milliseconds since the Unix epoch.
    pub validated_at: u64,
    /// When it was added to the account, in milliseconds since the Unix epoch.
    pub added_at: u64,
}

/// A third-party identifier that an identity server knows as a user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The identity server: host, and port if it is not the usual one.
    pub id_server: String,
    /// `email` or `msisdn`.
    pub medium: String,
    /// The address, in its canonical form.
    pub address: String,
}

/// What an address is confirmed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To register an account with it.
    #[default]
    Register,
    /// To add it to an account.
    Add,
    /// To reset the password of the account that has it.
    ResetPassword,
}

/// A proof, under way or given, that somebody reads the mails to an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Validation {
    /// What it is for.
    pub purpose: Purpose,
    /// The address, in its canonical form.
    pub address: String,
    /// The hash of the client's secret.
    pub client_secret: String,
    /// The number of the client's newest request that was mailed.
    pub send_attempt: u64,
    /// The hashes of the tokens in the links of the newest mails.
    pub links: Vec<String>,
    /// How many wrong tokens were shown.
    pub failures: u32,
    /// Where the reader goes on when the address is confirmed.
    pub next_link: Option<String>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_ts: u64,
    /// When the address was confirmed, in milliseconds since the Unix epoch.
    pub validated_ts: Option<u64>,
}
record!(Validation, 1);

/// A device of an account: a login.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// The name that the user gave it.
    pub display_name: Option<String>,
    /// When it logged in first, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// When it made its last request, give or take a minute.
    #[serde(default)]
    pub last_seen_ts: Option<u64>,
    /// The address that this request came from.
    #[serde(default)]
    pub last_seen_ip: Option<String>,
    /// The tokens that it uses.
    #[serde(default)]
    pub tokens: Option<TokenPair>,
    /// The tokens of its last refresh, until it uses one of them; then they take the place of `tokens`.
    #[serde(default)]
    pub next_tokens: Option<TokenPair>,
}
record!(Device, 1);

/// The hashes of an access token and of the refresh token given out with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPair {
    /// Key in [`ACCESS_TOKENS`](crate::store::trees::ACCESS_TOKENS).
    pub access: String,
    /// Key in [`REFRESH_TOKENS`](crate::store::trees::REFRESH_TOKENS).
    pub refresh: Option<String>,
}

/// Whose an access or refresh token is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// The account.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// When it expires, in milliseconds since the Unix epoch; none for never.
    #[serde(default)]
    pub expires_ts: Option<u64>,
    /// Whether it is of the device's `next_tokens`.
    #[serde(default)]
    pub next: bool,
}
record!(Token, 1);

/// A token with which accounts can be registered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RegistrationToken {
    /// How many accounts it is good for; none for any number.
    pub uses_allowed: Option<u64>,
    /// How many accounts were registered with it.
    #[serde(default)]
    pub completed: u64,
    /// When it expires, in milliseconds since the Unix epoch; none for never.
    #[serde(default)]
    pub expires_ts: Option<u64>,
    /// Whether the account registered with it becomes an administrator: the token of the first start.
    #[serde(default)]
    pub admin: bool,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// The rooms that accounts registered with it are brought into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<OwnedRoomOrAliasId>,
}
record!(RegistrationToken, 1);

/// A registration by somebody who was not asked to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignUp {
    /// The address that it came from, or of an IPv6 address its network.
    pub network: IpAddr,
    /// Whether the account is a guest's.
    #[serde(default)]
    pub guest: bool,
    /// Whether it took neither a token nor being a guest.
    #[serde(default)]
    pub open: bool,
}
record!(SignUp, 1);

/// A user's profile: display name, avatar, and whatever fields clients put there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The fields by name, as the specification names them.
    pub fields: BTreeMap<String, JsonValue>,
}
record!(Profile, 1);

/// One entry of account data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountData {
    /// Where in the stream it was last changed.
    pub position: Position,
    /// The content to the letter; `{}` for one that was deleted.
    pub content: Box<RawValue>,
}
record!(AccountData, 1);

/// Where a device wants to be told of notifications.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pusher {
    /// The device that set it; it goes when the device goes.
    pub device: OwnedDeviceId,
    /// The pusher as the client sent it.
    pub pusher: JsonValue,
    /// When it was set, in milliseconds since the Unix epoch.
    pub created_ts: u64,
    /// Whether it was switched off, so that nothing is pushed to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}
record!(Pusher, 1);

/// Something that a user told the administrators of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub reporter: OwnedUserId,
    /// The room, unless it is about a user.
    pub room: Option<OwnedRoomId>,
    /// The event, if it is about one.
    pub event: Option<OwnedEventId>,
    /// The user, if it is about one.
    pub user: Option<OwnedUserId>,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since the Unix epoch.
    pub received_ts: u64,
}
record!(Report, 1);

/// A device that takes messages for a user who is logged in nowhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DehydratedDevice {
    /// Its ID.
    pub device: OwnedDeviceId,
    /// What a client makes a real device of, as it came.
    pub data: Box<RawValue>,
}
record!(DehydratedDevice, 1);
