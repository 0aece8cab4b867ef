//! Application services: programs beside the server, such as bridges, that act for the users of namespaces of their own
//! ([spec](https://spec.matrix.org/latest/application-service-api/)).
//!
//! This is who is registered and what is whose. Registrations come from files that the configuration names and from the
//! database, where administrators put more while the server runs. One that is wrong is left out and reported.
//!
//! Elsewhere: who acts as whom (`api/auth.rs`), requests to application services (`outgoing/appservices.rs`), what they
//! are told and when (`delivery/appservices.rs`).

pub mod namespaces;
pub mod registration;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedServerName, RoomAliasId, ServerName, UserId, api::error::ErrorKind};
use tokio::sync::watch;

pub use self::registration::{EphemeralName, Registration};
use crate::{
    error::{Error, Result},
    store::{
        Direction, Store,
        trees::{APPSERVICE_PROGRESS, APPSERVICE_TRANSACTIONS, APPSERVICES},
    },
};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// All application services.
pub struct Appservices {
    server_name: OwnedServerName,
    registered: watch::Sender<Arc<Registered>>,
    changing: Mutex<()>,
}

/// Who is registered at one time.
#[derive(Debug, Default)]
pub struct Registered {
    all: Vec<Arc<Registration>>,
    by_token: HashMap<Vec<u8>, Arc<Registration>>,
}

impl Appservices {
    /// These, of the server of that name.
    pub fn new(registered: Registered, server_name: &ServerName) -> Self {
        let registered = watch::Sender::new(Arc::new(registered));
        Self { server_name: server_name.to_owned(), registered, changing: Mutex::default() }
    }

    /// Keeps everybody else from registering or removing any for as long as it is held.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Goes on with these, which were read while it was [held](Self::hold).
    pub fn set(&self, registered: Registered) {
        self.registered.send_replace(Arc::new(registered));
    }

    /// Who is registered now.
    pub fn all(&self) -> Vec<Arc<Registration>> {
        self.registered.borrow().all.clone()
    }

    /// Whether nobody is registered.
    pub fn none(&self) -> bool {
        self.registered.borrow().all.is_empty()
    }

    /// Hears of changes of who is registered.
    pub fn changes(&self) -> watch::Receiver<Arc<Registered>> {
        self.registered.subscribe()
    }

    /// Whose the token is.
    pub fn by_token(&self, token: &str) -> Option<Arc<Registration>> {
        let registered = self.registered.borrow();
        // Most servers have none, and most requests are not theirs: no need for a digest then.
        if registered.all.is_empty() {
            return None;
        }
        registered.by_token.get(&digest(token)).cloned()
    }

    /// Checks that `by`, an application service or (none) anybody else, may make the user.
    ///
    /// # Errors
    /// 400 `M_EXCLUSIVE` when the user is another's, or outside of the namespaces of `by`.
    pub fn check_user(&self, user: &UserId, by: Option<&Registration>) -> Result<()> {
        if by.is_some_and(|by| !by.has_user(user)) {
            return Err(exclusive(format!("{user} is not in the namespaces of this application service.")));
        }
        self.check(by, |other| other.owns_user(user), "This user name is reserved for an application service.")
    }

    /// Checks that `by`, an application service or (none) anybody else, may make the alias.
    ///
    /// # Errors
    /// 400 `M_EXCLUSIVE` when the alias is another's, or outside of the namespaces of `by`.
    pub fn check_alias(&self, alias: &RoomAliasId, by: Option<&Registration>) -> Result<()> {
        if by.is_some_and(|by| !by.has_alias(alias)) {
            return Err(exclusive(format!("{alias} is not in the namespaces of this application service.")));
        }
        self.check(by, |other| other.owns_alias(alias), "This alias is reserved for an application service.")
    }

    fn check(&self, by: Option<&Registration>, owns: impl Fn(&Registration) -> bool, message: &str) -> Result<()> {
        let is_by = |other: &Registration| by.is_some_and(|by| by.id == other.id);
        if self.registered.borrow().all.iter().any(|other| owns(other) && !is_by(other)) {
            return Err(exclusive(message));
        }
        Ok(())
    }

    /// Registers one more, to be there after a restart as well; in place of one of the same `id` that was registered so.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` with what is wrong with it.
    pub fn add(&self, store: &Store, yaml: &str) -> Result<Arc<Registration>> {
        let _held = self.hold();
        let registration = Registration::parse(yaml, &self.server_name).map_err(Error::invalid_param)?;
        let id = registration.id.clone();
        let replaces = APPSERVICES.contains(&store.read(), &id)?;
        let mut registered = if replaces { self.without(&id) } else { self.registered.borrow().copy() };
        registered.add(registration).map_err(Error::invalid_param)?;
        store.write(|tx| {
            APPSERVICES.put(tx, &id, &yaml.to_owned());
            Ok(())
        })?;
        let added = registered.all.last().cloned();
        self.registered.send_replace(Arc::new(registered));
        added.ok_or_else(|| Error::internal("a registration that was added is not there"))
    }

    /// Ends what [`add`](Self::add) registered, with all that still waits for it.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when nothing of this `id` was registered so.
    pub fn remove(&self, store: &Store, id: &str) -> Result<()> {
        let _held = self.hold();
        store.write(|tx| {
            if !APPSERVICES.contains(tx, id)? {
                let message = format!("No application service {id} was registered while the server ran.");
                return Err(Error::not_found(message));
            }
            APPSERVICES.delete(tx, id);
            APPSERVICE_PROGRESS.delete(tx, id);
            APPSERVICE_TRANSACTIONS.delete(tx, id);
            Ok(())
        })?;
        self.registered.send_replace(Arc::new(self.without(id)));
        Ok(())
    }

    fn without(&self, id: &str) -> Registered {
        let mut registered = self.registered.borrow().copy();
        registered.all.retain(|other| other.id != id);
        registered.by_token.retain(|_, other| other.id != id);
        registered
    }
}

impl Registered {
    /// Those of the files at `paths` (a folder stands for the files in it) and of the database. Gives a sentence for
    /// each that is left out as well.
    ///
    /// # Errors
    /// When the database fails.
    pub fn read(paths: &[PathBuf], store: &Store, server_name: &ServerName) -> Result<(Self, Vec<String>)> {
        let (mut registered, mut problems) = (Self::default(), Vec::new());
        let mut add = |source: String, yaml: Result<String, String>| {
            let added = yaml.and_then(|yaml| Registration::parse(&yaml, server_name));
            if let Err(problem) = added.and_then(|registration| registered.add(registration)) {
                problems.push(format!("the application service of {source} cannot be used: {problem}"));
            }
        };
        for file in paths.iter().flat_map(|path| files(path)) {
            add(file.display().to_string(), read_file(&file));
        }
        let read = store.read();
        for row in APPSERVICES.scan(&read, (), Direction::Forward) {
            let (id, yaml) = row?;
            add(format!("the database, called {id},"), Ok(yaml));
        }
        Ok((registered, problems))
    }

    /// Everyone, in the order in which they were found.
    pub fn all(&self) -> &[Arc<Registration>] {
        &self.all
    }

    fn copy(&self) -> Self {
        Self { all: self.all.clone(), by_token: self.by_token.clone() }
    }

    /// "each `as_token` and `id` MUST be unique per application service".
    fn add(&mut self, registration: Registration) -> Result<(), String> {
        let token = digest(registration.as_token.expose());
        if self.all.iter().any(|other| other.id == registration.id) {
            return Err(format!("there is another with the id {:?}", registration.id));
        }
        if let Some(other) = self.by_token.get(&token) {
            return Err(format!("its as_token is that of {:?}", other.id));
        }
        let registration = Arc::new(registration);
        self.by_token.insert(token, registration.clone());
        self.all.push(registration);
        Ok(())
    }
}

/// What a token is looked up by: nobody can find out by trying how much of one is right.
fn digest(token: &str) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

fn exclusive(message: impl Into<String>) -> Error {
    Error::bad_request(ErrorKind::Exclusive, message)
}

/// The file at `path`, or the YAML files in the folder at `path`, in the order of their names.
fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return vec![path.to_owned()] };
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_yaml).collect();
    files.sort();
    files
}

fn read_file(path: &Path) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("the file has {size} bytes"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}
