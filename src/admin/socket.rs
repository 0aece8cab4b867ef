//! The socket beside the database on which `conduit admin` reaches the running server.
//!
//! A connection carries one command and one answer, each a line of JSON. Whoever may open the socket's file may
//! command: its folder is the database's, which nobody else reads, and its own permissions say so again. Where unix
//! sockets are forbidden (as by the NixOS module), the server goes without.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::{Command, Format, told};
use crate::server::Server;

/// The largest command, in bytes.
const MAX_COMMAND: u64 = 64 * 1024;

/// How many commands are attended to at the same time.
const MAX_COMMANDS: usize = 16;

/// How long a command may take to arrive, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server is asked: a command, and how the answer is to be written.
#[derive(Serialize, Deserialize)]
struct Question {
    command: Command,
    #[serde(default)]
    format: Format,
}

/// What the server answers: what came of it, or what went wrong.
#[derive(Serialize, Deserialize)]
struct Reply {
    done: Option<String>,
    failed: Option<String>,
}

/// Where the socket is.
pub fn path(database_path: &Path) -> PathBuf {
    database_path.join("admin.sock")
}

/// Takes commands until dropped, each by itself: whoever is slow to ask or to listen holds up nobody else. Returns at once where there can be no such socket.
pub async fn serve(server: &Arc<Server>) {
    let path = path(&server.config().database_path);
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::debug!("conduit admin cannot reach this server: {}: {error}", path.display());
            return std::future::pending().await;
        }
    };
    let mut commands = JoinSet::new();
    loop {
        while commands.try_join_next().is_some() {}
        if commands.len() >= MAX_COMMANDS {
            commands.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(commands.spawn(attend(Arc::clone(server), stream))),
            Err(error) => {
                tracing::debug!("conduit admin cannot reach this server: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await; // a broken listener must not spin
            }
        }
    }
}

/// Does what a connection asks for, and answers.
async fn attend(server: Arc<Server>, stream: UnixStream) {
    let (question, mut stream) = match timeout(PATIENCE, read(stream)).await.map_err(io::Error::from) {
        Ok(Ok(arrived)) => arrived,
        Ok(Err(error)) | Err(error) => return tracing::debug!("a command did not arrive: {error}"),
    };
    let line = answer(&server, question).await;
    if let Ok(Err(error)) | Err(error) = timeout(PATIENCE, stream.write_all(&line)).await.map_err(io::Error::from) {
        tracing::debug!("nobody waits for the answer of a command: {error}");
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn read(stream: UnixStream) -> io::Result<(Question, UnixStream)> {
    let mut reader = AsyncBufReader::new(stream.take(MAX_COMMAND));
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    Ok((serde_json::from_str(&line)?, reader.into_inner().into_inner()))
}

async fn answer(server: &Server, Question { command, format }: Question) -> Vec<u8> {
    let result = match Box::pin(command.run(server, None)).await {
        Ok(answer) => server.store.durable().await.map(|()| answer),
        Err(error) => Err(error),
    };
    let reply = match result {
        Ok(answer) => Reply { done: Some(answer.written(format)), failed: None },
        Err(error) => Reply { done: None, failed: Some(told(&error)) },
    };
    serde_json::to_vec(&reply).unwrap_or_default()
}

/// Has the running server over `database_path` do a command; gives its answer.
///
/// # Errors
/// What to tell who asked.
pub fn ask(database_path: &Path, command: Command, format: Format) -> Result<String, String> {
    let path = path(database_path);
    let unreachable = |error: io::Error| {
        let shown = path.display();
        format!("cannot reach the server through {shown} ({error}). Is it running, and may you open this file?")
    };
    let mut stream = BlockingStream::connect(&path).map_err(unreachable)?;
    let question = serde_json::to_string(&Question { command, format }).map_err(|error| error.to_string())?;
    writeln!(stream, "{question}").map_err(unreachable)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(unreachable)?;
    let reply: Reply = serde_json::from_str(&line).map_err(|error| unreachable(error.into()))?;
    match reply {
        Reply { done: Some(answer), .. } => Ok(answer),
        Reply { failed, .. } => Err(failed.unwrap_or_default()),
    }
}
