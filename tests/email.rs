//! E-mail addresses: `api/validation.rs` and the operations over it in `administrative_contact.rs`, `registration.rs` and
//! `password_management.rs`; the pages in `web`; the mails themselves.

use std::time::Duration;

use conduit::{
    admin::Command,
    config::{Config, MailSecurity, RateLimit, Secret},
    delivery::digests::{APART, UNREAD_FOR, send_due},
    store::{
        Direction,
        trees::{PASSWORD_RESETS, PUSHER_STATES, VALIDATION_TIMES, VALIDATIONS},
    },
    users::registration_tokens::first_start,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{
    Client, TOKEN, TestServer, encode,
    net::TestNet,
    smtp::{MailServer, Security},
};

const ADD: &str = "/_matrix/client/v3/account/3pid/email/requestToken";
const REGISTER: &str = "/_matrix/client/v3/register";
const RESET: &str = "/_matrix/client/v3/account/password/email/requestToken";
const PASSWORD: &str = "/_matrix/client/v3/account/password";

/// A server with a mail server.
struct Mailed {
    server: TestServer,
    mails: MailServer,
}

impl Mailed {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(Security::StartTls, Some(("conduit", "sesame")), change).await
    }

    async fn start_with(security: Security, account: Option<(&str, &str)>, change: impl FnOnce(&mut Config)) -> Self {
        let net = TestNet::new();
        let mails = MailServer::start(&net, security, account).await;
        let server = TestServer::start_with(|config| {
            config.ca_certificates = vec![net.ca()];
            config.email.host = Some("localhost".to_owned());
            config.email.port = Some(mails.port);
            config.email.security = match security {
                Security::StartTls => MailSecurity::StartTls,
                Security::Tls => MailSecurity::Tls,
                Security::None => MailSecurity::None,
            };
            config.email.username = account.map(|(name, _)| name.to_owned());
            config.email.password = account.map(|(_, password)| Secret::new(password));
            config.email.from = Some("Café <noreply@example.org>".parse().unwrap());
            change(config);
        })
        .await;
        Self { server, mails }
    }

    /// Asks for a mail; gives the ID of the validation.
    async fn ask(&self, path: &str, address: &str, secret: &str, attempt: u64) -> String {
        let answer = self.server.anyone().ok(Method::POST, path, wanted(address, secret, attempt)).await;
        assert_eq!(answer.as_object().unwrap().len(), 1, "no submit_url, since a link is all there is: {answer}");
        answer["sid"].as_str().unwrap().to_owned()
    }

    /// Opens a link, and confirms on its page.
    async fn confirm(&self, link: &str) -> (StatusCode, String) {
        let (path, query) = link.split_once("/_matrix").unwrap().1.split_once('?').unwrap();
        let (status, page) = self.open(link).await;
        assert!(status == StatusCode::OK && page.contains("<button>"), "{page}");
        submit(&self.server, &format!("/_matrix{path}"), query).await
    }

    async fn open(&self, link: &str) -> (StatusCode, String) {
        let path = format!("/_matrix{}", link.split_once("/_matrix").unwrap().1);
        let (status, _, body) = self.server.anyone().full(Method::GET, &path, &[]).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Gives `client` an address.
    async fn add(&self, client: &Client, name: &str, address: &str) {
        let sid = self.ask(ADD, address, "secret", 1).await;
        self.confirm(&self.mails.take_one().link()).await;
        let body = json!({ "sid": sid, "client_secret": "secret", "auth": by_password(name) });
        client.ok(Method::POST, "/_matrix/client/v3/account/3pid/add", body).await;
    }
}

async fn submit(server: &TestServer, path: &str, form: &str) -> (StatusCode, String) {
    let body = form.as_bytes().to_vec();
    let (status, body) = server.anyone().raw(Method::POST, path, "application/x-www-form-urlencoded", body).await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn wanted(address: &str, secret: &str, attempt: u64) -> Value {
    json!({ "email": address, "client_secret": secret, "send_attempt": attempt })
}

fn by_password(name: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": format!("secret-{name}"),
    })
}

/// Logs in with an address.
async fn log_in(server: &TestServer, address: &str, password: &str) -> (StatusCode, Value) {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": address },
        "password": password,
    });
    server.anyone().post("/_matrix/client/v3/login", body).await
}

async fn addresses(client: &Client) -> Vec<String> {
    let answer = client.ok(Method::GET, "/_matrix/client/v3/account/3pid", Value::Null).await;
    let address = |threepid: &Value| threepid["address"].as_str().unwrap().to_owned();
    answer["threepids"].as_array().unwrap().iter().map(address).collect()
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn mails_go_over_every_kind_of_connection() {
    let account = Some(("conduit", "sesame"));
    for (security, account) in
        [(Security::StartTls, account), (Security::Tls, account), (Security::Tls, None), (Security::None, None)]
    {
        let mailed = Mailed::start_with(security, account, |_| {}).await;
        mailed.ask(ADD, "Alice@Example.ORG", "secret", 1).await;
        let mail = mailed.mails.take_one();
        assert_eq!(
            (&*mail.sender, &mail.recipients[..]),
            ("noreply@example.org", &["alice@example.org".to_owned()][..])
        );
        for header in
            ["Message-ID: <", "Date: ", "Auto-Submitted: auto-generated\r\n", "Subject: Your e-mail address at"]
        {
            assert!(mail.raw.contains(header), "{header}: {}", mail.raw);
        }
        let (text, html, link) = (mail.part("text/plain"), mail.part("text/html"), mail.link());
        assert!(text.contains("add this e-mail address") && html.contains("add this e-mail address"));
        assert!(html.contains(&format!("<a href=\"{}\"", link.replace('&', "&amp;"))), "{html}");
        mailed.server.stop().await;
    }
}

#[tokio::test]
async fn who_asks_hears_when_no_mail_can_be_sent() {
    let account = Some(("conduit", "sesame"));
    let wrong_password = |config: &mut Config| config.email.password = Some(Secret::new("wrong"));
    let stranger = |config: &mut Config| config.ca_certificates = Vec::new();
    let nobody = |config: &mut Config| config.email.port = Some(1);
    let plain = |config: &mut Config| config.email.security = MailSecurity::None;
    let wrong: [&dyn Fn(&mut Config); 4] = [&wrong_password, &stranger, &nobody, &plain];
    for change in wrong {
        let mailed = Mailed::start_with(Security::StartTls, account, change).await;
        let answer = mailed.server.anyone().post(ADD, wanted("alice@example.org", "secret", 1)).await;
        assert_eq!(code(&answer), (502, "M_UNKNOWN"), "{}", answer.1);
        assert!(mailed.mails.take().is_empty());
        mailed.server.stop().await;
    }
    let mailed = Mailed::start(|_| {}).await;
    mailed.mails.refuse(true);
    let answer = mailed.server.anyone().post(ADD, wanted("alice@example.org", "secret", 1)).await;
    assert_eq!(code(&answer), (502, "M_UNKNOWN"));
    // It counts as not sent: the same request is tried again.
    mailed.mails.refuse(false);
    mailed.ask(ADD, "alice@example.org", "secret", 1).await;
    mailed.mails.take_one();
    mailed.server.stop().await;
}

#[tokio::test]
async fn a_user_adds_an_address_and_removes_it() {
    let mailed = Mailed::start(|_| {}).await;
    let alice = mailed.server.register("alice").await;
    let add = "/_matrix/client/v3/account/3pid/add";
    let mut wanted = wanted("Alice@Example.org", "sec.ret=_-", 1);
    wanted["next_link"] = json!("https://app.example.com/#/go?a=1&b=2");
    let sid = alice.ok(Method::POST, ADD, wanted.clone()).await["sid"].clone();
    let mail = mailed.mails.take_one();
    assert_eq!(alice.ok(Method::POST, ADD, wanted.clone()).await["sid"], sid);
    assert!(mailed.mails.take().is_empty(), "a repeated request sends no mail");
    wanted["send_attempt"] = json!(2);
    assert_eq!(alice.ok(Method::POST, ADD, wanted).await["sid"], sid);
    mailed.mails.take_one();

    let mut body = json!({ "sid": sid, "client_secret": "sec.ret=_-", "auth": by_password("alice") });
    assert_eq!(code(&alice.post(add, body.clone()).await), (400, "M_THREEPID_AUTH_FAILED"));
    let link = mail.link();
    for _ in 0..2 {
        assert!(mailed.open(&link).await.1.contains("alice@example.org"));
    }
    assert_eq!(code(&alice.post(add, body.clone()).await), (400, "M_THREEPID_AUTH_FAILED"), "opening does not confirm");
    // The first mail's link works as well as the second's.
    let (status, page) = mailed.confirm(&link).await;
    assert_eq!(status, StatusCode::OK);
    let next = "<a href=\"https://app.example.com/#/go?a=1&amp;b=2\" rel=\"noreferrer\">Go on to app.example.com</a>";
    assert!(page.contains(next), "{page}");

    let mut other = body.clone();
    other["client_secret"] = json!("wrong");
    assert_eq!(code(&alice.post(add, other).await), (400, "M_THREEPID_AUTH_FAILED"));
    body.as_object_mut().unwrap().remove("auth");
    let (status, challenge) = alice.post(add, body.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    body["auth"] = by_password("alice");
    body["auth"]["session"] = challenge["session"].clone();
    assert_eq!(alice.ok(Method::POST, add, body.clone()).await, json!({}));
    assert_eq!(addresses(&alice).await, ["alice@example.org"]);
    assert_eq!(code(&alice.post(add, body).await), (400, "M_THREEPID_AUTH_FAILED"), "it was used");
    assert_eq!(log_in(&mailed.server, "ALICE@example.org", "secret-alice").await.0, StatusCode::OK);
    assert_eq!(log_in(&mailed.server, "alice@example.org", "wrong").await.0, StatusCode::FORBIDDEN);

    // It cannot become another's as well, and only its owner is told so.
    let bob = mailed.server.register("bob").await;
    mailed.ask(ADD, "alice@example.org", "bob", 1).await;
    let mail = mailed.mails.take_one();
    assert!(!mail.has_link() && mail.part("text/plain").contains("@alice:localhost"));

    let delete = json!({ "medium": "email", "address": "Alice@example.org" });
    let path = "/_matrix/client/v3/account/3pid/delete";
    bob.ok(Method::POST, path, delete.clone()).await;
    assert_eq!(addresses(&alice).await.len(), 1, "nobody removes another's address");
    let answer = alice.ok(Method::POST, path, delete).await;
    assert_eq!(answer, json!({ "id_server_unbind_result": "no-support" }));
    assert!(addresses(&alice).await.is_empty());
    assert_eq!(log_in(&mailed.server, "alice@example.org", "secret-alice").await.0, StatusCode::FORBIDDEN);
    mailed.add(&bob, "bob", "alice@example.org").await;
    let capabilities = bob.ok(Method::GET, "/_matrix/client/v3/capabilities", Value::Null).await;
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"], json!({ "enabled": true }));
    mailed.server.stop().await;
}

#[tokio::test]
async fn an_address_that_was_taken_meanwhile_is_not_added() {
    let mailed = Mailed::start(|_| {}).await;
    let (alice, bob) = (mailed.server.register("alice").await, mailed.server.register("bob").await);
    let sid = mailed.ask(ADD, "shared@example.org", "alice", 1).await;
    mailed.confirm(&mailed.mails.take_one().link()).await;
    mailed.add(&bob, "bob", "shared@example.org").await;
    let body = json!({ "sid": sid, "client_secret": "alice", "auth": by_password("alice") });
    let answer = alice.post("/_matrix/client/v3/account/3pid/add", body).await;
    assert_eq!(code(&answer), (400, "M_THREEPID_IN_USE"));
    assert!(addresses(&alice).await.is_empty());
    mailed.server.stop().await;
}

#[tokio::test]
async fn people_register_with_a_confirmed_address() {
    let mailed = Mailed::start(|config| config.email.required_to_register = true).await;
    mailed.server.register("admin").await;
    first_start(&mailed.server.handle.server().store).unwrap(); // as at the next start
    let anyone = mailed.server.anyone();
    let account = json!({ "username": "alice", "password": "secret-alice" });
    let (status, challenge) = anyone.post(REGISTER, account.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let stages = json!([{ "stages": ["m.login.email.identity", "m.login.registration_token"] }]);
    assert_eq!(challenge["flows"], stages);
    let with = |auth: Value| {
        let mut body = account.clone();
        body["auth"] = auth;
        body["auth"]["session"] = challenge["session"].clone();
        body
    };
    let (_, answer) =
        anyone.post(REGISTER, with(json!({ "type": "m.login.registration_token", "token": TOKEN }))).await;
    assert_eq!(answer["completed"], json!(["m.login.registration_token"]));
    let sid = mailed.ask(&format!("{REGISTER}/email/requestToken"), "alice@example.org", "secret", 1).await;
    let mail = mailed.mails.take_one();
    assert!(mail.part("text/plain").contains("registering an account"));
    let creds = json!({ "sid": sid, "client_secret": "secret" });
    let email = with(json!({ "type": "m.login.email.identity", "threepid_creds": creds }));
    let answer = anyone.post(REGISTER, email.clone()).await;
    assert_eq!(code(&answer), (401, "M_UNAUTHORIZED"), "clients wait as long as they are told this");
    assert_eq!(answer.1["flows"], stages);
    mailed.confirm(&mail.link()).await;
    let (status, answer) = anyone.post(REGISTER, email.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(addresses(&anyone.logged_in(&answer)).await, ["alice@example.org"]);
    // The answer may have been lost: the same request gives the same account.
    assert_eq!(anyone.post(REGISTER, email).await.1["user_id"], "@alice:localhost");
    assert_eq!(log_in(&mailed.server, "alice@example.org", "secret-alice").await.0, StatusCode::OK);

    mailed.ask(&format!("{REGISTER}/email/requestToken"), "alice@example.org", "again", 1).await;
    let mail = mailed.mails.take_one();
    assert!(!mail.has_link() && mail.part("text/plain").contains("@alice:localhost"));
    // The page for registering knows no addresses.
    assert_eq!(anyone.full(Method::GET, "/register", &[]).await.0, StatusCode::FORBIDDEN);
    let form = format!("token={TOKEN}&username=bob&password=secret-bob&again=secret-bob");
    assert_eq!(submit(&mailed.server, "/register", &form).await.0, StatusCode::FORBIDDEN);
    mailed.server.stop().await;
}

#[tokio::test]
async fn an_address_is_offered_where_it_is_not_required() {
    let mailed = Mailed::start(|_| {}).await;
    mailed.server.register("admin").await;
    let (_, challenge) =
        mailed.server.anyone().post(REGISTER, json!({ "username": "a", "password": "secret-a" })).await;
    let token = "m.login.registration_token";
    let flows = json!([{ "stages": [token] }, { "stages": ["m.login.email.identity", token] }]);
    assert_eq!(challenge["flows"], flows);
    mailed.server.stop().await;

    let open = |config: &mut Config| {
        config.registration_token = None;
        config.allow_open_registration_without_token = true;
        config.email.required_to_register = true;
    };
    let mailed = Mailed::start(open).await;
    let (_, challenge) =
        mailed.server.anyone().post(REGISTER, json!({ "username": "a", "password": "secret-a" })).await;
    // The administrator can come in without, in case the mail server does not work yet.
    let flows = json!([{ "stages": ["m.login.email.identity"] }, { "stages": [token] }]);
    assert_eq!(challenge["flows"], flows);
    mailed.server.stop().await;

    let mailed = Mailed::start(|config| config.allow_registration = false).await;
    Command::parse("users create alice").unwrap().run(mailed.server.handle.server(), None).await.unwrap();
    first_start(&mailed.server.handle.server().store).unwrap();
    let path = format!("{REGISTER}/email/requestToken");
    let answer = mailed.server.anyone().post(&path, wanted("alice@example.org", "secret", 1)).await;
    assert_eq!(code(&answer), (403, "M_FORBIDDEN"), "nobody can register, so nobody gets a mail for it");
    assert!(mailed.mails.take().is_empty());
    mailed.server.stop().await;
}

#[tokio::test]
async fn a_forgotten_password_is_reset_by_mail() {
    let mailed = Mailed::start(|_| {}).await;
    let alice = mailed.server.register("alice").await;
    mailed.add(&alice, "alice", "alice@example.org").await;
    let anyone = mailed.server.anyone();
    let new = |sid: &str, password: &str| {
        let creds = json!({ "sid": sid, "client_secret": "forgot" });
        // As Element sends it: without a session, again and again until the link was opened.
        let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds, "threepidCreds": creds });
        json!({ "new_password": password, "logout_devices": true, "auth": auth })
    };
    let sid = mailed.ask(RESET, "Alice@example.org", "forgot", 1).await;
    let mail = mailed.mails.take_one();
    assert!(mail.part("text/plain").contains("@alice:localhost"));
    for _ in 0..2 {
        assert_eq!(code(&anyone.post(PASSWORD, new(&sid, "new-password")).await), (401, "M_UNAUTHORIZED"));
    }
    let (_, page) = mailed.confirm(&mail.link()).await;
    assert!(page.contains("go back to your client"), "{page}");
    assert_eq!(anyone.ok(Method::POST, PASSWORD, new(&sid, "new-password")).await, json!({}));
    assert_eq!(alice.get("/_matrix/client/v3/account/whoami").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(log_in(&mailed.server, "alice@example.org", "new-password").await.0, StatusCode::OK);
    assert_eq!(log_in(&mailed.server, "alice@example.org", "secret-alice").await.0, StatusCode::FORBIDDEN);
    assert_eq!(code(&anyone.post(PASSWORD, new(&sid, "third-password")).await), (401, "M_UNAUTHORIZED"));

    // Whether an address is known is told in the mail only.
    mailed.ask(RESET, "nobody@example.org", "forgot", 1).await;
    let mail = mailed.mails.take_one();
    assert!(!mail.has_link() && mail.part("text/plain").contains("No account"));
    mailed.server.stop().await;
}

#[tokio::test]
async fn a_confirmation_is_good_for_its_purpose_only() {
    let mailed = Mailed::start(|_| {}).await;
    let alice = mailed.server.register("alice").await;
    // Alice confirms that an address is to be added, or is registered with; nobody sets her password with that.
    for path in [ADD, &format!("{REGISTER}/email/requestToken")] {
        let sid = mailed.ask(path, "alice@example.org", "mallory", 1).await;
        mailed.confirm(&mailed.mails.take_one().link()).await;
        let auth = json!({
            "type": "m.login.email.identity", "threepid_creds": { "sid": sid, "client_secret": "mallory" },
        });
        let body = json!({ "new_password": "by-mallory", "auth": auth });
        assert_eq!(code(&mailed.server.anyone().post(PASSWORD, body).await), (401, "M_UNAUTHORIZED"));
    }
    mailed.add(&alice, "alice", "alice@example.org").await;
    let sid = mailed.ask(RESET, "alice@example.org", "mallory", 1).await;
    mailed.confirm(&mailed.mails.take_one().link()).await;
    let body = json!({ "sid": sid, "client_secret": "mallory", "auth": by_password("alice") });
    let answer = alice.post("/_matrix/client/v3/account/3pid/add", body).await;
    assert_eq!(code(&answer), (400, "M_THREEPID_AUTH_FAILED"));
    mailed.server.stop().await;
}

#[tokio::test]
async fn an_administrator_can_let_everybody_know_which_addresses_are_known() {
    let mailed = Mailed::start(|config| config.email.tell_known_addresses = true).await;
    let alice = mailed.server.register("alice").await;
    mailed.add(&alice, "alice", "alice@example.org").await;
    let anyone = mailed.server.anyone();
    for path in [ADD, &format!("{REGISTER}/email/requestToken")] {
        assert_eq!(code(&anyone.post(path, wanted("alice@example.org", "s", 1)).await), (400, "M_THREEPID_IN_USE"));
    }
    assert_eq!(code(&anyone.post(RESET, wanted("nobody@example.org", "s", 1)).await), (400, "M_THREEPID_NOT_FOUND"));
    assert!(mailed.mails.take().is_empty());
    mailed.server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_for_a_mail() {
    let mailed = Mailed::start(|_| {}).await;
    let anyone = mailed.server.anyone();
    for address in
        ["", "alice", "@example.org", "a b@example.org", "alice@example.org\r\nBcc: bob@example.org", "a@b@c"]
    {
        let answer = anyone.post(ADD, wanted(address, "secret", 1)).await;
        assert_eq!(code(&answer), (400, "M_INVALID_PARAM"), "{address}");
    }
    for link in ["javascript:alert(1)", "data:text/html,x", "//example.org", "ftp://example.org", "https://", "x"] {
        let mut body = wanted("alice@example.org", "secret", 1);
        body["next_link"] = json!(link);
        assert_eq!(code(&anyone.post(ADD, body).await), (400, "M_INVALID_PARAM"), "{link}");
    }
    for secret in ["", "with space"] {
        let answer = anyone.post(ADD, wanted("alice@example.org", secret, 1)).await;
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{secret}: {}", answer.1);
    }
    assert!(mailed.mails.take().is_empty());
    let number = json!({ "country": "DE", "phone_number": "123456", "client_secret": "s", "send_attempt": 1 });
    for path in ["account/3pid", "register", "account/password"] {
        let answer = anyone.post(&format!("/_matrix/client/v3/{path}/msisdn/requestToken"), number.clone()).await;
        assert_eq!(code(&answer), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
    }
    mailed.server.stop().await;

    let server = TestServer::start().await;
    for path in [ADD, RESET, &format!("{REGISTER}/email/requestToken")] {
        let answer = server.anyone().post(path, wanted("alice@example.org", "secret", 1)).await;
        assert_eq!(code(&answer), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"));
    }
    let alice = server.register("alice").await;
    let capabilities = alice.ok(Method::GET, "/_matrix/client/v3/capabilities", Value::Null).await;
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"], json!({ "enabled": false }));
    server.stop().await;
}

#[tokio::test]
async fn mails_are_limited_for_each_address() {
    let mailed = Mailed::start(|config| {
        config.rate_limits.enabled = true;
        config.rate_limits.mail = RateLimit { per_second: 0.000_1, burst: 2 };
        config.ip_address_detection = conduit::config::IpAddressDetection::Header("x-from".parse().unwrap());
    })
    .await;
    let ask = async |from: &str, address: &str, attempt: u64| {
        let body = wanted(address, "secret", attempt).to_string();
        let headers = [("x-from", from), ("content-type", "application/json")];
        let (status, _, _) = mailed.server.anyone().exchange(Method::POST, ADD, &headers, body.into_bytes()).await;
        status.as_u16()
    };
    assert_eq!(ask("10.0.0.1", "alice@example.org", 1).await, 200);
    assert_eq!(ask("10.0.0.1", "alice@example.org", 2).await, 200);
    assert_eq!(ask("10.0.0.1", "bob@example.org", 1).await, 429, "who asks is limited");
    assert_eq!(ask("10.0.0.2", "alice@example.org", 3).await, 429, "whom mails go to is limited");
    assert_eq!(ask("10.0.0.3", "bob@example.org", 1).await, 200);
    assert_eq!(mailed.mails.take().len(), 3);
    mailed.server.stop().await;
}

#[tokio::test]
async fn links_expire_and_bear_no_guessing() {
    let mailed = Mailed::start(|_| {}).await;
    let page = conduit::users::validations::PAGE;
    let sid = mailed.ask(ADD, "alice@example.org", "secret", 1).await;
    let link = mailed.mails.take_one().link();
    for _ in 0..20 {
        let (status, page) = submit(&mailed.server, page, &format!("sid={sid}&token=wrong")).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{page}");
    }
    assert_eq!(mailed.open(&link).await.0, StatusCode::FORBIDDEN, "too many wrong tokens");

    assert_eq!(mailed.ask(ADD, "alice@example.org", "secret", 1).await, sid);
    let link = mailed.mails.take_one().link();
    let store = mailed.server.handle.server().store.clone();
    let aged = store.write(|tx| {
        let mut row = VALIDATIONS.get(tx, &sid)?.unwrap();
        VALIDATION_TIMES.delete(tx, (row.expires_ts, &sid));
        row.expires_ts = 5;
        VALIDATION_TIMES.put(tx, (5_u64, &sid), &());
        VALIDATIONS.put(tx, &sid, &row);
        Ok(())
    });
    aged.unwrap();
    assert_eq!(mailed.open(&link).await.0, StatusCode::FORBIDDEN, "it expired");
    mailed.ask(ADD, "bob@example.org", "secret", 1).await;
    assert_eq!(VALIDATIONS.scan(&store.read(), (), Direction::Forward).count(), 1, "what expired goes");
    drop(store);
    mailed.server.stop().await;
}

/// Has an administrator make a link; gives its token.
#[tokio::test]
async fn a_client_without_a_form_for_addresses_shows_a_page() {
    let mailed = Mailed::start(|_| {}).await;
    let alice = mailed.server.register("alice").await;
    mailed.add(&alice, "alice", "alice@example.org").await;
    let anyone = mailed.server.anyone();
    let mut new = json!({ "new_password": "new-password" });
    let session = anyone.post(PASSWORD, new.clone()).await.1["session"].as_str().unwrap().to_owned();
    let address = format!("/_matrix/client/v3/auth/m.login.email.identity/fallback/web?session={session}");
    let (status, _, body) = anyone.full(Method::GET, &address, &[]).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(status == StatusCode::OK && body.contains(&format!("data-operation=\"{RESET}\"")), "{body}");
    // What its script does.
    let sid = mailed.ask(RESET, "alice@example.org", "forgot", 1).await;
    let form = format!("sid={sid}&client_secret=forgot");
    let (status, body) = submit(&mailed.server, &address, &form).await;
    assert!(
        status.is_client_error() && body.contains("not confirmed yet") && body.contains(&format!("value=\"{sid}\"")),
        "{body}"
    );
    mailed.confirm(&mailed.mails.take_one().link()).await;
    let (status, body) = submit(&mailed.server, &address, &form).await;
    assert!(status == StatusCode::OK && body.contains("onAuthDone"), "{body}");
    new["auth"] = json!({ "session": session });
    assert_eq!(anyone.ok(Method::POST, PASSWORD, new).await, json!({}));
    assert_eq!(log_in(&mailed.server, "alice@example.org", "new-password").await.0, StatusCode::OK);
    mailed.server.stop().await;
}

async fn reset_link(server: &TestServer, line: &str) -> String {
    let answer = Command::parse(line).unwrap().run(server.handle.server(), None).await.unwrap().to_string();
    assert!(
        answer.contains(&format!("http://localhost:{}/_matrix/conduit/reset-password?token=", server.address.port()))
    );
    answer.split_once("token=").unwrap().1.to_owned()
}

#[tokio::test]
async fn an_administrator_makes_a_link_for_a_new_password() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let page = "/_matrix/conduit/reset-password";
    let token = reset_link(&server, "users reset-link @alice:localhost").await;
    let unused = reset_link(&server, "users reset-link alice --hours 1").await;
    let (status, _, form) = server.anyone().full(Method::GET, &format!("{page}?token={token}"), &[]).await;
    let form = String::from_utf8(form.to_vec()).unwrap();
    assert!(status == StatusCode::OK && form.contains("@alice:localhost") && form.contains(" checked>"), "{form}");

    for (form, why) in [("password=new-secret&again=other", "not the same"), ("password=short&again=short", "at least")]
    {
        let (status, answer) = submit(&server, page, &format!("token={token}&{form}")).await;
        assert!(status == StatusCode::BAD_REQUEST && answer.contains(why), "{answer}");
    }
    let form = "password=new-secret&again=new-secret";
    let (status, answer) = submit(&server, page, &format!("token={token}&{form}")).await;
    assert!(status == StatusCode::OK && answer.contains("@alice:localhost"), "{answer}");
    assert_eq!(alice.get("/_matrix/client/v3/account/whoami").await.0, StatusCode::OK, "the box was not checked");
    for token in [&*token, &*unused, "", "0_wrong"] {
        assert_eq!(submit(&server, page, &format!("token={token}&{form}")).await.0, StatusCode::FORBIDDEN);
        let path = format!("{page}?token={token}");
        assert_eq!(server.anyone().full(Method::GET, &path, &[]).await.0, StatusCode::FORBIDDEN);
    }
    let login = json!({ "type": "m.login.password", "user": "alice", "password": "new-secret" });
    assert_eq!(server.anyone().post("/_matrix/client/v3/login", login).await.0, StatusCode::OK);

    let token = reset_link(&server, "users reset-link alice").await;
    let everywhere = format!("token={token}&{form}&logout_devices=on");
    assert_eq!(submit(&server, page, &everywhere).await.0, StatusCode::OK);
    assert_eq!(alice.get("/_matrix/client/v3/account/whoami").await.0, StatusCode::UNAUTHORIZED);

    let expired = reset_link(&server, "users reset-link alice --hours 0").await;
    assert_eq!(submit(&server, page, &format!("token={expired}&{form}")).await.0, StatusCode::FORBIDDEN);
    let token = reset_link(&server, "users reset-link alice").await;
    Command::parse("users deactivate alice").unwrap().run(server.handle.server(), None).await.unwrap();
    assert_eq!(submit(&server, page, &format!("token={token}&{form}")).await.0, StatusCode::FORBIDDEN);
    let left = PASSWORD_RESETS.scan(&server.handle.server().store.read(), (), Direction::Forward).count();
    assert_eq!(left, 0);
    assert!(Command::parse("users reset-link nobody").unwrap().run(server.handle.server(), None).await.is_err());
    server.stop().await;
}

/// Waits until so much waits to be told by mail.
async fn until_waiting(server: &TestServer, count: u64) {
    let store = &server.handle.server().store;
    let waiting = || {
        let read = store.read();
        let rows = PUSHER_STATES.scan(&read, (), Direction::Forward);
        rows.map(|row| row.unwrap().1.waiting).sum::<u64>()
    };
    for _ in 0..600 {
        if waiting() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} wait, not {count}", waiting());
}

#[tokio::test]
async fn what_is_unread_is_told_by_mail() {
    let mailed = Mailed::start(|_| {}).await;
    let server = &mailed.server;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let set = "/_matrix/client/v3/pushers/set";
    let pusher = json!({
        "app_id": "m.email", "pushkey": "alice@example.org", "kind": "email", "app_display_name": "Mail",
        "device_display_name": "alice@example.org", "lang": "en", "data": {},
    });
    assert_eq!(code(&alice.post(set, pusher.clone()).await), (400, "M_INVALID_PARAM"), "it is not hers");
    mailed.add(&alice, "alice", "alice@example.org").await;
    alice.ok(Method::POST, set, pusher.clone()).await;
    let mut wrong = pusher.clone();
    wrong["app_id"] = json!("org.example");
    assert_eq!(code(&alice.post(set, wrong).await), (400, "M_INVALID_PARAM"));

    let tea = alice.create_room(json!({ "name": "Tea & cake", "invite": [bob.user_id] })).await;
    bob.join(&tea).await;
    let read = bob.send_text(&tea, "this is read").await;
    until_waiting(server, 1).await;
    let receipt = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", encode(&tea), encode(&read));
    alice.ok(Method::POST, &receipt, json!({})).await;
    for text in ["one", "two", "three <four>", "five"] {
        bob.send_text(&tea, text).await;
    }
    bob.create_room(json!({ "invite": [alice.user_id] })).await;
    until_waiting(server, 6).await;

    let now = conduit::clock::now_ms();
    let (soon, later) = (now + 60_000, now + u64::try_from(UNREAD_FOR.as_millis()).unwrap() + 60_000);
    let due = async |at: u64| send_due(server.handle.server(), at).await.unwrap();
    due(soon).await;
    assert!(mailed.mails.take().is_empty(), "it may still be read elsewhere");
    mailed.mails.refuse(true);
    due(later).await;
    mailed.mails.refuse(false);
    due(later).await;
    assert!(mailed.mails.take().is_empty(), "the next try is with the next mail");
    let next = later + u64::try_from(APART.as_millis()).unwrap();
    due(next).await;
    let mail = mailed.mails.take_one();
    assert_eq!(mail.recipients, ["alice@example.org"]);
    let text = mail.part("text/plain");
    assert!(text.contains("Tea & cake: 4 unread messages\nbob: two\nbob: three <four>\nbob: five\n"), "{text}");
    assert!(text.contains("\nbob: invites you\n") && !text.contains("this is read"), "{text}");
    assert!(
        mail.part("text/html").contains("Tea &amp; cake: 4 unread messages<br>bob: two<br>bob: three &lt;four&gt;")
    );
    due(next + u64::try_from(APART.as_millis()).unwrap()).await;
    assert!(mailed.mails.take().is_empty(), "it is told once");

    // The link in the mail ends them, for people after a question, for mail programs at once.
    let link = mail.link();
    let forged = link.replace("alice%40example.org", "bob%40example.org");
    assert_eq!(mailed.open(&forged).await.0, StatusCode::FORBIDDEN);
    let (status, page) = mailed.open(&link).await;
    assert!(status == StatusCode::OK && page.contains("alice@example.org"), "{page}");
    let pushers = async || alice.ok(Method::GET, "/_matrix/client/v3/pushers", Value::Null).await["pushers"].clone();
    assert_eq!(pushers().await.as_array().unwrap().len(), 1);
    assert!(mail.raw.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"));
    let path = format!("/_matrix{}", link.split_once("/_matrix").unwrap().1);
    assert_eq!(submit(server, &path, "List-Unsubscribe=One-Click").await.0, StatusCode::OK);
    assert_eq!(pushers().await, json!([]));

    alice.ok(Method::POST, set, pusher).await;
    let delete = json!({ "medium": "email", "address": "alice@example.org" });
    alice.ok(Method::POST, "/_matrix/client/v3/account/3pid/delete", delete).await;
    assert_eq!(pushers().await, json!([]), "no mails go where the user is not any more");
    mailed.server.stop().await;

    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let pusher = json!({
        "app_id": "m.email", "pushkey": "alice@example.org", "kind": "email", "app_display_name": "Mail",
        "device_display_name": "alice@example.org", "lang": "en", "data": {},
    });
    assert_eq!(code(&alice.post(set, pusher).await), (400, "M_INVALID_PARAM"), "this server sends no mails");
    server.stop().await;
}
