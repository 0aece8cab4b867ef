//! Users of this server join rooms of other servers
//! ([Joining rooms](https://spec.matrix.org/latest/server-server-api/#joining-rooms)).
//!
//! A join of a large room takes long, longer than clients or the proxies between wait. So it is a task of its own that
//! ends only with its outcome or with the server, and whoever asks for the same again waits for the same task
//! ([`Moves`]). It asks one server after the other until one lets the user in.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use parking_lot::Mutex;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomOrAliasId, RoomVersionId, ServerName, UserId,
    api::{
        error::ErrorKind,
        federation::membership::{create_join_event::v2 as send, prepare_join_event::v1 as make},
    },
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{Failure, Federation, Limits, directory, fetch::Fetch, inbound, policy, send_join};
use crate::{
    error::{Error, Reason, Result},
    rooms::{
        self, Signed, blocks,
        import::Import,
        members,
        membership::{self, Content},
        servers,
        template::{self, Wanted},
    },
    store::{Read, trees::DEPARTURES},
};

/// How many servers are asked for one join.
const MAX_CANDIDATES: usize = 12;

/// How long a server may take to make a template.
const MAKE: Limits = Limits { body: 1024 * 1024, timeout: Duration::from_secs(20), redirects: 0 };

/// How large the answer to a join may be, and how long the other server may take to begin it: the largest rooms have some
/// 100,000 events of state, and busy servers take minutes.
const SEND: Limits = Limits { body: 512 * 1024 * 1024, timeout: Duration::from_secs(300), redirects: 0 };

/// The room versions that this server knows.
pub(super) fn versions() -> Vec<RoomVersionId> {
    (1..=12).filter_map(|version: u8| RoomVersionId::try_from(version.to_string()).ok()).collect()
}

/// The joins that are under way, and other moves that must not meet one: one at a time for each room.
#[derive(Default)]
pub struct Moves {
    running: Mutex<HashMap<OwnedRoomId, Running>>,
}

impl Moves {
    /// Waits until nobody moves in or out of the room who does so now.
    pub(super) async fn ended(&self, room: &RoomId) {
        let running = self.running.lock().get(room).map(|(_, outcome)| outcome.clone());
        if let Some(mut outcome) = running {
            drop(outcome.wait_for(Option::is_some).await);
        }
    }
}

/// Who moves, and how it ended once it did.
type Running = (OwnedUserId, watch::Receiver<Option<Arc<Result<()>>>>);

/// The right to move in or out of a room; ends when dropped, and only then others hear of the outcome.
pub(super) struct Turn {
    federation: Arc<Federation>,
    room: OwnedRoomId,
    outcome: Option<Arc<Result<()>>>,
    told: watch::Sender<Option<Arc<Result<()>>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.federation.moves.running.lock().remove(&self.room);
        self.told.send_replace(self.outcome.take());
    }
}

/// What [`take_turn`] gives.
pub(super) enum Turns {
    /// It is one's own turn.
    Mine(Turn),
    /// Somebody else has it.
    Of(Running),
}

/// Takes the room's turn, if nobody has it.
pub(super) fn take_turn(federation: &Arc<Federation>, room: &RoomId, user: &UserId) -> Turns {
    let mut running = federation.moves.running.lock();
    if let Some(running) = running.get(room) {
        return Turns::Of(running.clone());
    }
    let (told, receiver) = watch::channel(None);
    running.insert(room.to_owned(), (user.to_owned(), receiver));
    Turns::Mine(Turn { federation: federation.clone(), room: room.to_owned(), outcome: None, told })
}

/// Joins `user` to a room, through other servers if this one is not in it or may not let the user in. A user who is
/// joined already stays so. `via` are servers to try first; `content` goes into the member event, but cannot say what
/// the server says.
///
/// # Errors
/// Those of [`membership::join`]; what the last of the other servers that knew the room said; 404 `M_NOT_FOUND` when
/// there is none to ask, 502 or 504 when none answers as it should.
pub async fn join(
    federation: &Arc<Federation>,
    room: &RoomId,
    user: &UserId,
    via: Vec<OwnedServerName>,
    content: Content,
) -> Result<()> {
    blocks::check(&federation.rooms.store.read(), room)?;
    loop {
        let refusal = match here(federation, room, user, content.clone()).await {
            Err(error) if others_may_know(&error) => error,
            done => return done,
        };
        let (of, mut outcome) = match take_turn(federation, room, user) {
            Turns::Of(running) => running,
            Turns::Mine(turn) => {
                let candidates = candidates(federation, &federation.rooms.store.read(), room, user, &via)?;
                if candidates.is_empty() {
                    return Err(final_refusal(refusal));
                }
                let outcome = turn.told.subscribe();
                let (room, user, content) = (room.to_owned(), user.to_owned(), content.clone());
                tokio::spawn(Joining { turn, room, user: user.clone(), content, candidates }.run());
                (user, outcome)
            }
        };
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        // Somebody else's join may have brought this server into the room, or not; a departure says nothing.
        if of == user
            && let Some(outcome) = ended
        {
            return match &*outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(again(error)),
            };
        }
    }
}

/// [`join`] for a room that an ID or an alias names; gives its ID.
///
/// # Errors
/// As there; 404 `M_NOT_FOUND` when there is no such alias.
pub async fn join_by_name(federation: &Arc<Federation>, name: &RoomOrAliasId, user: &UserId) -> Result<OwnedRoomId> {
    let (room, via) = match <&RoomId>::try_from(name) {
        Ok(id) => (id.to_owned(), Vec::new()),
        Err(alias) => {
            let located = directory::locate(federation, alias).await?;
            (located.room_id, located.servers)
        }
    };
    join(federation, &room, user, via, Content::new()).await?;
    Ok(room)
}

/// The join without other servers. While members are missing, the user may be banned and this server not know it.
async fn here(federation: &Federation, room: &RoomId, user: &UserId, content: Content) -> Result<()> {
    let (is_resident, is_unsure) = {
        let read = federation.rooms.store.read();
        let is_unsure = match rooms::find(&read, room)? {
            Some(no) => rooms::get(&read, no)?.partial.is_some() && !members::is_joined(&read, no, user)?,
            None => false,
        };
        (is_resident(&read, room)?, is_unsure)
    };
    if !is_resident || is_unsure {
        return Err(Error::not_found("No server that is in this room can be found."));
    }
    policy::send_if(federation, room, user, |read, no, room| membership::join(read, no, room, user, content)).await
}

fn others_may_know(error: &Error) -> bool {
    let Reason::Matrix { kind, .. } = error.reason() else { return false };
    matches!(kind, ErrorKind::NotFound | ErrorKind::UnableToAuthorizeJoin | ErrorKind::UnableToGrantJoin)
}

/// What a client is told where there is no other server to ask.
fn final_refusal(error: Error) -> Error {
    match error.reason() {
        Reason::Matrix { kind: ErrorKind::NotFound, .. } => error,
        Reason::Matrix { message, .. } => Error::forbidden(message.clone()),
        _ => error,
    }
}

/// The same error once more: several may wait for one join.
fn again(error: &Error) -> Error {
    match error.reason() {
        Reason::Matrix { status, kind, message } => Error::new(*status, kind.clone(), message.clone()),
        _ => Error::internal(error),
    }
}

/// The servers to ask about a room, one after the other until one does what is wanted, best first.
#[derive(Default)]
pub(super) struct Candidates {
    /// Those that the client names, and those that told the user of the room.
    named: VecDeque<OwnedServerName>,
    /// Those that are in it as far as is known, and the one that its ID names: if none of the former can be asked. What one
    /// of them refuses is not to be had from others behind its back.
    others: VecDeque<OwnedServerName>,
    refusal: Option<Error>,
}

/// The servers to ask about a room that `user` wants to come into. `via` are those that the client names.
pub(super) fn candidates(
    federation: &Federation,
    read: &dyn Read,
    room: &RoomId,
    user: &UserId,
    via: &[OwnedServerName],
) -> Result<Candidates> {
    let (mut named, mut others) = (VecDeque::from(via.to_vec()), VecDeque::new());
    if let Some(no) = rooms::find(read, room)? {
        named.extend(members::user_room(read, user, no)?.and_then(|own| own.outside).unwrap_or_default());
        others.extend(servers::to_join_through(read, no, federation.server_name())?);
    }
    others.extend(room.server_name().map(ToOwned::to_owned));
    let mut seen = BTreeSet::new();
    let mut is_new = |server: &OwnedServerName| {
        server != federation.server_name() && federation.admits(server) && seen.insert(server.clone())
    };
    named.retain(&mut is_new);
    others.retain(&mut is_new);
    named.truncate(MAX_CANDIDATES);
    others.truncate(MAX_CANDIDATES - named.len());
    Ok(Candidates { named, others, refusal: None })
}

impl Candidates {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.others.is_empty()
    }

    /// The next to ask.
    pub(super) fn next(&mut self) -> Option<OwnedServerName> {
        let is_refused = self.refusal.as_ref().map(weight) == Some(Weight::Answer);
        self.named.pop_front().or_else(|| if is_refused { None } else { self.others.pop_front() })
    }

    /// Notes that `server` did not do it.
    pub(super) fn failed(&mut self, server: &ServerName, error: Error) {
        tracing::debug!("not through {server}: {error}");
        if self.refusal.as_ref().is_none_or(|earlier| weight(earlier) < weight(&error)) {
            self.refusal = Some(error);
        }
    }

    /// Why none did it: the first refusal that says most; 404 `M_NOT_FOUND` when there was none to ask.
    pub(super) fn refusal(self) -> Error {
        self.refusal.unwrap_or_else(|| Error::not_found("No server that is in this room can be found."))
    }
}

/// How much a refusal says, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// There was no answer, or none that makes sense.
    Nothing,
    /// The server does not know the room, or has no time.
    Ignorance,
    /// The room does not let the user in.
    Answer,
}

fn weight(error: &Error) -> Weight {
    match error.status() {
        StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS => Weight::Ignorance,
        status if status.is_client_error() => Weight::Answer,
        _ => Weight::Nothing,
    }
}

/// A join on its way.
struct Joining {
    turn: Turn,
    room: OwnedRoomId,
    user: OwnedUserId,
    content: Content,
    candidates: Candidates,
}

impl Joining {
    async fn run(mut self) {
        let federation = self.turn.federation.clone();
        let mut stopping = federation.stopping.clone();
        let candidates = mem::take(&mut self.candidates);
        let outcome = tokio::select! {
            outcome = self.through_any(candidates) => outcome,
            _ = stopping.wait_for(|stopping| *stopping) => Err(Error::internal("the server stops")),
        };
        if let Err(error) = &outcome {
            tracing::debug!("{} cannot join {}: {error}", self.user, self.room);
        }
        self.turn.outcome = Some(Arc::new(outcome));
    }

    async fn through_any(&self, mut candidates: Candidates) -> Result<()> {
        let store = &self.turn.federation.rooms.store;
        // Whoever rejected an invitation and comes nevertheless is not to be taken out again by the late rejection.
        store.write(|tx| {
            DEPARTURES.delete(tx, (&*self.room, &*self.user));
            Ok(())
        })?;
        while let Some(server) = candidates.next() {
            match self.through(&server).await {
                Ok(()) => return store.durable().await,
                Err(error) => candidates.failed(&server, error),
            }
        }
        Err(candidates.refusal())
    }

    async fn through(&self, server: &ServerName) -> Result<()> {
        let federation = &self.turn.federation;
        let mut request = make::Request::new(self.room.clone(), self.user.clone());
        request.ver = versions();
        let answer = federation.send_with(server, request, MAKE).await?;
        let version = answer.room_version.unwrap_or(RoomVersionId::V1);
        if version.rules().is_none() {
            return Err(Failure::Malformed(format!("the room has version {version}")).into());
        }
        let signed = self.complete(&version, &answer.event)?;
        let pdu = signed.pdu();
        let json = RawValue::from_string(pdu.json.clone())?;
        let mut request = send::Request::new(self.room.clone(), pdu.event_id.clone(), json);
        // Most of a large room's state are its members, which can come later (`missing_members.rs`).
        request.omit_members = true;
        let body = federation.send_streamed(server, request, SEND).await?.into_body();
        let mut answer = send_join::Answer::read(federation, &version, server, body).await?;
        let omitted = answer.omitted(federation, server);
        let event = match answer.event {
            Some(event) => self.countersigned(&version, &signed, event).await?,
            None => signed,
        };
        let _held = answer.held;
        self.enter(server, &version, Import { event, state: answer.state, auth: answer.auth_chain, omitted }).await
    }

    fn complete(&self, version: &RoomVersionId, template: &RawValue) -> Result<Signed> {
        let federation = &self.turn.federation;
        let mut content = self.content.clone();
        content.remove(membership::AUTHORISER);
        let membership = MembershipState::Join;
        content.extend(membership::with_profile(&federation.rooms.store.read(), &self.user, &membership)?);
        let wanted = Wanted { room: &self.room, user: &self.user, membership: &membership };
        template::complete(&federation.rooms.keys, version, template, content, &wanted)
            .map_err(|why| Failure::Malformed(why).into())
    }

    /// The event as the other server sends it on, with the signature by which it lets the user in, if that was needed.
    async fn countersigned(&self, version: &RoomVersionId, own: &Signed, event: Box<RawValue>) -> Result<Signed> {
        let (_, signed) = self
            .turn
            .federation
            .verify(version, vec![event])
            .await?
            .pop()
            .ok_or_else(|| Error::internal("no event was verified"))?;
        let signed = signed.map_err(Failure::Malformed)?;
        if signed.pdu().event_id != own.pdu().event_id {
            return Err(Failure::Malformed("it answers with another event".to_owned()).into());
        }
        Ok(signed)
    }

    /// Takes in the room with the event by which the user joined it; the event alone, if this server is in the room.
    async fn enter(&self, server: &ServerName, version: &RoomVersionId, import: Import) -> Result<()> {
        let federation = &*self.turn.federation;
        let rooms = &federation.rooms;
        let guard = rooms.lock(&self.room).await;
        if !is_resident(&rooms.store.read(), &self.room)? {
            rooms.import(&guard, version, import).await?;
            federation.missing_members.wake();
            return Ok(());
        }
        drop(guard);
        let fetch = Fetch { federation, server, room: &self.room, version };
        inbound::one(fetch, import.event).await?.map_err(|why| Failure::Malformed(why).into())
    }
}

/// Whether this server can make the room's events itself.
///
/// # Errors
/// When a row is damaged or the database fails.
pub(super) fn is_resident(read: &dyn Read, room: &RoomId) -> Result<bool> {
    let room = rooms::find(read, room)?.map(|no| rooms::get(read, no)).transpose()?;
    Ok(room.is_some_and(|room| room.is_resident()))
}
