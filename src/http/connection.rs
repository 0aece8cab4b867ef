//! One connection: its requests one after the other, and when it ends.
//!
//! One timer serves for the first headers, for keep-alive and for stalled downloads; requests set none. It looks at when
//! something last happened, so a request costs it one store.
//!
//! The address of a request is its peer's, or the last entry of [`State::address_header`] (`X-Forwarded-For`, say) if the
//! peer is on this machine, on a unix socket or in a private network: only a reverse proxy there is believed. Entries
//! before the last are the client's own claim.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::sleep,
};
use tracing::debug;

use super::{Body, Router, State, peers::may_be_a_proxy};
use crate::clock;

/// Bytes of headers, and of buffers per connection.
const BUFFER: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// How long a connection gets to say goodbye after it was idle.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long nothing may happen on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the headers of the first request are there.
    pub first_request: Duration,
    /// After that, while no handler runs: without a request, without progress of a response.
    pub idle: Duration,
}

impl Default for Timeouts {
    /// 20 seconds for the first request. 90 seconds after that, which is more than the 60 after which common reverse
    /// proxies close an idle connection themselves: if we did it first, a request might just be on its way.
    fn default() -> Self {
        Self { first_request: Duration::from_secs(20), idle: Duration::from_secs(90) }
    }
}

/// What all connections share.
pub(super) struct App<S> {
    router: Router<S>,
    state: Arc<S>,
    http: auto::Builder<TokioExecutor>,
    timeouts: Timeouts,
}

impl<S> App<S> {
    pub(super) fn new(router: Router<S>, state: Arc<S>, timeouts: Timeouts) -> Self {
        Self { router, state, http: http(), timeouts }
    }
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // The watch over each connection replaces hyper's time-out, which costs a timer per request.
    http.http1().header_read_timeout(None).max_buf_size(BUFFER);
    http.http2().max_concurrent_streams(MAX_STREAMS).max_header_list_size(BUFFER as u32).max_send_buf_size(BUFFER);
    http
}

/// Answers requests until the client leaves, nothing happens any more, or `stop` says so.
pub(super) async fn serve<S: State>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection<S>>,
    mut stop: watch::Receiver<bool>,
) {
    let app = Arc::clone(&connection.app);
    let service = service_fn(|request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(answer(connection, request).await) }
    });
    let mut http = pin!(app.http.serve_connection(TokioIo::new(stream), service));
    let Timeouts { first_request, idle } = app.timeouts;
    let mut watch = pin!(sleep(first_request.min(idle)));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection broke");
                }
                return;
            }
            () = stopped(&mut stop), if !ending => {
                ending = true;
                http.as_mut().graceful_shutdown();
            }
            () = watch.as_mut() => {
                let left = connection.time_left();
                if left.is_zero() && ending {
                    return;
                }
                if left.is_zero() {
                    ending = true;
                    http.as_mut().graceful_shutdown();
                }
                let next = if left.is_zero() { LAST_WORDS.min(idle) } else { left };
                watch.as_mut().reset(tokio::time::Instant::now() + next);
            }
        }
    }
}

/// A connection: whose it is, and when something last happened on it.
pub(super) struct Connection<S> {
    app: Arc<App<S>>,
    peer: IpAddr,
    opened: Instant,
    /// Handlers that run now.
    running: AtomicU32,
    /// Milliseconds after `opened` at which a request or a piece of a response last passed; 0 before the first.
    last: AtomicU64,
}

impl<S> Connection<S> {
    pub(super) fn new(app: Arc<App<S>>, peer: IpAddr) -> Self {
        Self { app, peer, opened: clock::instant(), running: AtomicU32::new(0), last: AtomicU64::new(0) }
    }

    fn touch(&self) {
        self.last.store((self.opened.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
    }

    /// How long until the connection counts as idle, if nothing happens.
    fn time_left(&self) -> Duration {
        let Timeouts { first_request, idle } = self.app.timeouts;
        if self.running.load(Ordering::Relaxed) > 0 {
            return idle;
        }
        let last = self.last.load(Ordering::Relaxed);
        let allowed = if last == 0 { first_request } else { idle };
        (Duration::from_millis(last) + allowed).saturating_sub(self.opened.elapsed())
    }
}

/// Counts a handler for as long as it runs, also if it is dropped half-way.
struct Running<'c, S>(&'c Connection<S>);

impl<'c, S> Running<'c, S> {
    fn new(connection: &'c Connection<S>) -> Self {
        connection.running.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl<S> Drop for Running<'_, S> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer<S: State>(connection: Arc<Connection<S>>, request: Request<Incoming>) -> Response<Watched<S>> {
    let running = Running::new(&connection);
    let App { router, state, .. } = &*connection.app;
    let address = client_address(connection.peer, request.headers(), state.address_header());
    let response = router.answer(state, request.map(Body::from), address).await;
    state.answered(response.status());
    drop(running);
    response.map(|body| Watched { body, connection })
}

/// The address that stands for the client; see the head of this file.
fn client_address(peer: IpAddr, headers: &HeaderMap, header: Option<HeaderName>) -> IpAddr {
    let Some(header) = header.filter(|_| may_be_a_proxy(peer)) else {
        return peer;
    };
    let last = headers.get_all(header).iter().next_back();
    last.and_then(|value| value.to_str().ok())
        .and_then(|value| value.rsplit(',').next())
        .and_then(|entry| entry.trim().trim_matches(['[', ']']).parse::<IpAddr>().ok())
        .map_or(peer, |ip| ip.to_canonical())
}

/// A response's body that tells its connection of progress.
struct Watched<S> {
    body: Body,
    connection: Arc<Connection<S>>,
}

impl<S> http_body::Body for Watched<S> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.connection.touch();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ready when the server is to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could stop us later.
    _ = stop.wait_for(|stop| *stop).await;
}
