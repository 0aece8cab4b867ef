//! The configuration read again at a signal, and at a command.

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{
    Client, TOKEN, config,
    process::{Process, program},
};

#[tokio::test]
async fn a_hangup_and_a_command_have_the_configuration_read_again() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let file = directory.path().join("conduit.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let process = Process::start(program(directory.path())).unwrap();
    let anyone = Client::new(process.base.clone());
    let valid = async || {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={TOKEN}");
        anyone.get(&path).await.1["valid"].clone()
    };
    assert_eq!(valid().await, true);

    std::fs::write(&file, before.replace("allow_registration = true", "allow_registration = false")).unwrap();
    let hangup = || kill_process(Pid::from_raw(process.id().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    hangup();
    process.wait_for_log("the configuration was read again: allow_registration changed");
    assert_eq!(valid().await, false);

    std::fs::write(&file, format!("{before}nonsense")).unwrap();
    hangup();
    process.wait_for_log("nothing is changed: ");
    assert_eq!(valid().await, false);

    std::fs::write(&file, format!("{before}port = 1\n").replacen("port = 0\n", "", 1)).unwrap();
    let mut command = program(directory.path());
    let answer = command.args(["admin", "server", "reload"]).output().unwrap();
    let said = String::from_utf8(answer.stdout).unwrap();
    assert!(said.starts_with("changed             allow_registration\nchanges_at_restart  port\n"), "{said}");
    assert_eq!(valid().await, true);

    std::fs::write(&file, format!("{before}log = \"\"\n[global.email]\nhost = \"h\"\n")).unwrap();
    let mut command = program(directory.path());
    let refused = command.args(["admin", "server", "reload"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("email.host: set email.from as well"), "{said}");
    process.terminate();

    std::fs::write(&file, before).unwrap();
    let mut command = program(directory.path());
    let refused = command.args(["admin", "server", "status"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("cannot reach the server through") && said.contains("Is it running"), "{said}");
}
