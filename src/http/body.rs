//! The body of a request or a response.
//!
//! Either all of its bytes, or a stream of them: what comes from a socket is a stream until someone collects it, and
//! large files go both ways without being held in memory. Every wait for the peer's next bytes is bounded in time, and
//! every body from outside is bounded in size before it is collected, as are all of them together.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ruma::api::error::ErrorKind;
use tokio::time::timeout;

use crate::{
    clock,
    error::{Error, Result},
};

/// How long to wait for the next bytes of a request's body.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body may take that is collected in memory.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(300);

/// How many bytes a second a body of [`Body::paced`] must have at least on the whole: what the slowest lines carry.
const SLOWEST: u64 = 16 * 1024;

/// When to come back with a large body while there are too many.
const RETRY_LARGE: Duration = Duration::from_secs(5);

/// The body of a request or a response.
pub struct Body {
    kind: Kind,
    /// How many bytes [`Body::next`] gives before it fails, and has given.
    limit: u64,
    given: u64,
    /// How long its peer may make us wait beyond what so many bytes take, and how long it did.
    grace: Option<Duration>,
    waited: Duration,
}

enum Kind {
    Full(Bytes),
    Incoming(Incoming),
    Stream { bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>, length: Option<u64> },
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// All bytes at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(bytes.into()))
    }

    /// The bytes of a stream, which is polled as fast as the peer reads. `length` is sent as `Content-Length`; the
    /// stream must then give exactly so many bytes.
    pub fn stream(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static, length: Option<u64>) -> Self {
        Self::of(Kind::Stream { bytes: Box::pin(bytes), length })
    }

    fn of(kind: Kind) -> Self {
        Self { kind, limit: u64::MAX, given: 0, grace: None, waited: Duration::ZERO }
    }

    /// The same body, which fails with `M_TOO_LARGE` in the place of its first byte beyond `limit`.
    ///
    /// # Errors
    /// `M_TOO_LARGE` at once when the peer announces more than that.
    pub fn limited(mut self, limit: u64) -> Result<Self> {
        if self.size_hint().lower() > limit {
            return Err(too_large(limit));
        }
        self.limit = limit;
        Ok(self)
    }

    /// The same body, which fails when its peer makes us wait for longer than `grace` beyond what the bytes take at
    /// 16 KiB a second. Without that, one that sends a byte now and then never ends.
    pub fn paced(self, grace: Duration) -> Self {
        Self { grace: Some(grace), ..self }
    }

    /// How many bytes are to come, if the peer said so.
    pub fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// When the peer stalls or goes away, or sends more than the limit of [`Body::limited`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let began = clock::instant();
            let next = timeout(CHUNK_TIMEOUT, self.frame()).await;
            self.waited += began.elapsed();
            let allowed = self.grace.map(|grace| grace + Duration::from_secs(self.given / SLOWEST));
            if allowed.is_some_and(|allowed| self.waited > allowed) {
                return Err(stalled());
            }
            let frame = match next {
                Err(_) => return Err(stalled()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(Error::bad_request(ErrorKind::Unknown, error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers carry nothing for us.
            let Ok(bytes) = frame.into_data() else { continue };
            self.given += bytes.len() as u64;
            return if self.given > self.limit { Err(too_large(self.limit)) } else { Ok(Some(bytes)) };
        }
    }

    /// All bytes, at most `limit`. What is large counts in `share` for as long as that lives.
    ///
    /// # Errors
    /// `M_TOO_LARGE` as soon as there are more, without reading the rest; `M_LIMIT_EXCEEDED` if the requests of all
    /// clients together hold too much; and as [`Body::next`].
    pub(super) async fn collect(self, limit: usize, share: &mut Share<'_>) -> Result<Bytes> {
        let mut body = self.limited(limit as u64)?;
        if let Kind::Full(bytes) = body.kind {
            return Ok(bytes);
        }
        // Nearly every body is small and comes in one piece: no copy, no timer.
        let Some(first) = body.next().await? else { return Ok(Bytes::new()) };
        if body.is_end_stream() {
            return Ok(first);
        }
        timeout(COLLECT_TIMEOUT, body.collect_after(first, share)).await.unwrap_or_else(|_| Err(stalled()))
    }

    async fn collect_after(mut self, first: Bytes, share: &mut Share<'_>) -> Result<Bytes> {
        // The announced length is not reserved at once: a peer must send bytes to make us hold bytes.
        share.grow(first.len())?;
        let mut all = BytesMut::from(first);
        while let Some(bytes) = self.next().await? {
            share.grow(bytes.len())?;
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}

/// How many bytes of large bodies all requests together hold in memory.
#[derive(Default)]
pub struct Held(AtomicUsize);

/// What one request has of [`Held`]; given back when it is dropped.
pub struct Share<'h> {
    held: &'h Held,
    bytes: usize,
    max: usize,
}

impl Held {
    /// The share of a new request, which grows for as long as all shares together stay within `max` bytes.
    pub fn share(&self, max: usize) -> Share<'_> {
        Share { held: self, bytes: 0, max }
    }
}

impl Share<'_> {
    /// For what other servers cause, of which there may be any amount: together it gets half of what there is, so that
    /// it cannot take that from clients.
    pub fn be_modest(&mut self) {
        self.max /= 2;
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` if all shares together are too much then.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        let before = self.held.0.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.max { Err(Error::limit_exceeded(RETRY_LARGE)) } else { Ok(()) }
    }

    /// Whether it is too much by itself, so that it is of no use to wait for the others.
    pub fn is_too_large(&self) -> bool {
        self.bytes > self.max
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let superfluous = self.bytes.saturating_sub(bytes);
        self.bytes -= superfluous;
        self.held.0.fetch_sub(superfluous, Ordering::Relaxed);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn too_large(limit: u64) -> Error {
    Error::too_large(format!("The request is too large: at most {limit} bytes are accepted here."))
}

fn stalled() -> Error {
    Error::new(StatusCode::REQUEST_TIMEOUT, ErrorKind::Unknown, "The rest of the request did not arrive in time.")
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self::of(Kind::Incoming(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Incoming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Kind::Stream { bytes, .. } => {
                let next = ready!(bytes.as_mut().poll_next(cx));
                Poll::Ready(next.map(|next| next.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Stream { length, .. } => length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("length", &self.length()).finish_non_exhaustive()
    }
}
