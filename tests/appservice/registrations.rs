//! Who is registered.

use conduit::{admin::Command, appservice::Registered, config::Config};
use http::{Method, StatusCode};
use ruma::server_name;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake::{AS_TOKEN, Fake, client, with_token};
use crate::common::TestServer;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn registration(id: &str, token: &str) -> String {
    format!(
        "id: {id}\nurl: null\nas_token: {token}\nhs_token: h\nsender_localpart: {id}\nnamespaces:\n  users: []\n  aliases: []\n  rooms: []\n"
    )
}

fn load(config: &Config, server: &TestServer) -> (Vec<String>, Vec<String>) {
    let store = &server.handle.server().store;
    let (found, problems) =
        Registered::read(&config.appservice_registrations, store, server_name!("localhost")).unwrap();
    (found.all().iter().map(|service| service.id.clone()).collect(), problems)
}

#[tokio::test]
async fn files_and_folders_are_read_and_bad_ones_are_left_out() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, yaml: &str| std::fs::write(folder.path().join(name), yaml).unwrap();
    std::fs::create_dir(folder.path().join("more")).unwrap();
    write("single.yaml", &registration("single", "t1"));
    write("more/b.yaml", &registration("b", "t2"));
    write("more/a.yml", &registration("a", "t3"));
    write("more/again.yaml", &registration("again", "t2"));
    write("more/b2.yaml", &registration("b", "t4"));
    write("more/broken.yaml", "id: [");
    write("more/notes.txt", "no registration");
    let paths = ["single.yaml", "more", "missing.yaml"].map(|name| folder.path().join(name)).to_vec();
    let server = TestServer::start_with(|config| config.appservice_registrations = paths.clone()).await;
    let config = Config { appservice_registrations: paths, ..Config::default() };
    let (found, problems) = load(&config, &server);
    assert_eq!(found, ["single", "a", "again", "b2"].map(|id| if id == "b2" { "b" } else { id }));
    let about = |file: &str| problems.iter().any(|problem| problem.contains(file));
    assert!(about("b.yaml") && about("broken.yaml") && about("missing.yaml"), "{problems:#?}");
    assert_eq!(problems.len(), 3, "{problems:#?}");
    for (token, user) in [("t1", "@single:localhost"), ("t3", "@a:localhost"), ("t4", "@b:localhost")] {
        let service = with_token(&server, token);
        assert_eq!(service.ok(Method::GET, WHOAMI, Value::Null).await["user_id"], user);
    }
}

#[tokio::test]
async fn administrators_register_more_while_the_server_runs() {
    let fake = Fake::start().await;
    let server = TestServer::start().await;
    let state = server.handle.server();
    let service = client(&server);
    assert_eq!(service.get(WHOAMI).await.0, StatusCode::UNAUTHORIZED);
    let register = |yaml: &str| Command::parse(&format!("appservices register\n```yaml\n{yaml}```")).unwrap();
    let answer = register(&fake.registration("")).run(state, None).await.unwrap();
    assert_eq!(answer.to_string(), "The application service irc is registered and acts as @ircbot:localhost.");
    assert_eq!(service.get(WHOAMI).await.0, StatusCode::OK);

    // It hears of what happens from then on.
    let room = service.create_room(json!({})).await;
    let event = service.send_text(&room, "hello").await;
    fake.event(&event).await;

    // Registering it again replaces it; another with its token is refused.
    register(&fake.registration("protocols: [irc]")).run(state, None).await.unwrap();
    let list = Command::parse("appservices list").unwrap().run(state, None).await.unwrap().to_json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!((&list[0]["id"], &list[0]["protocols"]), (&json!("irc"), &json!(["irc"])));
    for wrong in [registration("other", AS_TOKEN), "id: [".to_owned()] {
        assert_eq!(register(&wrong).run(state, None).await.unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    let server = TestServer::start_in(server.stop().await, |_| {}).await;
    let service = client(&server);
    assert_eq!(service.get(WHOAMI).await.0, StatusCode::OK, "it is there after a restart");
    let event = service.send_text(&room, "again").await;
    fake.event(&event).await;

    let state = server.handle.server();
    let unregister = || Command::parse("appservices unregister irc").unwrap();
    unregister().run(state, None).await.unwrap();
    assert_eq!(service.get(WHOAMI).await.0, StatusCode::UNAUTHORIZED);
    assert!(unregister().run(state, None).await.unwrap_err().is_not_found());
}
