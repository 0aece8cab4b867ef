//! The real program as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// The program, serving. It dies with the test.
pub struct Process {
    child: Child,
    /// Where it answers.
    pub base: String,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// The command that serves over the configuration that [`config`](super::config) wrote into `directory`.
pub fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conduit"));
    // It is for the tests; the program would warn of it.
    command.env_remove("CONDUIT_BLESS");
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
                let reader = std::thread::spawn(move || lines.for_each(|line| later.lock().push(line)));
                return Ok(Self { child, base, log, reader: Some(reader) });
            }
        }
        let said = log.lock().join("\n");
        Err((child.wait().unwrap(), said))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns when it has said something with these words.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn wait_for_log(&self, words: &str) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !self.log.lock().iter().any(|line| line.contains(words)) {
            assert!(Instant::now() < patience, "it does not say {words:?}:\n{}", self.log.lock().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends; gives how it did, and all that it said.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        // What it said last may still lie in the pipe.
        self.reader.take().unwrap().join().unwrap();
        (status, self.log.lock().join("\n"))
    }

    /// Ends it as a service manager does; gives all that it said.
    ///
    /// # Panics
    /// When it does not call that a success.
    pub fn terminate(self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let (status, log) = self.wait();
        assert!(status.success(), "{status}\n{log}");
        log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
