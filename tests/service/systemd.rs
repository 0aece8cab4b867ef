//! Sockets that systemd opened, and what it is told (sd_listen_fds(3), sd_notify(3)).

use std::{
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    Client, config,
    process::{Process, program},
};

/// The program with its own process ID in the variable `name`, as only whoever starts it knows. What it takes as its
/// standard input and output are the first and second socket that are passed to it.
fn with_own_id(directory: &Path, name: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("exec 3<&0 4>&1 </dev/null >/dev/null; export {name}=$$; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(program(directory).get_program()).args(program(directory).get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A socket on which systemd would listen.
fn manager(directory: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(directory.join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

/// The next thing that systemd is told.
fn told(manager: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = manager.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..length]).trim().to_owned()
}

async fn answers(base: &str) -> bool {
    Client::new(base.to_owned()).get("/_matrix/client/versions").await.0 == StatusCode::OK
}

/// Asks for the versions over a unix socket.
async fn answers_on(path: &Path) -> bool {
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(Method::GET).uri("/_matrix/client/versions").header("host", "localhost");
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    body["versions"].is_array()
}

#[tokio::test]
async fn it_answers_on_sockets_that_are_passed() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", tcp.local_addr().unwrap());
    let path = directory.path().join("passed.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let mut command = with_own_id(directory.path(), "LISTEN_PID");
    command.env("LISTEN_FDS", "2").stdin(Stdio::from(OwnedFd::from(tcp))).stdout(Stdio::from(OwnedFd::from(unix)));
    let process = Process::start(command).unwrap();
    assert_eq!(process.base, base, "it listens there and nowhere else");
    assert!(answers(&base).await && answers_on(&path).await);
    process.terminate();
    assert!(path.exists(), "what it did not make it does not remove");
}

#[tokio::test]
async fn sockets_for_another_process_are_not_taken() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let mut command = program(directory.path());
    command.env("LISTEN_FDS", "2").env("LISTEN_PID", "1");
    let process = Process::start(command).unwrap();
    assert!(answers(&process.base).await);
    process.terminate();
}

#[tokio::test]
async fn systemd_is_told_when_it_serves_and_when_it_stops() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let manager = manager(directory.path());
    let mut command = program(directory.path());
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    let process = Process::start(command).unwrap();
    assert_eq!(told(&manager), "READY=1");
    assert!(answers(&process.base).await, "ready means that requests are answered");
    process.terminate();
    assert_eq!(told(&manager), "STOPPING=1");
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 16]).is_err(), "that is all");
}

/// The folder holds another program's database.
#[test]
fn a_start_that_fails_is_never_called_ready() {
    let directory = TempDir::new().unwrap();
    let folder = config(directory.path()).database_path;
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("conduit.db"), "").unwrap();
    let manager = manager(directory.path());
    let mut command = program(directory.path());
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    let (status, log) = Process::start(command).err().unwrap();
    assert!(!status.success() && log.contains("another homeserver"), "{status} {log}");
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 16]).is_err());
}

#[tokio::test]
async fn the_watchdog_hears_of_it() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let manager = manager(directory.path());
    let mut command = with_own_id(directory.path(), "WATCHDOG_PID");
    command.env("NOTIFY_SOCKET", directory.path().join("notify")).env("WATCHDOG_USEC", "300000");
    let process = Process::start(command).unwrap();
    assert_eq!(told(&manager), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(&manager), "WATCHDOG=1");
    }
    process.terminate();
    while told(&manager) != "STOPPING=1" {}
}

#[tokio::test]
async fn a_manager_that_does_not_listen_is_no_matter() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let mut command = program(directory.path());
    command.env("NOTIFY_SOCKET", directory.path().join("nobody"));
    let begun = Instant::now();
    let process = Process::start(command).unwrap();
    assert!(answers(&process.base).await && begun.elapsed() < Duration::from_secs(60));
    let log = process.terminate();
    assert!(!log.contains("systemd"), "{log}");
}
