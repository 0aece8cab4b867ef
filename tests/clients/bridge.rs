//! A bridge made with the framework that most bridges are made of (mautrix for Python): an encrypted room of somebody with
//! the bot and a ghost. The bridge itself is `bridge.py`.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use matrix_sdk::ruma::{UserId, user_id};
use tempfile::TempDir;

use crate::{
    common::TestServer,
    device::{Device, How, text, until},
};

/// The running bridge; ends when dropped.
struct Bridge {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: Arc<TempDir>,
}

impl Bridge {
    /// Starts it; it waits for its server.
    fn start(folder: &Arc<TempDir>) -> Self {
        let log = std::fs::File::create(folder.path().join("bridge.log")).unwrap();
        let mut process = Command::new(python())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/bridge.py"))
            .current_dir(folder.path())
            .env("AS_TOKEN", "as-token")
            .env("HS_TOKEN", "hs-token")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, input, output, folder: folder.clone() }
    }

    /// Waits for the next line that it prints.
    async fn says(&mut self) -> String {
        tokio::task::block_in_place(|| {
            let mut line = String::new();
            self.output.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "the bridge ended");
            line.trim().to_owned()
        })
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("bridge.log")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "the bridge's log:\n{log}");
        }
    }
}

/// The Python of the virtual environment that `.ci/venv` makes.
fn python() -> PathBuf {
    let cache = || {
        let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache");
        std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("conduit-ci")
    };
    let python = std::env::var_os("CONDUIT_CI_VENVS").map_or_else(cache, PathBuf::from).join("venv-bridge/bin/python");
    assert!(python.exists(), "there is no {}: `make bridge` installs it", python.display());
    python
}

fn registration(port: &str) -> String {
    format!(
        "id: echo\nurl: http://127.0.0.1:{port}\nas_token: as-token\nhs_token: hs-token\nsender_localpart: echobot\n\
         rate_limited: false\nnamespaces:\n  users:\n    - exclusive: true\n      regex: '^@_echo_.*:localhost$'\n\
         receive_ephemeral: true\nde.sorunome.msc2409.push_ephemeral: true\norg.matrix.msc3202: true\n\
         io.element.msc4190: true\n"
    )
}

/// The bot encrypts with a device that no login made and without ever syncing: keys are claimed, messages to its device
/// come in transactions, and what ghosts say is encrypted with its keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_bridge_bot_with_ghosts() {
    let folder = Arc::new(TempDir::new().unwrap());
    let mut bridge = Bridge::start(&folder);
    let file = folder.path().join("echo.yaml");
    std::fs::write(&file, registration(&bridge.says().await)).unwrap();
    let server = TestServer::start_in(folder, |config| config.appservice_registrations = vec![file]).await;
    writeln!(bridge.input, "{} localhost", server.anyone().base).unwrap();
    assert_eq!(bridge.says().await, "ready");

    let alice = Device::register(&server, "alice", How::Classic).await;
    let bot: &UserId = user_id!("@echobot:localhost");
    let ghost = user_id!("@_echo_ghost:localhost");
    let room = alice.create_dm(bot).await.unwrap();
    until("the ghost is in the room", async || {
        let member = room.get_member_no_sync(ghost).await.unwrap();
        member.filter(|member| member.display_name() == Some("Echo")).map(|_| ())
    })
    .await;
    assert!(room.latest_encryption_state().await.unwrap().is_encrypted());
    for said in ["hello", "is anybody there?"] {
        alice.say(room.room_id(), said).await;
        alice.reads(room.room_id(), &format!("echo: {said}")).await;
    }
    let timeline = alice.timeline(room.room_id()).await;
    let answers = timeline.iter().filter(|event| text(event).is_some_and(|text| text.starts_with("echo: ")));
    assert!(answers.clone().all(|event| event.encryption_info().is_some() && event.sender().as_deref() == Some(ghost)));
    assert_eq!(answers.count(), 2);
    assert!(bridge.is_running());

    // Another device of hers gets the keys for what is said from then on: the bridge hears of it.
    let laptop = Device::login(&server, "alice", How::Classic).await;
    laptop.joined(room.room_id()).await;
    laptop.say(room.room_id(), "from the laptop").await;
    laptop.reads(room.room_id(), "echo: from the laptop").await;
    alice.reads(room.room_id(), "echo: from the laptop").await;
    assert!(bridge.is_running());
}
