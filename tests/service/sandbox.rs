//! NixOS's `services.matrix-conduit` runs the program under a seccomp filter that kills for a single call too many, without
//! unix sockets, without memory that is writable and executable, without a home, on a file system that is read-only but
//! for its own folder (`sandbox.c`).

use std::{
    ffi::OsStr,
    fmt::Write,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::Command,
};

use http::{Method, StatusCode};
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Client, TOKEN, encode, process::Process};

/// Compiles the sandbox; gives a command in it that may write into `data` alone.
fn sandbox(folder: &Path, data: &Path) -> Command {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/");
    let list = fs::read_to_string(format!("{source}syscalls.txt")).unwrap();
    let mut allowed = String::new();
    for call in list.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace) {
        writeln!(allowed, "#ifdef SYS_{call}\nSYS_{call},\n#endif").unwrap();
    }
    fs::write(folder.join("allowed.h"), allowed).unwrap();
    let program = folder.join("sandbox");
    let mut compiler = Command::new("cc");
    compiler.arg("-Wall").arg("-I").arg(folder).arg("-o").arg(&program).arg(format!("{source}sandbox.c"));
    assert!(compiler.status().unwrap().success(), "sandbox.c does not compile");
    let mut command = Command::new(program);
    command.arg(data).env_clear().env("LANG", "C");
    command
}

/// Folders as the module has them: the configuration where nobody can write, the data in one that nobody else reads.
fn folders() -> (TempDir, Command) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = format!(
        "[global]\nserver_name = \"localhost\"\naddress = \"127.0.0.1\"\nport = 0\ndatabase_path = \"{}/\"\n\
         database_backend = \"sqlite\"\nmax_request_size = 20000000\nallow_registration = true\n\
         allow_encryption = true\nallow_federation = true\ntrusted_servers = [\"matrix.org\"]\n\
         allow_check_for_updates = false\nip_range_allowlist = [\"127.0.0.0/8\"]\nregistration_token = \"{TOKEN}\"\n",
        data.display()
    );
    fs::write(folder.path().join("conduit.toml"), settings).unwrap();
    let mut command = sandbox(folder.path(), &data);
    command.env("CONDUIT_CONFIG", folder.path().join("conduit.toml"));
    (folder, command)
}

#[tokio::test]
#[allow(clippy::print_stdout)] // whoever looks why it was so quick
async fn it_serves_under_the_filter_of_nixos() {
    let (folder, mut command) = folders();
    // No arguments, and an environment with bytes that are no text.
    command.arg(env!("CARGO_BIN_EXE_conduit")).env("ODD", OsStr::from_bytes(b"\xff"));
    let process = match Process::start(command) {
        Ok(process) => process,
        Err((status, log)) if status.code() == Some(77) => return println!("not tested here: {log}"),
        Err((status, log)) => panic!("the server did not start ({status}):\n{log}"),
    };
    use_everything(&process.base).await;
    let log = process.terminate();
    assert!(!log.contains("ERROR"), "{log}");
    for entry in fs::read_dir(folder.path().join("data")).unwrap() {
        let mode = entry.as_ref().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is for the server alone", entry.unwrap().path());
    }
}

/// What leads through most of the program: passwords, rooms, long polls, pictures, names that are looked up.
async fn use_everything(base: &str) {
    let anyone = Client::new(base.to_owned());
    let (alice, bob) = (anyone.register("alice").await, anyone.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let since = bob.sync("").await["next_batch"].as_str().unwrap().to_owned();
    let query = format!("since={since}&timeout=30000");
    let (news, _) = tokio::join!(bob.sync(&query), alice.send_text(&room, "hello"));
    assert!(news["rooms"]["join"][&room].is_object(), "{news}");

    let mut picture = std::io::Cursor::new(Vec::new());
    RgbImage::new(200, 100).write_to(&mut picture, ImageFormat::Png).unwrap();
    let (status, answer) = alice.raw(Method::POST, "/_matrix/media/v3/upload", "image/png", picture.into_inner()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let name = answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let path = format!("/_matrix/client/v1/media/thumbnail/{name}?width=32&height=32");
    assert_eq!(alice.raw(Method::GET, &path, "", Vec::new()).await.0, StatusCode::OK);

    // Nothing listens there, but it is looked up and tried.
    let path = format!("/_matrix/client/v3/profile/{}", encode("@carol:localhost:1"));
    let (status, answer) = alice.get(&path).await;
    assert!(!status.is_success(), "{answer}");
}

/// The filter is one: what it does not allow kills.
#[test]
fn the_filter_kills() {
    let (folder, mut command) = folders();
    let output = command.args(["/bin/chown", "0:0"]).arg(folder.path().join("data")).output().unwrap();
    if output.status.code() != Some(77) {
        const SIGSYS: i32 = 31;
        assert_eq!(output.status.signal(), Some(SIGSYS), "{output:?}");
    }
}
