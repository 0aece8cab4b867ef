//! THE table: every tree of the database with its key, value and meaning.
//!
//! To add a tree, add a row with the next free number of its family; numbers are never reused. A row gives the typed
//! handle (`ACCOUNTS`), and its entry in [`ALL`], from which come `docs/schema.md`, the golden-bytes test and the check
//! that every row decodes.

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::value::RawValue;

use super::{
    records::*,
    tree::{Family, Read, Tree},
};
use crate::{error::Result, ids::*};

/// One row of the table, without its types.
pub struct TreeInfo {
    /// The tree's name, a plural noun.
    pub name: &'static str,
    /// Its column family.
    pub family: Family,
    /// The byte that its keys start with.
    pub prefix: u8,
    /// The type of its keys, as written here.
    pub key: &'static str,
    /// The type of its values, as written here.
    pub value: &'static str,
    /// What a row means.
    pub doc: &'static str,
    /// Decodes every row; gives their number and size in bytes.
    pub verify: fn(&dyn Read) -> Result<(u64, u64)>,
}

macro_rules! trees {
    ($($(#[doc = $doc:literal])+ $handle:ident = $family:ident $prefix:literal: $key:ty => $value:ty;)*) => {
        $(
            $(#[doc = $doc])+
            pub const $handle: Tree<$key, $value> =
                Tree::new(stringify!($handle), Family::$family, $prefix);
        )*

        /// Every tree.
        pub const ALL: &[TreeInfo] = &[$(
            TreeInfo {
                name: stringify!($handle),
                family: Family::$family,
                prefix: $prefix,
                key: stringify!($key),
                value: stringify!($value),
                doc: concat!($($doc),+),
                verify: |read| $handle.verify(read),
            },
        )*];
    };
}

trees! {
    /// Named counters: the stream's position, the schema version, the last number of each kind given out.
    COUNTERS = Lookup 1: String => u64;
    /// What the server is: its name, the administration room.
    IDENTITY = Lookup 2: String => String;
    /// The accounts of this server.
    ACCOUNTS = Lookup 3: OwnedUserId => Account;
    /// The server's signing keys by version; one signs, the others did.
    SIGNING_KEYS = Lookup 4: String => SigningKey;

    /// The number of each room that the server knows.
    ROOM_NOS = Lookup 10: OwnedRoomId => RoomNo;
    /// The rooms.
    ROOMS = Lookup 11: RoomNo => Room;
    /// The number of each event that the server has or that one refers to; it may come before the event does.
    EVENT_NOS = Lookup 12: OwnedEventId => EventNo;
    /// The number of each pair of event type and state key.
    STATE_KEY_NOS = Lookup 13: (String, String) => StateKeyNo;
    /// The event type and state key of each such number.
    STATE_KEYS = Lookup 14: StateKeyNo => (String, String);
    /// Complete room states, each as what differs from an earlier one.
    STATES = Lookup 15: StateNo => StateLayer;
    /// The events of each room that none refers to as previous yet: what the next event follows.
    EXTREMITIES = Lookup 16: RoomNo => EventList;
    /// When each room last changed in a way that a client may see: its row in ROOM_CHANGES.
    ROOM_CHANGED = Lookup 17: RoomNo => Position;
    /// What other events make of an event: its latest edit, its thread; only events that others relate to have a row.
    AGGREGATES = Lookup 18: EventNo => Aggregates;
    /// Who wrote in a thread, by its root event.
    THREAD_MEMBERS = Lookup 19: (EventNo, OwnedUserId) => ();
    /// Redactions that came before the event that they redact, by that event.
    WAITING_REDACTIONS = Lookup 20: EventNo => EventList;
    /// What allows each state event, as numbers, and its rank: one more than the highest of theirs.
    AUTH_EVENTS = Lookup 160: EventNo => AuthEvents;
    /// Where history is not whole: events that are not here, with each event that follows them, and the place in the
    /// timeline before which they belong.
    GAPS = Scan 160: (RoomNo, EventNo, EventNo) => i64;
    /// The events, whole.
    EVENTS = Blobs 10: EventNo => EventRow;
    /// The current state of each room: the event of each state key that is set.
    CURRENT_STATE = Scan 10: (RoomNo, StateKeyNo) => EventNo;
    /// Each room's timeline: live events at their positions, earlier history before them at negative places.
    TIMELINE = Scan 11: (RoomNo, i64) => EventNo;
    /// The rooms in the order of their latest change (event, receipt, typing); each room once.
    ROOM_CHANGES = Scan 12: Position => RoomNo;
    /// Everyone with a membership in a room, as its current state has it.
    MEMBERS = Scan 13: (RoomNo, OwnedUserId) => Member;
    /// The invitations that users of this server sent, by when the server made them, in milliseconds since the Unix epoch.
    SENT_INVITATIONS = Scan 253: (OwnedUserId, u64, EventNo) => ();
    /// The users of this server who are joined to a room.
    LOCAL_MEMBERS = Scan 14: (RoomNo, OwnedUserId) => ();
    /// The rooms that a user of this server is or was a member of, or is invited to.
    USER_ROOMS = Scan 15: (OwnedUserId, RoomNo) => UserRoom;
    /// The events that relate to an event, in the order of the timeline, with their relation type.
    RELATIONS = Scan 16: (EventNo, i64, EventNo) => String;
    /// The threads of a room (their root events) by the place of their newest event.
    THREAD_ORDER = Scan 17: (RoomNo, i64, EventNo) => ();

    /// Whose an access token is, by the token's hash.
    ACCESS_TOKENS = Lookup 50: String => Token;
    /// Whose a refresh token is, by the token's hash.
    REFRESH_TOKENS = Lookup 51: String => Token;
    /// The tokens that accounts can be registered with.
    REGISTRATION_TOKENS = Lookup 52: String => RegistrationToken;
    /// The registrations of the last day, by the time in milliseconds since the Unix epoch (`users/sign_ups.rs`).
    SIGN_UPS = Queue 234: (u64, OwnedUserId) => SignUp;
    /// Whose a third-party identifier is, by medium and canonical address.
    THREEPIDS = Lookup 53: (String, String) => OwnedUserId;
    /// Whose account an identity at an identity provider opens, by the provider's address and its name for the person.
    PROVIDER_IDENTITIES = Lookup 251: (String, String) => OwnedUserId;
    /// Users who asked to be forgotten when their account was deactivated.
    ERASED_USERS = Lookup 54: OwnedUserId => ();
    /// Filters for `/sync` as the client sent them, by user and the filter's ID.
    FILTERS = Scan 50: (OwnedUserId, String) => Box<RawValue>;
    /// The devices of each account.
    DEVICES = Scan 51: (OwnedUserId, OwnedDeviceId) => Device;
    /// The profiles of this server's users.
    PROFILES = Scan 52: OwnedUserId => Profile;
    /// Users whose membership events do not yet show their new profile.
    PROFILE_UPDATES = Queue 52: OwnedUserId => Position;
    /// Users whose account was deactivated and who are still to leave their rooms.
    DEACTIVATED_USERS = Queue 53: OwnedUserId => ();
    /// Account data by user, room (or none) and type.
    ACCOUNT_DATA = Scan 54: (OwnedUserId, Option<RoomNo>, String) => AccountData;
    /// Which entry of a user's account data was last changed at which position.
    ACCOUNT_DATA_CHANGES = Scan 55: (OwnedUserId, Position) => (Option<RoomNo>, String);
    /// Pushers by user, `app_id` and `pushkey`.
    PUSHERS = Scan 56: (OwnedUserId, String, String) => Pusher;
    /// Who has a pusher with an `app_id` and `pushkey`.
    PUSHKEYS = Scan 57: (String, String, OwnedUserId) => ();
    /// What users reported, by its number.
    REPORTS = Scan 58: u64 => Report;
    /// Tokens that log in once, by expiry in milliseconds since the Unix epoch and hash.
    LOGIN_TOKENS = Queue 50: (u64, String) => OwnedUserId;
    /// OpenID tokens, by expiry in milliseconds since the Unix epoch and hash.
    OPENID_TOKENS = Queue 51: (u64, String) => OwnedUserId;
    /// Tokens that set a new password once, by expiry in milliseconds since the Unix epoch and hash.
    PASSWORD_RESETS = Queue 236: (u64, String) => OwnedUserId;
    /// Proofs that somebody reads the mails to an address, by their ID.
    VALIDATIONS = Queue 237: String => Validation;
    /// The same in the order of their expiry, in milliseconds since the Unix epoch.
    VALIDATION_TIMES = Queue 238: (u64, String) => ();

    /// The room aliases of this server.
    ALIASES = Lookup 140: OwnedRoomAliasId => Alias;
    /// The rooms in the published room directory.
    PUBLISHED_ROOMS = Scan 140: RoomNo => ();
    /// The aliases of each room.
    ROOM_ALIASES = Scan 141: (RoomNo, OwnedRoomAliasId) => ();
    /// Rooms that are being replaced by one of another version, by that one.
    ROOM_UPGRADES = Queue 246: RoomNo => RoomUpgrade;
    /// Rooms that do not admit guests and that guests of this server are still to leave.
    ROOMS_WITHOUT_GUESTS = Queue 233: RoomNo => ();
    /// What requests with transaction IDs were answered with: by user, device, operation with its path, and ID.
    TRANSACTIONS = Queue 140: (OwnedUserId, OwnedDeviceId, String, String) => Transaction;
    /// The same in the order of time, to forget the oldest.
    TRANSACTION_TIMES = Queue 141: (u64, (OwnedUserId, OwnedDeviceId, String, String)) => ();
    /// Rejected invitations and knocks taken back of which other servers are still to be told.
    DEPARTURES = Queue 180: (OwnedRoomId, OwnedUserId) => Departure;
    /// What each room's current state was, from each position on at which it changed.
    ROOM_STATES = Scan 120: (RoomNo, Position) => StateNo;
    /// The identity keys of devices as they sent them; those of other servers' users as far as DEVICE_LISTS has them.
    DEVICE_KEYS = Scan 80: (OwnedUserId, OwnedDeviceId) => Box<RawValue>;
    /// Signatures that were uploaded later than the key they sign: by the key's owner, the device ID or public key,
    /// who signed, and the ID of the key that signed.
    KEY_SIGNATURES = Scan 81: (OwnedUserId, String, OwnedUserId, String) => String;
    /// Cross-signing keys as they were uploaded, by usage; those of other servers' users as far as DEVICE_LISTS has them.
    CROSS_SIGNING_KEYS = Lookup 80: (OwnedUserId, String) => Box<RawValue>;
    /// Whose device or cross-signing keys changed when; each user once, at the latest change.
    KEY_CHANGES = Scan 82: Position => OwnedUserId;
    /// When a user's device or cross-signing keys changed last: the user's row in KEY_CHANGES.
    KEYS_CHANGED = Lookup 81: OwnedUserId => Position;
    /// Changes of others' keys that one user alone sees: who signed, when, whose key.
    OWN_KEY_CHANGES = Scan 83: (OwnedUserId, Position) => OwnedUserId;
    /// One-time keys by user, device, algorithm, order of upload and the key's ID.
    ONE_TIME_KEYS = Scan 84: (OwnedUserId, OwnedDeviceId, String, u64, String) => Box<RawValue>;
    /// One-time keys that were handed out lately, by their IDs, in the order of handing out.
    CLAIMED_KEYS = Queue 80: (OwnedUserId, OwnedDeviceId, String) => u64;
    /// Fallback keys by user, device and algorithm.
    FALLBACK_KEYS = Lookup 82: (OwnedUserId, OwnedDeviceId, String) => FallbackKey;
    /// How many one-time keys a device has left, and which fallback keys.
    KEY_SUPPLIES = Lookup 83: (OwnedUserId, OwnedDeviceId) => KeySupply;
    /// Messages that wait for a device.
    TO_DEVICE = Queue 81: (OwnedUserId, OwnedDeviceId, Position) => Box<RawValue>;
    /// How many messages wait for a device; no row for none.
    TO_DEVICE_WAITING = Lookup 84: (OwnedUserId, OwnedDeviceId) => u64;
    /// How many bytes they have; no row for none, and none yet for a queue that nothing came into since these are counted.
    TO_DEVICE_BYTES = Lookup 89: (OwnedUserId, OwnedDeviceId) => u64;
    /// Versions of users' backups of room keys.
    KEY_BACKUPS = Scan 85: (OwnedUserId, u64) => KeyBackup;
    /// The keys in backups by user, version, room and session.
    BACKED_UP_KEYS = Scan 86: (OwnedUserId, u64, OwnedRoomId, String) => Box<RawValue>;
    /// Read receipts by room, user, thread (empty for unthreaded ones, `main`, or the thread root's ID) and type.
    RECEIPTS = Scan 87: (RoomNo, OwnedUserId, String, String) => Receipt;
    /// Which receipt of a room came at which position; each receipt once.
    RECEIPT_CHANGES = Scan 88: (RoomNo, Position) => (OwnedUserId, (String, String));
    /// How far users of this server have read in a room, apart from threads.
    READ_MARKS = Lookup 85: (RoomNo, OwnedUserId) => ReadMarks;
    /// How far they have read in a thread, by its root.
    THREAD_READ_MARKS = Scan 89: (RoomNo, OwnedUserId, EventNo) => i64;
    /// How many events of a thread (0: of the main timeline) notified and highlighted so far, and the place of the last
    /// that did; see `rooms/notifications`.
    TALLIES = Lookup 86: (RoomNo, EventNo, String) => (i64, (i64, i64));
    /// The same after each event that changed it, by the event's place.
    TALLY_LOG = Scan 90: (RoomNo, EventNo, String, i64) => (i64, i64);
    /// The threads of a room by the place of the latest event in them that notified somebody.
    NOTIFYING_THREADS = Scan 91: (RoomNo, i64) => EventNo;
    /// That place by thread.
    THREAD_NOTIFIED = Lookup 87: (RoomNo, EventNo) => i64;
    /// Changes with every change of the users of this server in a room; see `rooms/notifications/roster.rs`.
    ROSTER_STAMPS = Lookup 88: RoomNo => u64;
    /// Who joined and left which room when.
    MEMBERSHIP_CHANGES = Scan 92: Position => MembershipChange;
    /// The servers that are in each room, with how many of their users are joined, and since
    /// when one has been without a break.
    ROOM_SERVERS = Scan 170: (RoomNo, OwnedServerName) => (u64, Position);
    /// The rooms that each server is in: ROOM_SERVERS the other way round.
    SERVER_ROOMS = Scan 200: (OwnedServerName, RoomNo) => ();

    /// Users of other servers whose device lists and cross-signing keys are kept here, in DEVICE_KEYS and
    /// CROSS_SIGNING_KEYS.
    DEVICE_LISTS = Lookup 200: OwnedUserId => DeviceList;
    /// Users of other servers whose device lists must be asked for, because an update was lost or a request failed.
    DEVICE_LIST_RESYNCS = Queue 200: OwnedUserId => Resync;
    /// The IDs of messages to devices that other servers sent lately, in the order of arrival.
    RECEIVED_MESSAGES = Queue 201: (OwnedServerName, String) => u64;

    /// What other servers are to be told, at the position of each change; of what all have that can be reached, the
    /// newest event of each room and each user's keys stay (`delivery/servers.rs`).
    OUTGOING = Queue 190: Position => Outgoing;
    /// The newest event of each room in OUTGOING.
    OUTGOING_LATEST = Lookup 190: RoomNo => Position;
    /// The servers that did not take what was sent to them last.
    UNREACHED_SERVERS = Scan 190: OwnedServerName => UnreachedServer;
    /// Messages to devices of other servers' users, by server: the content of `m.direct_to_device`.
    TO_SERVERS = Queue 191: (OwnedServerName, Position) => Box<RawValue>;
    /// How many of them wait for a server; no row for none.
    TO_SERVERS_WAITING = Lookup 191: OwnedServerName => u64;
    /// Notifications that wait for a push gateway, by pusher (user, `app_id`, `pushkey`) and the place of the event.
    PUSHES = Queue 192: (OwnedUserId, String, String, Position) => Push;
    /// How things stand with pushers; no row for those that were never told anything.
    PUSHER_STATES = Scan 191: (OwnedUserId, String, String) => PusherState;

    /// Files by the server name and media ID of their URI.
    MEDIA = Lookup 130: (OwnedServerName, String) => MediaFile;
    /// Thumbnails by the hash of the original and the name of their size; none where none can be made.
    THUMBNAILS = Lookup 131: (String, String) => Thumbnail;
    /// When the URIs that wait for their upload expire, by user and media ID.
    MEDIA_PENDING = Queue 130: (OwnedUserId, String) => u64;

    /// Signing keys of other servers, by server and the key's ID.
    SERVER_KEYS = Scan 150: (OwnedServerName, String) => ServerKey;
    /// The newest document in which another server published its keys, for those who ask this one for it.
    SERVER_KEY_DOCUMENTS = Lookup 150: OwnedServerName => ServerKeyDocument;
    /// Application services that were registered while the server ran: by ID, as YAML.
    APPSERVICES = Lookup 210: String => String;
    /// How far each application service has been told what happened, by its ID.
    APPSERVICE_PROGRESS = Lookup 211: String => AppserviceProgress;
    /// The transaction that an application service is being sent, by its ID: the body as it is sent until it is taken.
    APPSERVICE_TRANSACTIONS = Queue 210: String => Box<RawValue>;
    /// The rooms that an application service lists for a network: by its ID and the network's.
    NETWORK_ROOMS = Scan 210: (String, String, RoomNo) => ();
    /// The rooms whose state was told without the members, which are still to be asked for.
    MISSING_MEMBERS = Queue 220: RoomNo => MissingMembers;
    /// When the bytes with a hash were last given out, to the day, in milliseconds since the Unix epoch.
    MEDIA_ACCESSED = Lookup 151: String => u64;
    /// Bytes that are neither taken nor given out, by their hash.
    BLOCKED_MEDIA = Lookup 249: String => Block;

    /// The room in which the server writes to a user.
    NOTICE_ROOMS = Lookup 250: OwnedUserId => RoomNo;
    /// Rooms that new users are still to be brought into.
    WELCOMES = Queue 250: OwnedUserId => Welcome;
    /// Users who asked to be forgotten and whose files are still to be deleted.
    ERASURES = Scan 248: OwnedUserId => ();
    /// The events of each room that stand in no timeline.
    OFF_TIMELINE = Scan 247: (RoomNo, EventNo) => ();
    /// Rooms that no user of this server enters.
    BLOCKED_ROOMS = Lookup 248: OwnedRoomId => Block;
    /// Rooms that are being deleted, or were, and how far that is (`rooms/deletion`).
    ROOM_DELETIONS = Lookup 247: RoomNo => Deletion;
    /// Rooms whose earlier history is being deleted: the place in the timeline before which events go.
    HISTORY_PURGES = Queue 249: RoomNo => i64;
    /// States of rooms that lost events, to be let go unless something else needs them.
    FREED_STATES = Queue 247: (RoomNo, StateNo) => ();
    /// Files that events of a deleted room named, to be deleted unless something else names them.
    FREED_MEDIA = Queue 248: (RoomNo, OwnedServerName, String) => ();
    /// The events of each room that stick to it, by their positions.
    STICKY_EVENTS = Queue 241: (RoomNo, Position) => StickyEvent;
    /// Sticky events that the current state of their room did not allow when they came.
    SOFT_FAILED_STICKY_EVENTS = Queue 253: (RoomNo, EventNo) => StickyEvent;
    /// Those of them that are to be looked at again, since that state changed.
    STICKY_RECHECKS = Queue 254: (RoomNo, EventNo) => ();
    /// What users decided about threads, by user and the thread's root.
    THREAD_SUBSCRIPTIONS = Scan 242: (OwnedUserId, EventNo) => ThreadSubscription;
    /// When they did so last, by user: the thread's root.
    THREAD_SUBSCRIPTION_CHANGES = Scan 243: (OwnedUserId, Position) => EventNo;
    /// Who follows a thread, by its root.
    THREAD_FOLLOWERS = Scan 244: (EventNo, OwnedUserId) => ();
    /// Whose events in a room are being redacted, by which event, and the place below which they still are to be.
    SENDER_REDACTIONS = Queue 242: (RoomNo, OwnedUserId) => (EventNo, i64);
    /// Redactions that are to take with them what relates to the redacted event, and how far that is.
    RELATED_REDACTIONS = Queue 245: (RoomNo, EventNo) => RelatedRedaction;
    /// What administrators have redacted of what users sent, by an ID made up for it.
    USER_REDACTIONS = Queue 252: String => UserRedaction;
    /// Events as they were before they were redacted, if the administrator wants them kept for a while.
    REDACTED_ORIGINALS = Queue 243: EventNo => String;
    /// When they are to be forgotten.
    REDACTED_ORIGINAL_TIMES = Queue 244: (u64, EventNo) => ();
    /// Devices of users who may be logged in nowhere, with what makes real devices of them.
    DEHYDRATED_DEVICES = Lookup 241: OwnedUserId => DehydratedDevice;
    /// Events that are to be sent later, and those that were until lately, by their delay IDs.
    DELAYED_EVENTS = Lookup 240: String => DelayedEvent;
    /// When there is something to do with each of them: to send it, or to forget it.
    DELAYED_EVENT_TIMES = Queue 240: (u64, String) => ();
    /// Those that wait, by user.
    USER_DELAYED_EVENTS = Scan 240: (OwnedUserId, String) => ();
    /// The state events among those that wait, by what they set: room, type, state key.
    DELAYED_STATE_EVENTS = Scan 241: (RoomNo, String, String, String) => ();
}
