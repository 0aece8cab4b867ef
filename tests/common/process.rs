//! The real program as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// The program, serving. It dies with the test.
pub struct Process {
    child: Child,
    /// Where it answers.
    pub base: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// The command that serves over the configuration that [`config`](super::config) wrote into `directory`.
pub fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conduit"));
    command.arg("-c").arg(directory.join("conduit.toml"));
    command
}

impl Process {
    /// Starts the program; returns when it says that it is ready.
    ///
    /// # Errors
    /// With how it ended and what it said, when it ends before.
    pub fn start(mut command: Command) -> Result<Self, (ExitStatus, String)> {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log = Arc::new(Mutex::new(Vec::new()));
        for line in lines.by_ref() {
            let address = line.split_once(" is ready on ").map(|(_, address)| format!("http://{}", address.trim()));
            log.lock().push(line);
            if let Some(base) = address {
                let later = log.clone();
                // Whoever does not read a pipe blocks the one who writes.
                std::thread::spawn(move || lines.for_each(|line| later.lock().push(line)));
                return Ok(Self { child, base, log });
            }
        }
        let said = log.lock().join("\n");
        Err((child.wait().unwrap(), said))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said up to now.
    pub fn log(&self) -> String {
        self.log.lock().join("\n")
    }

    /// Ends it at once, as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager does; gives how that went.
    pub fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
