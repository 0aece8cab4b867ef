//! Every route takes whatever is sent to it: no request ends in a fault of the server, and none leaves the database with
//! one (the harness checks that when the server stops). `CONDUIT_HOSTILE_REQUESTS` sends more to each route than a usual run.

use conduit::start;
use http::{Method, StatusCode};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::common::{Client, TestServer, encode};

/// Names of parameters and fields, so that what is sent has something of a request.
const NAMES: &str = "
    access_token actions add additional_creators algorithm alias append app_id at auth auth_data body conditions
    content creation_content data default device_id device_keys devices dir displayname event_fields event_id events
    events_default extensions filter format from full_state guest_access_token height id_access_token identifier
    ignored_users include_state initial_state invite is_direct join_rule key keys kind lazy_load_members limit lists
    m.fully_read m.read m.relates_to medium membership messages method name new_version not_rooms not_types
    one_time_keys order password pattern ph phase pos power_level_content_override predecessor presence preset
    prev_content pushkey query ranges reason refresh_token rel_type required_state room room_alias_name room_events
    room_id room_subscriptions room_version rooms search_categories search_term senders server session sessions
    set_presence signatures since state state_key status_msg tag timeline timeline_limit to token topic ts type
    types typing url user user_id users users_default value version via visibility width
";

fn name() -> impl Strategy<Value = String> + use<> {
    prop::sample::select(NAMES.split_whitespace().collect::<Vec<_>>()).prop_map(str::to_owned)
}

/// What ends the login that the requests are made with, or takes as long as it is asked to.
const LEFT_OUT: &[&str] = &["logout", "logout_all", "deactivate_account", "change_password"];

/// What real values look like.
fn word(ids: &[String]) -> impl Strategy<Value = String> + use<> {
    let ids = ids.to_vec();
    prop_oneof![
        4 => prop::sample::select(ids),
        2 => name(),
        1 => "[0-9]{1,20}",
        1 => "[!$@#+][a-zA-Z0-9:./%_-]{0,20}",
        1 => "\\PC{0,12}",
        1 => any::<String>(),
    ]
}

/// JSON of any shape, in which `ids` are more likely than other words.
pub fn json(ids: &[String]) -> impl Strategy<Value = Value> + use<> {
    let leaf = prop_oneof![
        4 => word(ids).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(|number| json!(number)),
        1 => (0_u8..20).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    let name = prop_oneof![6 => name(), 1 => word(ids)];
    leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A part of a path; a variable is mostly an ID of its kind.
fn segment(part: &str, ids: &[String]) -> BoxedStrategy<String> {
    let Some(variable) = part.strip_prefix('{') else { return Just(part.to_owned()).boxed() };
    let sigils = [("user", '@'), ("room_id", '!'), ("room_alias", '#'), ("event_id", '$')];
    let sigil = sigils.iter().find(|(name, _)| variable.starts_with(name)).map(|(_, sigil)| *sigil);
    let fits = |id: &&String| sigil.is_some_and(|sigil| id.starts_with(sigil));
    let fitting: Vec<_> = ids.iter().filter(fits).cloned().collect();
    match fitting.is_empty() {
        true => word(ids).prop_map(|word| encode(&word)).boxed(),
        false => prop_oneof![4 => prop::sample::select(fitting), 1 => word(ids)].prop_map(|word| encode(&word)).boxed(),
    }
}

/// One request to a route with the given path, whose variables are to be filled in.
fn request(path: &str, ids: &[String]) -> impl Strategy<Value = (String, Vec<u8>)> + use<> {
    let segments: Vec<_> = path.split('/').map(|part| segment(part, ids)).collect();
    let path = segments.prop_map(|segments| segments.join("/"));
    let query = prop::collection::vec((name(), word(ids)), 0..3);
    let query = query.prop_map(|pairs| {
        let pairs = pairs.iter().map(|(name, value)| format!("&{name}={}", encode(value)));
        format!("?timeout=0{}", pairs.collect::<String>())
    });
    let body = prop_oneof![
        8 => json(ids).prop_map(|json| json.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
    ];
    (path, query, body).prop_map(|(path, query, body)| (format!("{path}{query}"), body))
}

/// IDs that mean something on the server, each kind once or more.
async fn ids(alice: &Client, bob: &Client) -> Vec<String> {
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
    bob.join(&room).await;
    let event = alice.send_text(&room, "hello").await;
    let version = json!({ "algorithm": "m.megolm_backup.v1", "auth_data": {} });
    alice.ok(Method::POST, "/_matrix/client/v3/room_keys/version", version).await;
    let mut ids = vec![room, event, "#tea:localhost".to_owned()];
    ids.extend([alice, bob].map(|client| client.user_id.clone()));
    ids.push(alice.device_id.clone());
    let known =
        ["localhost", "m.room.message", "m.room.member", "m.read", "m.thread", "main", "global", "override", "1"];
    ids.extend(known.map(str::to_owned));
    ids
}

#[tokio::test]
async fn no_request_is_a_fault() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let ids = ids(&alice, &bob).await;
    let mut runner = TestRunner::deterministic();
    let router = start::router().unwrap();
    let requests = std::env::var("CONDUIT_HOSTILE_REQUESTS").map_or(6, |number| number.parse().unwrap());
    let routes = router.routes().filter(|(info, _)| !LEFT_OUT.contains(&info.operation));
    for (info, _) in routes {
        let strategy = request(info.path, &ids);
        for _ in 0..requests {
            let (path, body) = strategy.new_tree(&mut runner).unwrap().current();
            let method = info.method.clone();
            let shown = String::from_utf8_lossy(&body).into_owned();
            let (status, answer) = alice.raw(method, &path, "application/json", body).await;
            // That another server is not there is no fault of this one.
            let elsewhere = [StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT].contains(&status);
            assert!(elsewhere || !status.is_server_error(), "{} {path} {shown}: {status} {answer:?}", info.operation);
            let (whoami, _) = alice.get("/_matrix/client/v3/account/whoami").await;
            assert_eq!(whoami, StatusCode::OK, "{} {path} {shown} logged alice out", info.operation);
        }
    }
    server.stop().await;
}
