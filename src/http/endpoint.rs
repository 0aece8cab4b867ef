//! From a request to a handler's arguments, and from its result to a response.
//!
//! A handler is `async fn(&S, C, R) -> Result<Response>`: `S` the server ([`State`]), `C` the caller ([`Caller`]), `R` a
//! request type of ruma or of our own. [`on`], [`stream`] and [`page`] make a [`Route`] of it. The order for each
//! request is: credentials, caller, rate limit, body, decoding, handler, encoding; so nobody unknown makes us hold a
//! large body, unless the signature covers the body (federation).
//!
//! A handler is dropped when its client goes away: what must run to its end after the first commit spawns a task.

use std::{any::type_name, future::Future, marker::PhantomData, net::IpAddr, pin::Pin};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, Uri};
use ruma::api::{IncomingRequest, OutgoingResponseExt, auth_scheme::AuthScheme, path_builder::PathBuilder};
use tracing::Span;

use super::{
    Body,
    body::{Held, Share},
    errors::{no_credentials, undecodable},
    x_matrix,
};
use crate::error::{Error, Result};

/// How many bodies of the largest usual size all requests together may hold in memory.
const HELD_REQUESTS: usize = 4;

/// What the HTTP layer asks of the server.
pub trait State: Send + Sync + 'static {
    /// The size in bytes up to which a body is accepted on routes that set no limit of their own.
    fn max_request_size(&self) -> usize;

    /// The header in which a reverse proxy tells the address of the client, if there is a proxy.
    fn address_header(&self) -> Option<HeaderName>;

    /// Counts one request to a rate-limited route by `caller` (see [`Caller::name`]) from `address`.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if there were too many.
    fn limit(&self, route: &Info, caller: Option<&str>, address: IpAddr) -> Result<()>;

    /// Hears with what status a request was answered.
    fn answered(&self, _: StatusCode) {}

    /// Waits until everything that this process has stored is on the disk.
    ///
    /// # Errors
    /// When the disk failed.
    fn durable(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Who sends a request, as proven by the authentication scheme `A` to the server `S`. A handler names its caller's type
/// in its signature, so it cannot run without the proof.
pub trait Caller<S, A: AuthScheme>: Send + Sized {
    /// Whether the proof covers the body, as signatures do. If not, `authenticate` sees an empty body.
    const COVERS_BODY: bool = false;

    /// Checks the credentials `auth` that came with `request` from `address`.
    ///
    /// # Errors
    /// `M_UNKNOWN_TOKEN` and the like.
    fn authenticate(
        state: &S,
        auth: A::Output,
        request: &Request<Bytes>,
        address: IpAddr,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// The name under which requests are counted and logged: a user's or a server's. Without one the address counts.
    fn name(&self) -> Option<&str>;

    /// Whether the caller may send as much as it wants, as application services may by default.
    fn is_unlimited(&self) -> bool {
        false
    }
}

/// What is known of a route without running it.
#[derive(Debug, Clone)]
pub struct Info {
    /// The handler's name: the operation's in the specification, in snake case.
    pub operation: &'static str,
    /// The method.
    pub method: Method,
    /// The newest path, with its variables in braces.
    pub path: &'static str,
    /// Whether requests are counted by [`State::limit`].
    pub rate_limited: bool,
}

/// A method with its paths, and the handler that answers there.
pub struct Route<S> {
    pub(super) info: Info,
    pub(super) paths: Vec<&'static str>,
    pub(super) endpoint: Box<dyn Endpoint<S>>,
    body_limit: Option<usize>,
    body_required: fn(&Uri) -> bool,
}

impl<S> Route<S> {
    /// Answers at `path` as well. Variables are in braces, in the order of the other paths.
    pub fn also(mut self, path: &'static str) -> Self {
        self.paths.push(path);
        self
    }

    /// Accepts bodies of up to `bytes`, in place of [`State::max_request_size`] or, for a stream, of any number.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = Some(bytes);
        self
    }

    /// Refuses an empty or `null` body, which elsewhere counts as `{}`. For operations whose body is free-form JSON, such
    /// as an event's content: ruma cannot tell there that something is missing.
    pub fn body_required(self) -> Self {
        self.body_required_if(|_| true)
    }

    /// [`body_required`](Self::body_required) for some requests only.
    pub fn body_required_if(mut self, is_required: fn(&Uri) -> bool) -> Self {
        self.body_required = is_required;
        self
    }

    /// Counts requests although the specification does not say that they are rate-limited.
    pub fn rate_limited(mut self) -> Self {
        self.info.rate_limited = true;
        self
    }

    pub(super) async fn call(
        &self,
        state: &S,
        request: Request<Body>,
        path_args: &[&str],
        address: IpAddr,
        held: &Held,
    ) -> Result<Response<Body>>
    where
        S: State,
    {
        let share = held.share(state.max_request_size().saturating_mul(HELD_REQUESTS));
        self.endpoint.call(Exchange { state, route: self, request, path_args, address, share }).await
    }

    fn new(info: Info, paths: Vec<&'static str>, endpoint: Box<dyn Endpoint<S>>) -> Self {
        Self { info, paths, endpoint, body_limit: None, body_required: |_| false }
    }
}

/// One request on its way to a handler.
pub(super) struct Exchange<'a, S> {
    state: &'a S,
    route: &'a Route<S>,
    request: Request<Body>,
    path_args: &'a [&'a str],
    address: IpAddr,
    share: Share<'a>,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send + 'a>>;

/// A handler with its types erased.
pub(super) trait Endpoint<S>: Send + Sync {
    fn call<'a>(&'a self, exchange: Exchange<'a, S>) -> Answer<'a>;
}

/// The route of an operation: method, paths, authentication and rate limit are those of its request type.
pub fn on<S, C, R, F>(handler: F) -> Route<S>
where
    S: State,
    C: Caller<S, R::Authentication> + 'static,
    R: IncomingRequest<Authentication: AuthScheme<Output: Send>> + 'static,
    F: for<'s> Operation<'s, S, C, R>,
{
    route::<S, R>(type_name::<F>(), Box::new(Decoded { handler, types: PhantomData }))
}

/// The route of an operation whose bodies are streams. The handler gets the request type with what path, query and
/// headers say (its body field is empty), and the request itself: `async fn(&S, C, R, http::Request<Body>) ->
/// Result<http::Response<Body>>`. How much of the body it takes is for the handler to say, unless [`Route::body_limit`]
/// does. One that the caller's signature covers was read to verify that, and is in the request type only.
pub fn stream<S, C, R, F>(handler: F) -> Route<S>
where
    S: State,
    C: Caller<S, R::Authentication> + 'static,
    R: IncomingRequest<Authentication: AuthScheme<Output: Send>> + Send + 'static,
    F: for<'s> StreamOperation<'s, S, C, R>,
{
    route::<S, R>(type_name::<F>(), Box::new(Streamed { handler, types: PhantomData }))
}

/// A route outside the specification, such as an HTML page: `async fn(&S, PageRequest) -> Result<http::Response<Body>>`.
/// Anyone may call it, and requests are counted by [`State::limit`] unless the method is `GET`.
pub fn page<S, F>(method: Method, path: &'static str, handler: F) -> Route<S>
where
    S: State,
    F: for<'s> Page<'s, S>,
{
    let rate_limited = method != Method::GET;
    let info = Info { operation: operation(type_name::<F>()), method, path, rate_limited };
    Route::new(info, vec![path], Box::new(Plain { handler }))
}

fn route<S, R: IncomingRequest>(handler: &'static str, endpoint: Box<dyn Endpoint<S>>) -> Route<S> {
    let paths: Vec<_> = R::PATH_BUILDER.all_paths().collect();
    // Ruma lists paths from the oldest to the newest.
    let path = paths.last().copied().unwrap_or_default();
    let info = Info { operation: operation(handler), method: R::METHOD, path, rate_limited: R::RATE_LIMITED };
    Route::new(info, paths, endpoint)
}

/// `conduit::api::client::joining::join_room_by_id` -> `join_room_by_id`.
fn operation(type_name: &'static str) -> &'static str {
    type_name.rsplit("::").next().unwrap_or(type_name)
}

/// What a handler for [`on`] is; implemented for every fitting `async fn`.
pub trait Operation<'s, S, C, R>: Send + Sync + 'static {
    /// The response type that belongs to the request type.
    type Response: OutgoingResponseExt;
    /// What the `async fn` gives.
    type Future: Future<Output = Result<Self::Response>> + Send + 's;
    /// Calls the handler.
    fn start(&self, state: &'s S, caller: C, request: R) -> Self::Future;
}

impl<'s, S: 's, C, R, F, Fut> Operation<'s, S, C, R> for F
where
    R: IncomingRequest,
    F: Fn(&'s S, C, R) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R::OutgoingResponse>> + Send + 's,
{
    type Response = R::OutgoingResponse;
    type Future = Fut;
    fn start(&self, state: &'s S, caller: C, request: R) -> Fut {
        self(state, caller, request)
    }
}

/// What a handler for [`stream`] is; implemented for every fitting `async fn`.
pub trait StreamOperation<'s, S, C, R>: Send + Sync + 'static {
    /// What the `async fn` gives.
    type Future: Future<Output = Result<Response<Body>>> + Send + 's;
    /// Calls the handler.
    fn start(&self, state: &'s S, caller: C, request: R, raw: Request<Body>) -> Self::Future;
}

impl<'s, S: 's, C, R, F, Fut> StreamOperation<'s, S, C, R> for F
where
    F: Fn(&'s S, C, R, Request<Body>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>>> + Send + 's,
{
    type Future = Fut;
    fn start(&self, state: &'s S, caller: C, request: R, raw: Request<Body>) -> Fut {
        self(state, caller, request, raw)
    }
}

/// A request to a [`page`].
#[derive(Debug)]
pub struct PageRequest {
    /// Method, address, headers, body.
    pub request: Request<Bytes>,
    /// The decoded values of the path's variables.
    pub path_args: Vec<String>,
    /// Where it came from.
    pub address: IpAddr,
}

/// What a handler for [`page`] is; implemented for every fitting `async fn`.
pub trait Page<'s, S>: Send + Sync + 'static {
    /// What the `async fn` gives.
    type Future: Future<Output = Result<Response<Body>>> + Send + 's;
    /// Calls the handler.
    fn start(&self, state: &'s S, request: PageRequest) -> Self::Future;
}

impl<'s, S: 's, F, Fut> Page<'s, S> for F
where
    F: Fn(&'s S, PageRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>>> + Send + 's,
{
    type Future = Fut;
    fn start(&self, state: &'s S, request: PageRequest) -> Fut {
        self(state, request)
    }
}

struct Decoded<F, C, R> {
    handler: F,
    types: PhantomData<fn() -> (C, R)>,
}

impl<S, C, R, F> Endpoint<S> for Decoded<F, C, R>
where
    S: State,
    C: Caller<S, R::Authentication> + 'static,
    R: IncomingRequest<Authentication: AuthScheme<Output: Send>> + 'static,
    F: for<'s> Operation<'s, S, C, R>,
{
    fn call<'a>(&'a self, exchange: Exchange<'a, S>) -> Answer<'a> {
        Box::pin(async move {
            let Exchange { state, route, request, path_args, address, mut share } = exchange;
            let (parts, body) = request.into_parts();
            let mut request = Request::from_parts(parts, Bytes::new());
            x_matrix::quote(request.headers_mut());
            let auth = R::Authentication::extract_authentication(&request).map_err(|e| no_credentials(e.into()))?;
            let caller = if C::COVERS_BODY {
                share.be_modest();
                *request.body_mut() = collect(state, route, body, &mut share).await?;
                let caller = C::authenticate(state, auth, &request, address).await?;
                admit(state, &route.info, &caller, address)?;
                caller
            } else {
                let caller = C::authenticate(state, auth, &request, address).await?;
                admit(state, &route.info, &caller, address)?;
                *request.body_mut() = collect(state, route, body, &mut share).await?;
                caller
            };
            // The bytes go before the handler runs, which has what they said.
            let request = {
                let (parts, body) = request.into_parts();
                let body = json_or_empty(route, &parts.uri, &body)?;
                R::try_from_http_request_inner(Request::from_parts(parts, body), path_args).map_err(undecodable)?
            };
            encode(self.handler.start(state, caller, request).await?)
        })
    }
}

struct Streamed<F, C, R> {
    handler: F,
    types: PhantomData<fn() -> (C, R)>,
}

impl<S, C, R, F> Endpoint<S> for Streamed<F, C, R>
where
    S: State,
    C: Caller<S, R::Authentication> + 'static,
    R: IncomingRequest<Authentication: AuthScheme<Output: Send>> + Send + 'static,
    F: for<'s> StreamOperation<'s, S, C, R>,
{
    fn call<'a>(&'a self, exchange: Exchange<'a, S>) -> Answer<'a> {
        Box::pin(async move {
            let Exchange { state, route, request, path_args, address, mut share } = exchange;
            let (parts, mut body) = request.into_parts();
            let mut head = Request::from_parts(parts.clone(), Bytes::new());
            x_matrix::quote(head.headers_mut());
            let auth = R::Authentication::extract_authentication(&head).map_err(|e| no_credentials(e.into()))?;
            if C::COVERS_BODY {
                share.be_modest();
                *head.body_mut() = collect(state, route, std::mem::take(&mut body), &mut share).await?;
            }
            // What is not held in memory is for the handler to bound.
            let body = match route.body_limit {
                Some(limit) => body.limited(limit as u64)?,
                None => body,
            };
            let caller = C::authenticate(state, auth, &head, address).await?;
            admit(state, &route.info, &caller, address)?;
            let request = {
                let (parts, body) = head.into_parts();
                let body = if C::COVERS_BODY { json_or_empty(route, &parts.uri, &body)? } else { &[] };
                R::try_from_http_request_inner(Request::from_parts(parts, body), path_args).map_err(undecodable)?
            };
            self.handler.start(state, caller, request, Request::from_parts(parts, body)).await
        })
    }
}

struct Plain<F> {
    handler: F,
}

impl<S, F> Endpoint<S> for Plain<F>
where
    S: State,
    F: for<'s> Page<'s, S>,
{
    fn call<'a>(&'a self, exchange: Exchange<'a, S>) -> Answer<'a> {
        Box::pin(async move {
            let Exchange { state, route, request, path_args, address, mut share } = exchange;
            if route.info.rate_limited {
                state.limit(&route.info, None, address)?;
            }
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, collect(state, route, body, &mut share).await?);
            let path_args = path_args.iter().map(|&arg| arg.to_owned()).collect();
            self.handler.start(state, PageRequest { request, path_args, address }).await
        })
    }
}

/// Counts and logs the caller.
fn admit<S: State, A: AuthScheme, C: Caller<S, A>>(state: &S, info: &Info, caller: &C, address: IpAddr) -> Result<()> {
    let name = caller.name();
    if let Some(name) = name {
        Span::current().record("user", name);
    }
    if info.rate_limited && !caller.is_unlimited() { state.limit(info, name, address) } else { Ok(()) }
}

fn body_limit<S: State>(state: &S, route: &Route<S>) -> usize {
    route.body_limit.unwrap_or_else(|| state.max_request_size())
}

/// The body of a request; a `GET` has none that means anything.
async fn collect<S: State>(state: &S, route: &Route<S>, body: Body, share: &mut Share<'_>) -> Result<Bytes> {
    if route.info.method == Method::GET {
        Ok(Bytes::new())
    } else {
        body.collect(body_limit(state, route), share).await
    }
}

/// The body, or `{}` for `null` and for nothing: clients join rooms, log out and so on with no body at all.
///
/// That it is UTF-8 is checked here, since serde does not look into strings that nobody asks for.
fn json_or_empty<'b, S>(route: &Route<S>, uri: &Uri, body: &'b [u8]) -> Result<&'b [u8]> {
    if str::from_utf8(body).is_err() {
        return Err(Error::not_json("The body is not valid UTF-8."));
    }
    match body.trim_ascii() {
        b"" if (route.body_required)(uri) => Err(Error::not_json("This operation needs a JSON body.")),
        b"null" if (route.body_required)(uri) => Err(Error::bad_json("The body must be a JSON object, not null.")),
        b"" | b"null" if route.info.method != Method::GET => Ok(b"{}"),
        _ => Ok(body),
    }
}

fn encode(response: impl OutgoingResponseExt) -> Result<Response<Body>> {
    match response.try_into_http_response::<Vec<u8>>() {
        Ok(response) => Ok(response.map(Body::full)),
        Err(error) => Err(Error::internal(format_args!("cannot encode a response: {error}"))),
    }
}
