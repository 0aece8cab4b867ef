//! Answers that list so many events that they are better made aside, and written as the other side reads them.

use std::{io, sync::Arc, vec};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};

use crate::{
    error::{Error, Result},
    http::Body,
    ids::EventNo,
    server::Server,
    store::{Read, Store, trees},
};

/// About how many bytes of an answer are made at once.
const PIECE: usize = 64 * 1024;

/// Runs `make` on the blocking pool, where it may take seconds; a few of them run at a time.
///
/// # Errors
/// What `make` returns.
pub async fn made<T: Send + 'static>(
    server: &Server,
    make: impl FnOnce(&dyn Read) -> Result<T> + Send + 'static,
) -> Result<T> {
    let turn = server.event_lists.acquire().await.map_err(Error::internal)?;
    let store = server.store.clone();
    let made = tokio::task::spawn_blocking(move || make(&store.read())).await.map_err(Error::internal)?;
    drop(turn);
    made
}

/// The answer with the given fields, each of which lists events in their federation format.
pub fn answer(server: &Server, fields: Vec<(&'static str, Vec<EventNo>)>) -> Response<Body> {
    let store = server.store.clone();
    let writer = Writer { store, fields: fields.into_iter(), list: None, begun: false, ended: false };
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
