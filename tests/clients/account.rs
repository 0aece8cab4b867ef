//! The account: its devices, password, tokens and capabilities.

use matrix_sdk::{ruma::api::client::room::create_room::v3::Request as CreateRoom, sliding_sync::Version};

use crate::{
    common::TestServer,
    device::{Device, How, new_client, password, room_with, until, until_equal},
};

however_it_syncs!(ignored_users);

#[tokio::test]
async fn devices_and_password() {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", How::Classic).await;
    let tablet = Device::login(&server, "alice", How::Classic).await;
    alice.rename_device(tablet.device_id().unwrap(), "Tablet").await.unwrap();
    let devices = alice.devices().await.unwrap().devices;
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().any(|device| device.display_name.as_deref() == Some("Tablet")));

    let gone = [tablet.device_id().unwrap().to_owned()];
    tablet.pause().await;
    let challenge = alice.delete_devices(&gone, None).await.unwrap_err();
    let session = challenge.as_uiaa_response().expect("a challenge").session.clone();
    alice.delete_devices(&gone, Some(alice.proof(session))).await.unwrap();
    assert!(!alice.device_exists(gone[0].clone()).await.unwrap());
    assert!(tablet.whoami().await.is_err());

    let challenge = alice.account().change_password("another secret", None).await.unwrap_err();
    let session = challenge.as_uiaa_response().expect("a challenge").session.clone();
    alice.account().change_password("another secret", Some(alice.proof(session))).await.unwrap();
    let anew = new_client(&server.anyone().base).await;
    assert!(anew.matrix_auth().login_username("alice", &password("alice")).send().await.is_err());
    anew.matrix_auth().login_username("alice", "another secret").send().await.unwrap();
    assert_eq!(anew.whoami().await.unwrap().user_id, alice.me());
}

#[tokio::test]
async fn tokens_are_refreshed() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let client = new_client(&server.anyone().base).await;
    let login = client.matrix_auth().login_username("alice", &password("alice"));
    login.request_refresh_token().send().await.unwrap();
    let first = client.session_tokens().unwrap();
    assert!(first.refresh_token.is_some());
    client.matrix_auth().refresh_access_token().await.unwrap();
    let second = client.session_tokens().unwrap();
    assert_ne!(first.access_token, second.access_token);
    client.whoami().await.unwrap();

    // The same session in another process, from what it kept.
    let restored = new_client(&server.anyone().base).await;
    restored.restore_session(client.session().unwrap()).await.unwrap();
    restored.whoami().await.unwrap();
    restored.create_room(CreateRoom::new()).await.unwrap();
    restored.logout().await.unwrap();
    assert!(client.whoami().await.is_err());
}

#[tokio::test]
async fn what_the_server_offers() {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", How::Classic).await;
    assert!(matches!(alice.sliding_sync_version(), Version::Native));
    assert!(alice.matrix_auth().get_login_types().await.unwrap().flows.len() >= 2);
    let offered = alice.homeserver_capabilities();
    assert!(offered.can_change_password().await.unwrap());
    assert!(offered.can_change_displayname().await.unwrap());
    assert!(offered.can_change_avatar().await.unwrap());
    let versions = offered.room_versions().await.unwrap();
    assert_eq!(versions.default.as_str(), "12");
    assert_eq!(versions.available.len(), 12);
    alice.account().request_openid_token().await.unwrap();
    assert!(alice.account().push_rules().await.unwrap().iter().count() > 10);
}

async fn ignored_users(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Peace", &[&bob]).await;
    alice.account().ignore_user(bob.me()).await.unwrap();
    until_equal("bob is ignored", true, async || alice.is_user_ignored(bob.me()).await).await;
    bob.say(&id, "nobody hears this").await;
    alice.say(&id, "quiet here").await;
    alice.reads(&id, "quiet here").await;
    bob.reads(&id, "quiet here").await;
    assert!(!alice.texts(&id).await.contains(&"nobody hears this".to_owned()));
    alice.account().unignore_user(bob.me()).await.unwrap();
    until("no longer", async || (!alice.is_user_ignored(bob.me()).await).then_some(())).await;
    bob.say(&id, "and now").await;
    alice.reads(&id, "and now").await;
}
