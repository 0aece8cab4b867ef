//! The stored format: `docs/schema.md` lists every tree, `tests/golden/rows.txt` has one row of each in its bytes.
//!
//! A failing test here means that databases change: either that was not meant, or the change needs `#[serde(default)]`,
//! a new record version or a new tree, as `store/value.rs` and `store/trees.rs` say. Then run the tests with
//! `CONDUIT_BLESS=1`. A line that begins with `was` is a row of an earlier version, kept by hand: it must still decode to
//! today's sample.

use std::{collections::BTreeMap, fmt::Debug, fmt::Write};

use conduit::{
    ids::{EventNo, Position, RoomNo, StateKeyNo, StateNo},
    store::{
        Tree, Value,
        key::Key,
        records::*,
        trees::{self, *},
    },
};
use proptest::prelude::*;
use ruma::{
    OwnedDeviceId, OwnedUserId, RoomVersionId, device_id, events::room::member::MembershipState, owned_event_id,
    owned_room_alias_id, owned_room_id, owned_server_name, owned_user_id,
};
use serde_json::{json, value::RawValue};

use crate::common::generated;

#[test]
fn the_schema_page_is_up_to_date() {
    let mut page = "# Schema of the database\n\n\
        Every tree, in the order of `src/store/trees.rs`, from which this page is generated. A row's key is the tree's\n\
        byte followed by the encoded key (`src/store/key.rs`: big-endian integers, terminated strings); the trees of a\n\
        family share a RocksDB column family. Records are in `src/store/records/`, numbers in `src/ids.rs`.\n\n\
        | tree | family | byte | key | value | a row means |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for tree in trees::ALL {
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let (family, byte) = (tree.family.name(), tree.prefix);
        let (key, value, doc) = (one_line(tree.key), one_line(tree.value), one_line(tree.doc));
        writeln!(page, "| `{}` | {family} | {byte} | `{key}` | `{value}` | {doc} |", tree.name).unwrap();
    }
    generated::assert_file("docs/schema.md", &page);
}

/// Whether a key and a value decode to some row.
type Decodes = Box<dyn Fn(&[u8], &[u8]) -> bool>;

/// One row of a tree.
struct Sample {
    key: String,
    value: String,
    /// Whether bytes in hexadecimal, of the key without the tree's byte and of the value, decode to this row.
    decodes: Decodes,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[derive(Default)]
struct Samples(BTreeMap<&'static str, Sample>);

impl Samples {
    fn add<K: Key + Debug + 'static, V: Value + Debug + 'static>(&mut self, tree: Tree<K, V>, key: K, value: V) {
        let mut key_bytes = vec![tree.prefix];
        key.encode(&mut key_bytes);
        let sample = Sample {
            key: hex(&key_bytes),
            value: hex(&value.to_bytes()),
            decodes: Box::new(move |mut key_bytes, value_bytes| {
                let (found_key, found) = (K::decode(&mut key_bytes), V::from_bytes(value_bytes));
                key_bytes.is_empty()
                    && found_key.is_some_and(|found| format!("{found:?}") == format!("{key:?}"))
                    && found.is_some_and(|found| format!("{found:?}") == format!("{value:?}"))
            }),
        };
        assert!(self.0.insert(tree.name, sample).is_none(), "two samples of {}", tree.name);
    }
}

#[test]
fn rows_keep_their_bytes() {
    let samples = samples().0;
    let golden = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rows.txt"));
    let golden = golden.unwrap_or_default();
    let mut wanted = "# One row of each tree, key and value in hexadecimal; see tests/schema.rs.\n".to_owned();
    for tree in trees::ALL {
        let sample = samples
            .get(tree.name)
            .unwrap_or_else(|| panic!("tests/schema.rs has no sample of the tree {}: add one", tree.name));
        for line in golden.lines().filter(|line| line.split(' ').nth(1) == Some(tree.name)) {
            writeln!(wanted, "{line}").unwrap();
        }
        writeln!(wanted, "{} {} {}", tree.name, sample.key, sample.value).unwrap();
    }
    generated::assert_file("tests/golden/rows.txt", &wanted);
    for line in wanted.lines().filter(|line| !line.starts_with('#')) {
        let row = line.strip_prefix("was ").unwrap_or(line);
        let [name, key, value] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("not a row: {line}") };
        assert!((samples[name].decodes)(&unhex(key)[1..], &unhex(value)), "does not decode to the sample: {line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes a row has, it is a row or it is damaged; nothing breaks.
    #[test]
    fn no_bytes_break_decoding(
        noise in prop::collection::vec(any::<u8>(), 0..64),
        at: prop::sample::Index,
        put: u8,
    ) {
        for sample in samples().0.values() {
            let (key, value) = (unhex(&sample.key), unhex(&sample.value));
            prop_assert!((sample.decodes)(&key[1..], &value));
            (sample.decodes)(&noise, &noise);
            for bytes in [&key[1..], &value[..]].into_iter().filter(|bytes| !bytes.is_empty()) {
                let mut changed = bytes.to_vec();
                changed[at.index(bytes.len())] = put;
                (sample.decodes)(&changed, &changed);
                (sample.decodes)(&bytes[..at.index(bytes.len())], &bytes[at.index(bytes.len())..]);
            }
        }
    }
}

fn alice() -> OwnedUserId {
    owned_user_id!("@alice:example.org")
}

fn phone() -> OwnedDeviceId {
    device_id!("PHONE").to_owned()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn raw(json: serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&json).unwrap()
}

fn samples() -> Samples {
    let mut samples = Samples::default();
    server(&mut samples);
    rooms(&mut samples);
    events(&mut samples);
    accounts(&mut samples);
    account_data(&mut samples);
    keys(&mut samples);
    notifications(&mut samples);
    delivery(&mut samples);
    media(&mut samples);
    delayed_events(&mut samples);
    federation(&mut samples);
    moderation(&mut samples);
    samples
}

fn server(s: &mut Samples) {
    s.add(COUNTERS, text("position"), 300);
    s.add(IDENTITY, text("server_name"), text("example.org"));
    let key = SigningKey { pkcs8: text("AAAA"), created_ts: 1, expired_ts: Some(2) };
    s.add(SIGNING_KEYS, text("a1"), key);
    s.add(ALIASES, owned_room_alias_id!("#tea:example.org"), Alias { room: RoomNo(1), creator: alice() });
    s.add(PUBLISHED_ROOMS, RoomNo(1), ());
    s.add(ROOM_ALIASES, (RoomNo(1), owned_room_alias_id!("#tea:example.org")), ());
    let sign_up = SignUp { network: [192, 0, 2, 1].into(), guest: false, open: true };
    s.add(SIGN_UPS, (5, alice()), sign_up);
    s.add(ROOMS_WITHOUT_GUESTS, RoomNo(1), ());
    let of = || (alice(), phone(), text("send"), text("t1"));
    s.add(TRANSACTIONS, of(), Transaction { answer: text("$e"), at: 5 });
    s.add(TRANSACTION_TIMES, (5, of()), ());
}

fn rooms(s: &mut Samples) {
    s.add(ROOM_NOS, owned_room_id!("!r:example.org"), RoomNo(1));
    let room = Room {
        id: owned_room_id!("!r:example.org"),
        version: RoomVersionId::V12,
        create: Some(EventNo(1)),
        state: StateNo(7),
        joined: 3,
        invited: 2,
        local_joined: 1,
        partial: Some(Partial { floor: StateNo(3), known: StateNo(4), servers: 2, filled: false }),
        completed: Some(Position(19)),
    };
    s.add(ROOMS, RoomNo(1), room);
    let missing = MissingMembers {
        join: owned_event_id!("$join"),
        via: owned_server_name!("example.com"),
        attempts: 2,
        next: 7000,
    };
    s.add(MISSING_MEMBERS, RoomNo(1), missing);
    s.add(STATE_KEY_NOS, (text("m.room.name"), text("")), StateKeyNo(4));
    s.add(STATE_KEYS, StateKeyNo(4), (text("m.room.name"), text("")));
    let layer =
        StateLayer { parent: StateNo(6), entries: vec![(StateKeyNo(4), EventNo(9)), (StateKeyNo(5), EventNo(0))] };
    s.add(STATES, StateNo(7), layer);
    s.add(CURRENT_STATE, (RoomNo(1), StateKeyNo(4)), EventNo(9));
    s.add(ROOM_STATES, (RoomNo(1), Position(20)), StateNo(7));
    let member = Member {
        membership: MembershipState::Join,
        event: EventNo(2),
        displayname: Some(text("Alice")),
        avatar_url: Some(text("mxc://example.org/a")),
        position: Position(20),
    };
    s.add(MEMBERS, (RoomNo(1), alice()), member);
    s.add(LOCAL_MEMBERS, (RoomNo(1), alice()), ());
    let user_room = UserRoom {
        membership: MembershipState::Invite,
        event: EventNo(2),
        position: Position(20),
        left: Some(19),
        stripped: Some(vec![raw(json!({ "type": "m.room.create" }))]),
        outside: Some(vec![owned_server_name!("example.org")]),
        forgotten: true,
    };
    s.add(USER_ROOMS, (alice(), RoomNo(1)), user_room);
    let departure = Departure { servers: vec![owned_server_name!("example.org")], since: 5, attempts: 2, next: 9 };
    s.add(DEPARTURES, (owned_room_id!("!r:example.org"), alice()), departure);
    s.add(MEMBERSHIP_CHANGES, Position(20), MembershipChange { room: RoomNo(1), user: alice(), joined: true });
    s.add(ROOM_CHANGED, RoomNo(1), Position(21));
    s.add(ROOM_CHANGES, Position(21), RoomNo(1));
}

fn events(s: &mut Samples) {
    s.add(EVENT_NOS, owned_event_id!("$e"), EventNo(9));
    let event = EventRow {
        event_id: owned_event_id!("$e"),
        room: RoomNo(1),
        order: 21,
        state_before: StateNo(6),
        state_after: StateNo(7),
        status: Status::SoftFailed,
        redacts_in_content: true,
        redacted_by: Some(EventNo(10)),
        received_ts: 5,
        request: Some(Request::Transaction(phone(), text("t1").into())),
        json: text(r#"{"content":{},"type":"m.room.name"}"#),
    };
    s.add(EVENTS, EventNo(9), event);
    s.add(AUTH_EVENTS, EventNo(9), AuthEvents { rank: 3, events: vec![EventNo(1), EventNo(2)] });
    s.add(GAPS, (RoomNo(1), EventNo(8), EventNo(9)), 17);
    s.add(EXTREMITIES, RoomNo(1), EventList(vec![EventNo(9), EventNo(10)]));
    s.add(TIMELINE, (RoomNo(1), -3), EventNo(9));
    s.add(WAITING_REDACTIONS, EventNo(9), EventList(vec![EventNo(10)]));
    s.add(RELATIONS, (EventNo(9), 21, EventNo(11)), text("m.thread"));
    let thread = Thread { latest: EventNo(11), latest_order: 21, count: 2 };
    s.add(AGGREGATES, EventNo(9), Aggregates { edit: Some(EventNo(12)), thread: Some(thread), references: 1 });
    s.add(THREAD_MEMBERS, (EventNo(9), alice()), ());
    s.add(THREAD_ORDER, (RoomNo(1), 21, EventNo(9)), ());
}

fn accounts(s: &mut Samples) {
    let address = ThreePid { medium: text("email"), address: text("a@example.org"), validated_at: 1, added_at: 2 };
    let account = Account {
        password_hash: Some(text("$argon2id$")),
        admin: true,
        guest: false,
        deactivated: false,
        locked: true,
        suspended: false,
        created_ts: 5,
        threepids: vec![address],
        identities: vec![ProviderIdentity { issuer: text("https://id.example.org"), subject: text("1234") }],
        send_limit: None,
        bindings: Vec::new(),
        keys_replaceable_until: None,
    };
    s.add(ACCOUNTS, alice(), account);
    s.add(THREEPIDS, (text("email"), text("a@example.org")), alice());
    s.add(PROVIDER_IDENTITIES, (text("https://id.example.org"), text("1234")), alice());
    s.add(ERASED_USERS, alice(), ());
    let pair = |name: &str| Some(TokenPair { access: text(name), refresh: Some(text("r")) });
    let device = Device {
        display_name: Some(text("Phone")),
        created_ts: 5,
        last_seen_ts: Some(6),
        last_seen_ip: Some(text("::1")),
        tokens: pair("a"),
        next_tokens: pair("b"),
    };
    s.add(DEVICES, (alice(), phone()), device);
    let token = || Token { user: alice(), device: phone(), expires_ts: Some(7), next: true };
    s.add(ACCESS_TOKENS, text("hash"), token());
    s.add(REFRESH_TOKENS, text("hash"), token());
    s.add(LOGIN_TOKENS, (7, text("hash")), alice());
    s.add(OPENID_TOKENS, (7, text("hash")), alice());
    s.add(PASSWORD_RESETS, (7, text("hash")), alice());
    let validation = Validation {
        purpose: Purpose::ResetPassword,
        address: text("a@example.org"),
        client_secret: text("hash"),
        send_attempt: 1,
        links: vec![text("hash")],
        failures: 2,
        next_link: Some(text("https://example.org")),
        expires_ts: 7,
        validated_ts: Some(5),
    };
    s.add(VALIDATIONS, text("sid"), validation);
    s.add(VALIDATION_TIMES, (7, text("sid")), ());
    let token = RegistrationToken {
        uses_allowed: Some(3),
        completed: 1,
        expires_ts: Some(7),
        admin: false,
        created_ts: 5,
        rooms: vec![owned_room_alias_id!("#tea:example.org").into()],
    };
    s.add(REGISTRATION_TOKENS, text("letmein"), token);
    let report = Report {
        reporter: alice(),
        room: Some(owned_room_id!("!r:example.org")),
        event: Some(owned_event_id!("$e")),
        user: Some(owned_user_id!("@bob:example.org")),
        reason: text("spam"),
        received_ts: 5,
    };
    s.add(REPORTS, 1, report);
}

fn account_data(s: &mut Samples) {
    let profile = Profile { fields: [(text("displayname"), json!("Alice"))].into() };
    s.add(PROFILES, alice(), profile);
    s.add(PROFILE_UPDATES, alice(), Position(21));
    s.add(DEACTIVATED_USERS, alice(), ());
    s.add(FILTERS, (alice(), text("0")), raw(json!({})));
    let data = AccountData { position: Position(21), content: raw(json!({ "a": 1 })) };
    s.add(ACCOUNT_DATA, (alice(), Some(RoomNo(1)), text("m.tag")), data);
    s.add(ACCOUNT_DATA_CHANGES, (alice(), Position(21)), (None, text("m.direct")));
    let pusher = Pusher { device: phone(), pusher: json!({ "kind": "http" }), created_ts: 5, disabled: false };
    s.add(PUSHERS, (alice(), text("app"), text("key")), pusher);
    s.add(PUSHKEYS, (text("app"), text("key"), alice()), ());
}

fn keys(s: &mut Samples) {
    let key = || raw(json!({ "key": "AAAA" }));
    s.add(DEVICE_KEYS, (alice(), phone()), key());
    s.add(KEY_SIGNATURES, (alice(), text("PHONE"), alice(), text("ed25519:PHONE")), text("AAAA"));
    s.add(CROSS_SIGNING_KEYS, (alice(), text("master")), key());
    s.add(KEY_CHANGES, Position(21), alice());
    s.add(KEYS_CHANGED, alice(), Position(21));
    s.add(OWN_KEY_CHANGES, (alice(), Position(21)), alice());
    let of = |id: &str| (alice(), phone(), text("signed_curve25519"), 1, text(id));
    s.add(ONE_TIME_KEYS, of("signed_curve25519:A"), key());
    s.add(CLAIMED_KEYS, (alice(), phone(), text("signed_curve25519:A")), 4);
    let fallback = FallbackKey { id: text("signed_curve25519:F"), key: key(), used: true };
    s.add(FALLBACK_KEYS, (alice(), phone(), text("signed_curve25519")), fallback);
    let supply = KeySupply {
        counts: [(text("signed_curve25519"), 50)].into(),
        unused_fallback: [text("signed_curve25519")].into(),
        changed: Position(21),
    };
    s.add(KEY_SUPPLIES, (alice(), phone()), supply);
    s.add(TO_DEVICE, (alice(), phone(), Position(21)), raw(json!({ "type": "m.dummy" })));
    s.add(TO_DEVICE_WAITING, (alice(), phone()), 1);
    s.add(TO_DEVICE_BYTES, (alice(), phone()), 18);
    let backup = KeyBackup { algorithm: text("m.x"), auth_data: raw(json!({})), count: 2, etag: 3, deleted: true };
    s.add(KEY_BACKUPS, (alice(), 1), backup);
    s.add(BACKED_UP_KEYS, (alice(), 1, owned_room_id!("!r:example.org"), text("session")), key());
    let list = DeviceList { stream_id: Some(8), earlier: vec![6, 7], asked: Position(21) };
    s.add(DEVICE_LISTS, alice(), list);
    s.add(DEVICE_LIST_RESYNCS, alice(), Resync { wanted: Position(21), failures: 1, retry_at: 9 });
    s.add(RECEIVED_MESSAGES, (owned_server_name!("example.org"), text("message")), 4);
}

fn notifications(s: &mut Samples) {
    let receipt = Receipt { event: owned_event_id!("$e"), order: 21, ts: 5, position: Position(22) };
    s.add(RECEIPTS, (RoomNo(1), alice(), text("main"), text("m.read")), receipt);
    s.add(ROOM_SERVERS, (RoomNo(1), owned_server_name!("example.org")), (2, Position(7)));
    s.add(SERVER_ROOMS, (owned_server_name!("example.org"), RoomNo(1)), ());
    s.add(RECEIPT_CHANGES, (RoomNo(1), Position(22)), (alice(), (text("main"), text("m.read"))));
    let marks = ReadMarks { joined: 20, unthreaded: 21, main: 22, classes: vec![(20, text("c"))] };
    s.add(READ_MARKS, (RoomNo(1), alice()), marks);
    s.add(THREAD_READ_MARKS, (RoomNo(1), alice(), EventNo(9)), 21);
    s.add(TALLIES, (RoomNo(1), EventNo(0), text("")), (21, (2, -1)));
    s.add(TALLY_LOG, (RoomNo(1), EventNo(0), text(""), 21), (2, -1));
    s.add(NOTIFYING_THREADS, (RoomNo(1), 21), EventNo(9));
    s.add(THREAD_NOTIFIED, (RoomNo(1), EventNo(9)), 21);
    s.add(ROSTER_STAMPS, RoomNo(1), 8);
}

fn delivery(s: &mut Samples) {
    let server = || owned_server_name!("example.org");
    let outgoing = Outgoing::Event { room: RoomNo(1), event: EventNo(9), target: Some(server()), from: Some(server()) };
    s.add(OUTGOING, Position(21), outgoing);
    s.add(OUTGOING_LATEST, RoomNo(1), Position(21));
    let failures = Failures { since: 5, count: 2, retry_at: 9 };
    let unreached = UnreachedServer { has: Position(20), failures: Some(failures), why: text("it answered 502") };
    s.add(UNREACHED_SERVERS, server(), unreached);
    s.add(TO_SERVERS, (server(), Position(21)), raw(json!({ "type": "m.dummy" })));
    s.add(TO_SERVERS_WAITING, server(), 1);
    let push = Push { event: EventNo(9), sound: Some(text("default")), highlight: true };
    s.add(PUSHES, (alice(), text("app"), text("key"), Position(21)), push);
    let state = PusherState { waiting: 1, told: 2, recount: Some(Position(22)), mailed_ts: None };
    s.add(PUSHER_STATES, (alice(), text("app"), text("key")), state);
}

fn moderation(s: &mut Samples) {
    let block = || Block { by: Some(alice()), since: 5 };
    s.add(BLOCKED_MEDIA, text("00ff"), block());
    s.add(NOTICE_ROOMS, alice(), RoomNo(1));
    s.add(ERASURES, alice(), ());
    let welcome = Welcome { rooms: vec![owned_room_alias_id!("#tea:example.org").into()], attempts: 1, retry_at: 9 };
    s.add(WELCOMES, alice(), welcome);
    s.add(OFF_TIMELINE, (RoomNo(1), EventNo(9)), ());
    s.add(BLOCKED_ROOMS, owned_room_id!("!r:example.org"), block());
    let deletion = Deletion {
        by: Some(alice()),
        since: 5,
        media: true,
        stage: DeletionStage::Telling(Position(7)),
        left: vec![alice()],
        stuck: vec![owned_user_id!("@bob:example.org")],
        aliases: vec![owned_room_alias_id!("#tea:example.org")],
        events: 3,
    };
    s.add(ROOM_DELETIONS, RoomNo(1), deletion);
    s.add(HISTORY_PURGES, RoomNo(1), 21);
    let redaction = UserRedaction {
        user: alice(),
        by: alice(),
        reason: Some("spam".to_owned()),
        rooms: vec![ruma::owned_room_id!("!r:localhost")],
        before: Some(7),
        left: 3,
        limit: 9,
        after_ts: Some(1),
        before_ts: Some(2),
        failed: [(ruma::owned_event_id!("$e"), "no".to_owned())].into(),
        done_ts: Some(4),
    };
    s.add(USER_REDACTIONS, "redaction".to_owned(), redaction);
    s.add(FREED_STATES, (RoomNo(1), StateNo(7)), ());
    s.add(FREED_MEDIA, (RoomNo(1), owned_server_name!("example.org"), text("id")), ());
}

fn delayed_events(s: &mut Samples) {
    s.add(SENDER_REDACTIONS, (RoomNo(1), alice()), (EventNo(9), 21));
    let related = RelatedRedaction {
        target: EventNo(9),
        sender: alice(),
        reason: Some(text("spam")),
        kinds: vec![text("m.replace")],
        below: 21,
        since: 5,
    };
    s.add(RELATED_REDACTIONS, (RoomNo(1), EventNo(11)), related);
    s.add(REDACTED_ORIGINALS, EventNo(9), text("{}"));
    s.add(REDACTED_ORIGINAL_TIMES, (5, EventNo(9)), ());
    let device = DehydratedDevice { device: phone(), data: raw(json!({ "algorithm": "m.x" })) };
    s.add(DEHYDRATED_DEVICES, alice(), device);
    let subscription = ThreadSubscription { room: RoomNo(1), subscribed: true, automatic: true, changed: Position(21) };
    s.add(THREAD_SUBSCRIPTIONS, (alice(), EventNo(9)), subscription);
    s.add(THREAD_SUBSCRIPTION_CHANGES, (alice(), Position(21)), EventNo(9));
    s.add(THREAD_FOLLOWERS, (EventNo(9), alice()), ());
    let sticky = || StickyEvent { event: EventNo(9), sender: alice(), expires: 9 };
    s.add(STICKY_EVENTS, (RoomNo(1), Position(21)), sticky());
    s.add(SOFT_FAILED_STICKY_EVENTS, (RoomNo(1), EventNo(9)), sticky());
    s.add(ROOM_UPGRADES, RoomNo(1), RoomUpgrade { user: alice(), new: RoomNo(2) });
    s.add(STICKY_RECHECKS, (RoomNo(1), EventNo(9)), ());
    s.add(SENT_INVITATIONS, (alice(), 5, EventNo(9)), ());
    let event = DelayedEvent {
        user: alice(),
        device: phone(),
        room: owned_room_id!("!r:example.org"),
        kind: text("m.room.name"),
        state_key: Some(text("")),
        content: raw(json!({ "name": "Tea" })),
        timestamp: Some(3),
        sticky: Some(5),
        delay: 10,
        running_since: 5,
        due: 15,
        over: Some(Over { at: 15, how: Ending::Failed(text("M_FORBIDDEN"), text("You may not.")) }),
    };
    s.add(DELAYED_EVENTS, text("delay"), event);
    s.add(DELAYED_EVENT_TIMES, (15, text("delay")), ());
    s.add(USER_DELAYED_EVENTS, (alice(), text("delay")), ());
    s.add(DELAYED_STATE_EVENTS, (RoomNo(1), text("m.room.name"), text(""), text("delay")), ());
}

fn federation(s: &mut Samples) {
    let other = || owned_server_name!("other.example.org");
    s.add(SERVER_KEYS, (other(), text("ed25519:a")), ServerKey { key: text("AAAA"), valid_until_ts: 9 });
    let document = ServerKeyDocument { json: text("{}"), valid_until_ts: 9, fetched_ts: 5 };
    s.add(SERVER_KEY_DOCUMENTS, other(), document);
}

fn media(s: &mut Samples) {
    let content = || MediaContent {
        hash: text("00ff"),
        size: 3,
        content_type: Some(text("image/png")),
        filename: Some(text("a.png")),
    };
    let file = MediaFile {
        user: Some(alice()),
        created_ts: 5,
        content: Some(content()),
        expires_ts: Some(9),
        protected: false,
    };
    s.add(MEDIA, (owned_server_name!("example.org"), text("id")), file);
    s.add(THUMBNAILS, (text("00ff"), text("32x32-crop")), Thumbnail::Made(content()));
    s.add(MEDIA_PENDING, (alice(), text("id")), 9);
    s.add(APPSERVICES, text("irc"), text("id: irc"));
    let progress =
        AppserviceProgress { told: Position(7), transaction: 8, pending: Some(Position(9)), with_messages: true };
    s.add(APPSERVICE_PROGRESS, text("irc"), progress);
    s.add(APPSERVICE_TRANSACTIONS, text("irc"), raw(json!({ "events": [] })));
    s.add(NETWORK_ROOMS, (text("irc"), text("libera"), RoomNo(1)), ());
    s.add(MEDIA_ACCESSED, text("00ff"), 9);
}
