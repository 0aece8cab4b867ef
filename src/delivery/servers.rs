//! What other servers are told
//! ([transactions](https://spec.matrix.org/latest/server-server-api/#transactions)).
//!
//! The log `OUTGOING` has one row for each change, in the order of the stream, whatever the number of servers that it
//! concerns. [`run`] follows it, finds out which these are, and has a *line* for each that is to be told something: a
//! loop of `queue.rs`, which reads the log for itself (`transaction.rs`) and ends when it is at its end. So a server to
//! which nothing is to be said costs nothing.
//!
//! How far servers are is stored in two ways. A counter says up to where all servers have the log, but for those that
//! fail: a server that does not take a transaction gets a row in `UNREACHED_SERVERS`, with its own place, and the counter
//! goes on without it. When it has caught up, the row goes. After a kill the lines go on from there: what was sent, but
//! not yet noted, is sent again, and known by its event and message IDs.
//!
//! The log forgets. Beyond [`KEPT`] rows only the newest event of each room stays, those that stick to it, and each
//! user's keys; so a server that was away for long gets the newest event of each room and asks for what lies between.
//! Lines need not know the difference. Messages to devices stay until they arrive, in a queue for each server
//! (`users/to_servers.rs`).
//!
//! Invariants: a server is told of a room's events only if it was in the room when they happened, or they are about one
//! of its users; what a server will never take holds up nothing else; a server that fails is left alone, for longer and
//! longer, up to an hour in the first week and a day later, until it is heard of; an error of another server is nothing
//! that an administrator need read about.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use ring::digest;
use ruma::{
    OwnedServerName, OwnedTransactionId,
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::{Base64, Raw},
};
use serde_json::value::RawValue;
use tokio::{sync::broadcast::error::RecvError, time::MissedTickBehavior};

use super::{
    lines::Lines,
    queue::{Failures, Gate, Pace, Queue, Refusal, millis},
    transaction::{self, Transaction},
};
use crate::{
    clock,
    error::{Error, Result},
    federation::{Failure, Limits},
    ids::Position,
    rooms::{
        members,
        outbox::{DELIVERED, TRIMMED},
        servers, sticky,
    },
    server::Server,
    store::{
        Direction, Read,
        records::{Outgoing, UnreachedServer},
        trees,
    },
    users::to_servers,
};

/// How long a server that fails is left alone.
const PACE: Pace = Pace {
    first: Duration::from_secs(2),
    longest: Duration::from_secs(60 * 60),
    longest_later: Duration::from_secs(24 * 60 * 60),
};

/// How many transactions are in memory at a time: to servers that answer, to those that failed last or are still to be
/// found, and to those that take long. Each has about 64 KiB at most.
const GATE: (usize, usize, usize) = (128, 64, 1024);

/// How long a server may take, and how much it may answer.
const LIMITS: Limits = Limits { body: 256 * 1024, timeout: Duration::from_secs(60), redirects: 0 };

/// How many rows of the log are kept whole for servers that were away for a while.
const KEPT: usize = 5000;

/// How many rows are read or removed at a time.
const AT_ONCE: usize = 1000;

/// After how many milliseconds from the start the first server is tried that failed before it; the others follow, each
/// so much later.
const START_PACE: u64 = 200;

/// How often it is written down how far the servers are.
const SETTLE_EVERY: Duration = Duration::from_secs(2);

/// Tells other servers what they are to know, until the server stops.
pub async fn run(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let mut servers = match Servers::open(server) {
        Ok(servers) => servers,
        Err(error) => return tracing::error!("nothing can be sent to other servers: {error}"),
    };
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = servers.follow() => {}
    }
    servers.lines.shutdown().await;
    servers.settle();
}

/// The servers that are to be told something.
struct Servers {
    server: Arc<Server>,
    lines: Lines<OwnedServerName, Line>,
    /// Up to here the log was read, and lines made of it.
    read: Position,
    /// How many rows were read since the log was last trimmed.
    untrimmed: usize,
}

impl Servers {
    /// As they were left: a line for each server that failed.
    fn open(server: Arc<Server>) -> Result<Self> {
        let (unreached, read) = {
            let snapshot = server.store.read();
            let rows = trees::UNREACHED_SERVERS.scan(&snapshot, (), Direction::Forward).collect::<Result<Vec<_>>>()?;
            (rows, trees::COUNTERS.get(&snapshot, DELIVERED)?.unwrap_or(0))
        };
        let (live, failing, slow) = GATE;
        let mut lines = Lines::new(server.store.clone(), PACE, Gate::new(live, failing, slow));
        let now = clock::now_ms();
        for ((name, row), earliest) in unreached.into_iter().zip(start_times(now)) {
            let failures = row.failures.unwrap_or(Failures { since: earliest, count: 0, retry_at: earliest });
            let retry_at = (now + millis(PACE.rest(&failures))).max(earliest);
            let failures = Failures { retry_at, ..failures };
            lines.wake(&name, Some(failures), || Line::new(server.clone(), name.clone(), row.has, true));
        }
        Ok(Self { server, lines, read: Position(read), untrimmed: AT_ONCE })
    }

    /// Reads the log as it grows, and keeps the lines going. Does not return.
    async fn follow(&mut self) {
        let server = self.server.clone();
        let mut heard = server.federation.heard.subscribe();
        let mut abandoned = server.federation.abandoned.subscribe();
        let mut settle = tokio::time::interval(SETTLE_EVERY);
        settle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let more = server.store.hub().delivery();
            if let Err(error) = self.spread().await {
                tracing::error!("what other servers are to be told cannot be read: {error}");
            }
            tokio::select! {
                () = more => {}
                line = self.lines.ended() => {
                    if let Err(error) = line.caught_up() {
                        tracing::error!("that {} has caught up could not be noted: {error}", line.name);
                    }
                }
                name = heard.recv() => match name {
                    Ok(name) => self.heard_from(&name),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return, // the server holds it as long as it runs
                },
                name = abandoned.recv() => if let Ok(name) = name
                    && let Err(error) = self.give_up(&name)
                {
                    tracing::error!("what waits for {name} could not be given up: {error}");
                },
                _ = settle.tick() => self.settle(),
            }
        }
    }

    /// Wakes the lines of those whom what is new in the log concerns.
    async fn spread(&mut self) -> Result<()> {
        loop {
            let (server, after) = (self.server.clone(), self.read);
            // Who is in a user's rooms may take a while to find out.
            let work = tokio::task::spawn_blocking(move || concerned(&server, after));
            let News { until, rows, servers } = work.await.map_err(Error::internal)??;
            for name in servers {
                self.lines.wake(&name, None, || Line::new(self.server.clone(), name.clone(), after, false));
            }
            self.read = until;
            self.untrimmed += rows;
            if rows < AT_ONCE {
                return Ok(());
            }
        }
    }

    /// A server that sends us something can be reached again, very likely.
    fn heard_from(&self, name: &OwnedServerName) {
        if self.lines.get(name).is_some_and(|line| line.failing.load(Relaxed)) {
            self.lines.retry(name);
        }
    }

    /// From now on a server counts as having the whole log.
    fn give_up(&self, name: &OwnedServerName) -> Result<()> {
        let Some(line) = self.lines.get(name) else { return Ok(()) };
        line.has.fetch_max(self.server.store.read().position()?.0, Relaxed);
        self.lines.retry(name);
        Ok(())
    }

    /// Writes down how far all servers are, and trims the log.
    fn settle(&mut self) {
        let behind = self.lines.queues().filter(|line| !line.unreached.load(Relaxed));
        let delivered = behind.map(|line| line.has.load(Relaxed)).fold(self.read.0, u64::min);
        let trim = self.untrimmed >= AT_ONCE;
        match settle(&self.server, Position(delivered), trim) {
            Ok(()) if trim => self.untrimmed = 0,
            Ok(()) => {}
            Err(error) => tracing::error!("how far other servers are could not be noted: {error}"),
        }
    }
}

/// When servers that failed before the start, which was at `now`, are tried at the earliest, one after the other.
fn start_times(now: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |number| now + number * START_PACE)
}

/// What is new in the log.
struct News {
    until: Position,
    rows: usize,
    /// The servers that it concerns.
    servers: BTreeSet<OwnedServerName>,
}

/// Whom the next rows of the log concern.
fn concerned(server: &Server, after: Position) -> Result<News> {
    let read = server.store.read();
    let mut news = News { until: after, rows: 0, servers: BTreeSet::new() };
    let (mut rooms, mut users) = (BTreeSet::new(), BTreeSet::new());
    for row in trees::OUTGOING.scan_after(&read, (), after).take(AT_ONCE) {
        let (position, change) = row?;
        (news.until, news.rows) = (position, news.rows + 1);
        match change {
            Outgoing::Event { room, target, .. } => {
                rooms.insert(room);
                news.servers.extend(target);
            }
            Outgoing::Typing { room, .. } | Outgoing::Receipt { room, .. } | Outgoing::Devices { room, .. } => {
                rooms.insert(room);
            }
            Outgoing::Presence { user } | Outgoing::Keys { user, .. } => {
                users.insert(user);
            }
            Outgoing::ToDevice { server } | Outgoing::Sticky { server, .. } => {
                news.servers.insert(server);
            }
        }
    }
    for user in users {
        rooms.extend(members::joined_rooms(&read, &user)?);
    }
    for room in rooms {
        for row in servers::joined(&read, room) {
            news.servers.insert(row?.0);
        }
    }
    news.servers.retain(|name| name != server.name() && server.federation.admits(name));
    Ok(news)
}

/// Notes that all servers but those that fail have the log up to `delivered`, and lets go of what nobody needs.
fn settle(server: &Server, delivered: Position, trim: bool) -> Result<()> {
    let read = server.store.read();
    if trees::COUNTERS.get(&read, DELIVERED)? != Some(delivered.0) {
        server.store.write(|tx| {
            trees::COUNTERS.put(tx, DELIVERED, &delivered.0);
            Ok(())
        })?;
    }
    if !trim {
        return Ok(());
    }
    let kept = trees::OUTGOING.scan(&read, (), Direction::Backward).nth(KEPT).transpose()?;
    let Some((end, _)) = kept else { return Ok(()) };
    let end = end.min(delivered);
    let mut from = Position(trees::COUNTERS.get(&read, TRIMMED)?.unwrap_or(0));
    while from < end {
        from = server.store.write(|tx| {
            let rows = trees::OUTGOING.scan_after(tx, (), from).take(AT_ONCE).collect::<Result<Vec<_>>>()?;
            let next = if rows.len() < AT_ONCE { end } else { rows.last().map_or(end, |(last, _)| *last).min(end) };
            for (position, change) in rows.iter().filter(|(position, _)| *position <= end) {
                if !stays(tx, *position, change)? {
                    trees::OUTGOING.delete(tx, *position);
                }
            }
            trees::COUNTERS.put(tx, TRIMMED, &next.0);
            Ok(next)
        })?;
    }
    Ok(())
}

/// Whether a row stays for servers that were away for long.
fn stays(read: &dyn Read, position: Position, change: &Outgoing) -> Result<bool> {
    match change {
        Outgoing::Event { room, .. } => {
            Ok(trees::OUTGOING_LATEST.get(read, *room)? == Some(position) || sticky::is_noted(read, *room, position)?)
        }
        Outgoing::Keys { .. } => Ok(true),
        _ => Ok(false),
    }
}

/// What is sent to one server.
struct Line {
    server: Arc<Server>,
    name: OwnedServerName,
    /// Up to where the server has the log.
    has: AtomicU64,
    /// Whether it has a row in `UNREACHED_SERVERS`.
    unreached: AtomicBool,
    /// Whether it did not take the last transaction.
    failing: AtomicBool,
}

impl Line {
    fn new(server: Arc<Server>, name: OwnedServerName, has: Position, unreached: bool) -> Self {
        Self {
            server,
            name,
            has: AtomicU64::new(has.0),
            unreached: AtomicBool::new(unreached),
            failing: AtomicBool::new(unreached),
        }
    }

    /// Sends a transaction of this.
    async fn offer(&self, pdus: &[Box<RawValue>], edus: &[Raw<Edu>]) -> Result<(), Failure> {
        let server = &self.server;
        let mut request =
            send_transaction_message::v1::Request::new(id(pdus, edus), server.name().to_owned(), clock::now());
        (request.pdus, request.edus) = (pdus.to_vec(), edus.to_vec());
        match server.federation.exchange(&self.name, request, LIMITS).await {
            Ok(response) => {
                for (event, result) in &response.pdus {
                    if let Err(why) = result {
                        tracing::debug!(server = %self.name, %event, why, "a server did not take an event");
                    }
                }
                Ok(())
            }
            // Nothing is sent to servers that the administrator has excluded since.
            Err(Failure::Denied) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The server is where all others are.
    fn caught_up(&self) -> Result<()> {
        if self.unreached.load(Relaxed) {
            self.server.store.write(|tx| {
                trees::UNREACHED_SERVERS.delete(tx, &self.name);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Queue for Line {
    type Batch = Transaction;

    fn next(&self) -> Result<Option<Transaction>> {
        let read = self.server.store.read();
        loop {
            let has = Position(self.has.load(Relaxed));
            let transaction = transaction::next(&read, &self.server, &self.name, has)?;
            if !transaction.is_empty() {
                return Ok(Some(transaction));
            }
            if transaction.until > has {
                self.has.fetch_max(transaction.until.0, Relaxed);
                continue;
            }
            self.has.fetch_max(read.position()?.0, Relaxed);
            return Ok(None);
        }
    }

    /// In a room of thousands of servers, nobody is to wait for names to be looked up but those who have them.
    fn is_doubtful(&self) -> bool {
        !self.server.federation.knows_way_to(&self.name)
    }

    /// What a server refuses as a whole, it gets in ever smaller parts; what it refuses alone, it will never take. But who
    /// takes none of several parts does not refuse them for what is in them.
    async fn send(&self, transaction: &Transaction) -> Result<(), Refusal> {
        let mut parts = vec![(&transaction.pdus[..], &transaction.edus[..])];
        let (mut is_first, mut took_any) = (true, transaction.pdus.len() + transaction.edus.len() <= 1);
        while let Some((pdus, edus)) = parts.pop() {
            let Err(failure) = self.offer(pdus, edus).await else {
                took_any = true;
                continue;
            };
            // A server that refuses even nothing does not refuse it for what is in it.
            if !is_of_contents(&failure) || (mem::take(&mut is_first) && self.offer(&[], &[]).await.is_err()) {
                return Err(Refusal::new(failure.to_string()));
            }
            match (pdus.len(), edus.len()) {
                (0 | 1, 0) | (0, 1) => tracing::debug!(server = %self.name, %failure, "a server takes no such thing"),
                (0, many) => parts.extend(edus.chunks(many.div_ceil(2)).rev().map(|half| (pdus, half))),
                (many, 0) => parts.extend(pdus.chunks(many.div_ceil(2)).rev().map(|half| (half, edus))),
                _ => parts.extend([(pdus, &[][..]), (&[][..], edus)]),
            }
        }
        if took_any { Ok(()) } else { Err(Refusal::new("it refused everything, one by one")) }
    }

    fn sent(&self, transaction: Transaction) -> Result<()> {
        // Never back: it may have been given up meanwhile.
        let has = Position(self.has.fetch_max(transaction.until.0, Relaxed)).max(transaction.until);
        let unreached = self.unreached.load(Relaxed);
        if unreached || !transaction.to_device.is_empty() {
            self.server.store.write(|tx| {
                if unreached {
                    let row = UnreachedServer { has, failures: None, why: String::new() };
                    trees::UNREACHED_SERVERS.put(tx, &self.name, &row);
                }
                to_servers::delivered(tx, &self.name, &transaction.to_device)
            })?;
        }
        self.failing.store(false, Relaxed);
        Ok(())
    }

    fn failed(&self, failures: &Failures, why: &str) -> Result<()> {
        tracing::debug!(server = %self.name, why, "a server did not take a transaction");
        self.server.store.write(|tx| {
            let has = Position(self.has.load(Relaxed));
            let row = UnreachedServer { has, failures: Some(failures.clone()), why: why.to_owned() };
            trees::UNREACHED_SERVERS.put(tx, &self.name, &row);
            Ok(())
        })?;
        self.unreached.store(true, Relaxed);
        self.failing.store(true, Relaxed);
        Ok(())
    }
}

/// Whether a server may refuse a transaction for what is in it, so that it is of no use to send it again.
fn is_of_contents(failure: &Failure) -> bool {
    matches!(failure, Failure::Status { status: StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, .. })
}

/// The ID of a transaction follows from what it says, so that one that is sent again, unchanged, is known. One that says
/// nothing has another each time: it asks how things stand now.
fn id(pdus: &[Box<RawValue>], edus: &[Raw<Edu>]) -> OwnedTransactionId {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in pdus.iter().map(|pdu| pdu.get()).chain(edus.iter().map(|edu| edu.json().get())) {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    if pdus.is_empty() && edus.is_empty() {
        hash.update(&clock::random_bytes::<16>().unwrap_or_default());
    }
    let hash: Base64<ruma::serde::base64::UrlSafe, _> = Base64::new(hash.finish().as_ref().to_vec());
    hash.encode().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_start_five_servers_a_second_are_tried() {
        let times: Vec<_> = start_times(1_000).take(100).collect();
        assert!(times.windows(6).all(|window| window[5] - window[0] >= 1_000), "{times:?}");
        assert!(times[0] > 1_000);
    }

    #[test]
    fn who_fails_is_tried_each_hour_for_a_week_and_each_day_later() {
        let wait = |days: u64| {
            let failures = Failures { since: 0, count: u32::MAX, retry_at: 0 };
            PACE.wait(&failures, days * 24 * 3_600_000).as_secs()
        };
        assert_eq!([0, 1, 6].map(wait), [3_600; 3]);
        assert_eq!([7, 100].map(wait), [24 * 3_600; 2]);
    }
}
