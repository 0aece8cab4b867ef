//! The configuration read again while the server runs (`server reload`).

use std::sync::Arc;

use conduit::{config::Config, server::Program};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{ask, ask_for_json, code};
use crate::common::{TOKEN, TestServer};

const REGISTER: &str = "/_matrix/client/v3/register";

/// A server over a file that [`Reloadable::write`] changes.
struct Reloadable {
    server: TestServer,
    /// The file as it was at the start.
    before: String,
    /// What is logged.
    log: Arc<Mutex<String>>,
}

impl Reloadable {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let file = server.directory.path().join("conduit.toml");
        let before = std::fs::read_to_string(&file).unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let logged = log.clone();
        let program = Program {
            set_log: Box::new(move |filter| {
                *logged.lock() = filter.to_owned();
                Ok(())
            }),
            read_config: Box::new(move || Config::load(Some(file.clone()), std::iter::empty())),
        };
        assert!(server.handle.server().program.set(program).is_ok());
        Self { server, before, log }
    }

    /// Writes the file: as at the start, with words replaced by others, and with more lines.
    fn write(&self, other: &[(&str, &str)], more: &str) {
        let mut text = self.before.clone();
        for (from, to) in other {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, to);
        }
        std::fs::write(self.server.directory.path().join("conduit.toml"), text + more).unwrap();
    }

    async fn reload(&self) -> Result<Value, String> {
        ask_for_json(&self.server, "server reload").await.map(|(_, json)| json)
    }
}

#[tokio::test]
async fn what_can_change_does_and_what_cannot_is_told() {
    let running = Reloadable::start().await;
    let server = &running.server;
    let alice = server.register("alice").await;
    let yaml = "id: bridge\nurl: null\nas_token: a\nhs_token: h\nsender_localpart: bridge\nnamespaces:\n  users: []\n";
    std::fs::write(server.directory.path().join("bridge.yaml"), yaml).unwrap();
    let more = format!(
        "password_min_length = 30\nlog = \"error\"\ndenied_servers = [\"*.evil.test\"]\nno_such_option = 1\n\
         appservice_registrations = [{:?}]\n[global.turn]\nuris = [\"turn:t\"]\nsecret = \"s\"\n\
         [global.email]\nhost = \"127.0.0.1\"\nfrom = \"a@b.test\"\nsecurity = \"none\"\n\
         [global.sso]\nissuer = \"https://id.test\"\nclient_id = \"matrix\"\n",
        server.directory.path().join("bridge.yaml")
    );
    running.write(&[("letmein", "anotherword"), ("port = 0", "port = 8448")], &more);
    let answer = running.reload().await.unwrap();
    let changed = [
        "log",
        "registration_token",
        "password_min_length",
        "appservice_registrations",
        "denied_servers",
        "sso.issuer",
        "sso.client_id",
        "email.host",
        "email.security",
        "email.from",
        "turn.uris",
        "turn.secret",
    ];
    assert_eq!((&answer["changed"], &answer["changes_at_restart"]), (&json!(changed), &json!(["port"])));
    assert!(answer["warnings"].to_string().contains("no_such_option is not known"), "{answer}");
    assert_eq!(*running.log.lock(), "error");

    let valid = async |token: &str| {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
        server.anyone().get(&path).await.1["valid"].clone()
    };
    assert_eq!((valid(TOKEN).await, valid("anotherword").await), (json!(false), json!(true)));
    let refused = ask(server, "users create bob --password secret-bob").await.unwrap_err();
    assert!(refused.contains("30"), "{refused}");
    assert_eq!(alice.get("/_matrix/client/v3/voip/turnServer").await.1["uris"], json!(["turn:t"]));
    let flows = server.anyone().get("/_matrix/client/v3/login").await.1;
    assert!(flows.to_string().contains("m.login.sso"), "{flows}");
    assert!(ask(server, "appservices list").await.unwrap().contains("bridge"));
    let state = server.handle.server();
    assert!(state.mailer.is_configured());
    assert!(!state.federation.admits("x.evil.test".try_into().unwrap()));
    assert!(state.federation.admits("good.test".try_into().unwrap()));

    assert_eq!(state.config().port, [0], "what needs a restart is as it was");
    let again = running.reload().await.unwrap();
    assert_eq!((&again["changed"], &again["changes_at_restart"]), (&json!([]), &json!(["port"])));
    running.server.stop().await;
}

#[tokio::test]
async fn limits_change_with_the_configuration() {
    let running = Reloadable::start().await;
    let anyone = running.server.anyone();
    let wrong = json!({ "type": "m.login.password", "password": "?",
                        "identifier": { "type": "m.id.user", "user": "nobody" } });
    let log_in = async || anyone.post("/_matrix/client/v3/login", wrong.clone()).await.0;
    for _ in 0..3 {
        assert_eq!(log_in().await, StatusCode::FORBIDDEN);
    }
    let one = "[global.rate_limits]\nenabled = true\nlogin = { per_second = 0.001, burst = 1 }\n";
    running.write(&[("rate_limits = false\n", "")], one);
    running.reload().await.unwrap();
    assert_eq!([log_in().await, log_in().await], [StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS]);
    running.write(&[], "");
    running.reload().await.unwrap();
    assert_eq!(log_in().await, StatusCode::FORBIDDEN);
    running.server.stop().await;
}

#[tokio::test]
async fn a_faulty_configuration_changes_nothing() {
    let running = Reloadable::start().await;
    let folder = running.server.directory.path();
    std::fs::write(folder.join("bad.yaml"), "id: [").unwrap();
    let file = folder.join("conduit.toml").display().to_string();
    let registrations = format!("appservice_registrations = [{:?}]\n", folder.join("bad.yaml"));
    for (more, told) in [
        ("password_min_length = \"x\"\n", format!("{file}: password_min_length: expected a whole number")),
        ("log = \n", format!("{file}, line")),
        ("log = \"conduit=loudly\"\n", format!("{file}: log: ")),
        ("ca_certificates = [\"/no/such/file\"]\n", "/no/such/file".to_owned()),
        (&*registrations, "bad.yaml cannot be used: ".to_owned()),
    ] {
        running.write(&[("allow_registration = true", "allow_registration = false")], more);
        let refused = running.reload().await.unwrap_err();
        assert!(refused.contains(&told), "{told}: {refused}");
        assert!(running.server.handle.server().config().allow_registration);
        assert_eq!(*running.log.lock(), "");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(running.reload().await.unwrap_err().contains("cannot read the configuration file"));
    let challenge = running.server.anyone().post(REGISTER, json!({})).await;
    assert_eq!(challenge.0, StatusCode::UNAUTHORIZED, "people still register: {}", code(&challenge).1);
    running.server.stop().await;
}

#[tokio::test]
async fn a_server_without_files_says_so() {
    let server = TestServer::start().await;
    let refused = ask(&server, "server reload").await.unwrap_err();
    assert!(refused.contains("did not read its configuration from a file"), "{refused}");
    server.stop().await;
}
