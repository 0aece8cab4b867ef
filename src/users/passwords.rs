//! Passwords: argon2id with 19 MiB, two passes, one lane (the first choice of OWASP's table).
//!
//! A hash costs some 16 ms of a core and 19 MiB. So at most one per core is computed at a time, on the blocking pool,
//! where it delays no other request; a bounded number wait, the rest are told to come back. The 19 MiB are kept from
//! one hash to the next while there is traffic, since clearing fresh memory costs an eighth of the whole.
//!
//! An unknown user costs as much time as a wrong password, so that the time tells nothing.

use std::{
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Ident, Output, ParamsString, Salt},
};
use http::StatusCode;
use parking_lot::Mutex;
use ring::digest;
use ruma::{OwnedUserId, api::error::ErrorKind};
use tokio::sync::Semaphore;

use super::tokens;
use crate::{
    clock,
    error::{Error, Result},
    http::limits::{Class, Limits},
    store::records::Account,
};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// How many may wait for their turn.
const MAX_WAITING: usize = 512;

/// The longest password, in bytes.
const MAX_LENGTH: usize = 1024;

/// How long memory is kept after the last hash.
const KEEP_MEMORY: Duration = Duration::from_secs(5);

/// The hashing of passwords, shared by all who need it.
pub struct Passwords {
    turns: Arc<Semaphore>,
    queue: Semaphore,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    free: Vec<Vec<Block>>,
    last_used: Option<Instant>,
    sweeping: bool,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            turns: Arc::new(Semaphore::new(cores)),
            queue: Semaphore::new(cores + MAX_WAITING),
            memory: Arc::default(),
        }
    }
}

impl Passwords {
    /// The hash of a new password, in PHC form.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` when too many wait.
    pub async fn hash(&self, password: String) -> Result<String> {
        let salt = clock::random_bytes::<16>()?;
        self.run(move |memory| {
            let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(Error::internal)?;
            let output = compute(&password, &salt, &params, Algorithm::Argon2id, Version::V0x13, 32, memory)?;
            let hash = PasswordHash {
                algorithm: Ident::new(Algorithm::Argon2id.as_str()).map_err(Error::internal)?,
                version: Some(Version::V0x13.into()),
                params: ParamsString::try_from(&params).map_err(Error::internal)?,
                salt: Some(Salt::new(&salt).map_err(Error::internal)?),
                hash: Some(Output::new(&output).map_err(Error::internal)?),
            };
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether `password` is the one behind `hash`. Without a hash it is not, and that takes the same time.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` when too many wait; when the hash is none.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        self.run(move |memory| {
            let Some(hash) = hash else {
                let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(Error::internal)?;
                compute(&password, &[0; 16], &params, Algorithm::Argon2id, Version::V0x13, 32, memory)?;
                return Ok(false);
            };
            let hash = PasswordHash::new(&hash).map_err(Error::internal)?;
            let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Ok(false) };
            let params = Params::try_from(&hash).map_err(Error::internal)?;
            let algorithm = Algorithm::try_from(hash.algorithm.as_str()).map_err(Error::internal)?;
            let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).map_err(Error::internal)?;
            let output = compute(&password, &salt, &params, algorithm, version, expected.len(), memory)?;
            Ok(same(&output, expected.as_bytes()))
        })
        .await
    }

    /// Checks the password of somebody who logs in or confirms something; gives whose it is. A user who does not exist
    /// costs the same time as a wrong password.
    ///
    /// # Errors
    /// 401 `M_FORBIDDEN` if it is wrong, `M_USER_LOCKED` if the account is; 429 `M_LIMIT_EXCEEDED` when too many log in.
    pub async fn log_in(
        &self,
        limits: &Limits,
        account: Option<(OwnedUserId, Account)>,
        password: &str,
    ) -> Result<OwnedUserId> {
        let (user, account) = account.unzip();
        if let Some(user) = &user {
            // Whoever guesses from many addresses guesses no faster.
            limits.take(Class::Login, user.as_str())?;
        }
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let right = self.verify(password.to_owned(), hash).await?;
        match (user, account) {
            (Some(_), Some(account)) if right && !account.deactivated && account.locked => Err(tokens::locked()),
            (Some(user), Some(account)) if right && !account.deactivated => Ok(user),
            _ => {
                let message = "The user name or the password is wrong.";
                Err(Error::new(StatusCode::UNAUTHORIZED, ErrorKind::Forbidden, message))
            }
        }
    }

    /// Runs `work` when it is its turn. It runs to its end even if the caller goes away, and keeps its turn that long.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Vec<Block>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = self.queue.try_acquire().map_err(|_| Error::limit_exceeded(Duration::from_secs(2)))?;
        let turn = self.turns.clone().acquire_owned().await.map_err(Error::internal)?;
        let shared = self.memory.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut memory = shared.lock().free.pop().unwrap_or_default();
            let result = work(&mut memory);
            let mut shared = shared.lock();
            shared.free.push(memory);
            shared.last_used = Some(clock::instant());
            drop(turn);
            result
        });
        let result = task.await.map_err(Error::internal)?;
        self.sweep_later();
        result
    }

    /// Gives the memory back once nobody has needed it for a while.
    fn sweep_later(&self) {
        if std::mem::replace(&mut self.memory.lock().sweeping, true) {
            return;
        }
        let shared = self.memory.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_MEMORY).await;
                let mut memory = shared.lock();
                if memory.last_used.is_none_or(|last| last.elapsed() >= KEEP_MEMORY) {
                    memory.free.clear();
                    memory.sweeping = false;
                    return;
                }
            }
        });
    }
}

/// Checks that `password` may be somebody's new password.
///
/// # Errors
/// 400 `M_WEAK_PASSWORD` if it has fewer than `min_length` characters; 400 `M_INVALID_PARAM` if it is absurdly long.
pub fn check_new(password: &str, min_length: u32) -> Result<()> {
    if password.chars().count() < min_length as usize {
        let message = format!("A password needs at least {min_length} characters.");
        return Err(Error::bad_request(ErrorKind::WeakPassword, message));
    }
    if password.len() > MAX_LENGTH {
        return Err(Error::invalid_param(format!("A password must not be longer than {MAX_LENGTH} bytes.")));
    }
    Ok(())
}

fn compute(
    password: &str,
    salt: &[u8],
    params: &Params,
    algorithm: Algorithm,
    version: Version,
    length: usize,
    memory: &mut Vec<Block>,
) -> Result<Vec<u8>> {
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::default());
    }
    let mut output = vec![0; length];
    Argon2::new(algorithm, version, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, memory.as_mut_slice())
        .map_err(Error::internal)?;
    Ok(output)
}

/// Compares digests of the two, so that the time says nothing about how much of one was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    digest::digest(&digest::SHA256, a).as_ref() == digest::digest(&digest::SHA256, b).as_ref()
}
