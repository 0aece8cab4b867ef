//! The servers find and trust each other.

use http::Method;
use serde_json::{Value, json};

use crate::{common::encode, side::Side};

both_ways!(profiles_are_found, keys_are_passed_on);

/// One signed request: who is asked fetches the key of who asks.
async fn profiles_are_found(host: &Side, guest: &Side) {
    let alice = host.register("alice").await;
    let bob = guest.register("bob").await;
    let path = format!("/_matrix/client/v3/profile/{}", encode(&bob.user_id));
    let profile = alice.ok(Method::GET, &path, Value::Null).await;
    assert!(profile["displayname"].as_str().is_some_and(|name| name.starts_with("bob")), "{profile}");
}

/// One server gives out the keys of the other, signed by both.
async fn keys_are_passed_on(host: &Side, guest: &Side) {
    let (notary, origin) = (host.anyone(), guest.anyone());
    let own = origin.ok(Method::GET, "/_matrix/key/v2/server", Value::Null).await;
    let key = own["verify_keys"].as_object().unwrap().keys().next().unwrap().clone();
    let query = json!({ "server_keys": { guest.name(): { key: { "minimum_valid_until_ts": 0 } } } });
    let answer = notary.ok(Method::POST, "/_matrix/key/v2/query", query).await;
    let keys = &answer["server_keys"][0];
    assert_eq!(keys["verify_keys"], own["verify_keys"]);
    for name in [host.name(), guest.name()] {
        assert!(keys["signatures"][&name].as_object().is_some_and(|signatures| !signatures.is_empty()), "{keys}");
    }
}
