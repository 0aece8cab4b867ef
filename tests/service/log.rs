//! What the log says: little when all is well, each request when asked, and no secret ever.

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    Client, TOKEN, config,
    process::{Process, program},
};

/// Registers, writes a message, and asks with the token in the address, as old clients do.
async fn use_it(base: &str) -> Client {
    let alice = Client::new(base.to_owned()).register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "a message for nobody else").await;
    let nobody = Client::new(base.to_owned());
    let path = format!("/_matrix/client/v3/account/whoami?access_token={}", alice.token);
    nobody.ok(Method::GET, &path, Value::Null).await;
    alice
}

#[tokio::test]
async fn secrets_are_never_logged() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let mut command = program(directory.path());
    command.env("CONDUIT_LOG", "trace");
    let process = Process::start(command).unwrap();
    let alice = use_it(&process.base).await;
    let log = process.terminate();
    let whoami = log.lines().find(|line| line.contains("/account/whoami") && line.contains("answered")).unwrap();
    for part in ["DEBUG", "method=GET", "@alice:localhost", "status=200", "time="] {
        assert!(whoami.contains(part), "{part} is missing: {whoami}");
    }
    for secret in [&*alice.token, "secret-alice", TOKEN, "for nobody else"] {
        let told = log.lines().find(|line| line.contains(secret));
        assert!(told.is_none(), "{secret} is in the log: {told:?}");
    }
}

#[tokio::test]
async fn nothing_is_said_when_all_is_well() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let process = Process::start(program(directory.path())).unwrap();
    use_it(&process.base).await;
    let log = process.terminate();
    // The token of the first start, where it listens, how to connect, that it stopped.
    assert!(log.lines().count() <= 4, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}
