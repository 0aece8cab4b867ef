//! Answers that list so many events that they are better made aside, and written as the other side reads them.

use std::{io, sync::Arc, time::Duration, vec};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use ruma::{OwnedServerName, ServerName};

use crate::{
    error::{Error, Result},
    http::Body,
    ids::EventNo,
    server::Server,
    store::{Read, Store, trees},
};

/// About how many bytes of an answer are made at once.
const PIECE: usize = 64 * 1024;

/// How many requests of one server wait for their turn.
const WAITING: usize = 8;

/// Runs `make` for `origin` on the blocking pool, where it may take seconds; a few of them run at a time, of which one for
/// each server.
///
/// # Errors
/// 429 `M_LIMIT_EXCEEDED` when too many requests of this server wait already; what `make` returns.
pub async fn made<T: Send + 'static>(
    server: &Server,
    origin: OwnedServerName,
    make: impl FnOnce(&dyn Read, &ServerName) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (turns, at_once) = &server.event_lists;
    let turn = turns.wait_among(&origin, WAITING).await;
    let _turn = turn.ok_or_else(|| Error::limit_exceeded(Duration::from_secs(10)))?;
    let _place = at_once.acquire().await.map_err(Error::internal)?;
    let (store, origin) = (server.store.clone(), origin.clone());
    tokio::task::spawn_blocking(move || make(&store.read(), &origin)).await.map_err(Error::internal)?
}

/// The answer that begins with `head`, the fields of an object without its brackets, if there are any before these, each of
/// which lists events in their federation format.
pub fn answer(server: &Server, head: String, fields: Vec<(&'static str, Vec<EventNo>)>) -> Response<Body> {
    let store = server.store.clone();
    let writer = Writer { store, head, fields: fields.into_iter(), list: None, begun: false, ended: false };
    let pieces = stream::unfold(writer, |mut writer| async move {
        match writer.piece() {
            Ok(None) => None,
            Ok(Some(piece)) => Some((Ok(piece), writer)),
            // What is sent cannot be taken back; that the answer breaks off tells the other side.
            Err(error) => {
                writer.ended = true;
                Some((Err(io::Error::other(error)), writer))
            }
        }
    });
    let mut response = Response::new(Body::stream(pieces, None));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// How far an answer is written.
struct Writer {
    store: Arc<Store>,
    /// What comes first and is still to be written.
    head: String,
    fields: vec::IntoIter<(&'static str, Vec<EventNo>)>,
    /// The list that is being written, and whether something of it is.
    list: Option<(vec::IntoIter<EventNo>, bool)>,
    begun: bool,
    ended: bool,
}

impl Writer {
    fn piece(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let read = self.store.read();
        let mut out = Vec::with_capacity(PIECE + PIECE / 2);
        if !self.head.is_empty() {
            out.push(b'{');
            out.extend_from_slice(std::mem::take(&mut self.head).as_bytes());
            self.begun = true;
        }
        while out.len() < PIECE && !self.ended {
            match &mut self.list {
                None => match self.fields.next() {
                    None => {
                        out.extend_from_slice(if self.begun { b"}" } else { b"{}" });
                        self.ended = true;
                    }
                    Some((name, events)) => {
                        let separator = if self.begun { ',' } else { '{' };
                        out.extend_from_slice(format!("{separator}\"{name}\":[").as_bytes());
                        self.begun = true;
                        self.list = Some((events.into_iter(), false));
                    }
                },
                Some((events, any)) => match events.next() {
                    None => {
                        out.push(b']');
                        self.list = None;
                    }
                    Some(no) => {
                        if std::mem::replace(any, true) {
                            out.push(b',');
                        }
                        let event = trees::EVENTS.get(&read, no)?;
                        let event = event.ok_or_else(|| Error::corrupt(trees::EVENTS.name, no.0.to_be_bytes()))?;
                        out.extend_from_slice(event.json.as_bytes());
                    }
                },
            }
        }
        Ok(Some(out.into()))
    }
}
