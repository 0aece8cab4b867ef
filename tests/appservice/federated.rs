//! What concerns application services comes from other servers, too.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fake::{Fake, client};
use crate::common::{encode, net::TestNet};

#[tokio::test]
async fn users_are_made_and_invited_from_other_servers() {
    let fake = Fake::start().await;
    let net = TestNet::new();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("irc.yaml");
    std::fs::write(&file, fake.registration("")).unwrap();
    let (a, b) =
        (net.server_with("a", |config| config.appservice_registrations = vec![file]).await, net.server("b").await);
    let (service, alice) = (client(&a), b.register("alice").await);
    fake.on_query({
        let service = service.clone();
        move |path| {
            let service = service.clone();
            async move {
                if path != "users/%40_irc_bob%3aa.test" {
                    return (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" }));
                }
                let body =
                    json!({ "type": "m.login.application_service", "username": "_irc_bob", "inhibit_login": true });
                service.ok(Method::POST, "/_matrix/client/v3/register", body).await;
                (StatusCode::OK, json!({}))
            }
        }
    });
    let bob = "@_irc_bob:a.test";
    let as_bob = |path: &str| format!("/_matrix/client/v3/rooms/{path}?user_id={bob}");
    for (answer, membership) in [("leave", "leave"), ("join", "join")] {
        let room = alice.create_room(json!({})).await;
        let invite = format!("/_matrix/client/v3/rooms/{}/invite", encode(&room));
        alice.ok(Method::POST, &invite, json!({ "user_id": bob })).await;
        let member = |membership: &'static str| {
            let room = room.clone();
            move |event: &Value| {
                event["room_id"] == room.as_str()
                    && event["state_key"] == bob
                    && event["content"]["membership"] == membership
            }
        };
        let invited = fake.entry("events", member("invite")).await;
        let known = invited["unsigned"]["invite_room_state"].as_array().unwrap();
        assert!(known.iter().any(|event| event["type"] == "m.room.create"), "{invited}");
        assert_eq!(invited["sender"], alice.user_id.as_str());
        service.ok(Method::POST, &as_bob(&format!("{}/{answer}", encode(&room))), json!({})).await;
        fake.entry("events", member(membership)).await;
    }
}
