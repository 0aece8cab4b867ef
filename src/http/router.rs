//! From a method and a path to a route, and from a request to its one answer.
//!
//! A trie over path segments: at each step a literal beats a variable, and the search goes back when the literal branch
//! does not know the method (`DELETE /profile/{userId}/displayname` is `/profile/{userId}/{keyName}`). Segments are
//! percent-decoded one by one, so an encoded slash does not split. Two routes for one method and path stop the start.
//!
//! Spec: client-server API, "Standard error response": an unknown path is 404 `M_UNRECOGNIZED`, a known one with another
//! method 405. `HEAD` is answered where `GET` is.

use std::{borrow::Cow, collections::BTreeSet, fmt, net::IpAddr};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use ruma::api::error::ErrorKind;
use tracing::{Instrument, Level, Span, debug, debug_span, field};

use super::{
    Body,
    body::Held,
    cors,
    endpoint::{Info, Route, State},
    errors::error_response,
};
use crate::{
    clock,
    error::{Error, Result},
};

/// More segments than any route has.
const MAX_SEGMENTS: usize = 16;

/// More variables than any route has.
const MAX_VARIABLES: usize = 8;

/// Every route of the server.
pub struct Router<S> {
    routes: Vec<Route<S>>,
    root: Node,
    held: Held,
}

/// Collects routes; made by [`Router::builder`].
pub struct Builder<S> {
    routes: Vec<Route<S>>,
}

/// Why a set of routes makes no router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clash {
    /// Two operations answer to the same method and path.
    Taken {
        /// The method.
        method: Method,
        /// The path as the second operation has it.
        path: String,
        /// The operation that was there first.
        first: &'static str,
        /// The one that came later.
        second: &'static str,
    },
    /// A path has more segments or variables than the router allows.
    TooLong(String),
}

/// A place in the trie.
#[derive(Default)]
struct Node {
    /// Sorted by segment.
    literals: Vec<(Box<str>, Node)>,
    variable: Option<Box<Node>>,
    /// Which routes end here.
    ends: Vec<(Method, usize)>,
}

/// What a method and a path lead to.
enum Found<'r, S> {
    Route(&'r Route<S>),
    /// The path is known for other methods only.
    WrongMethod(BTreeSet<&'r str>),
    Unknown,
}

impl<S> Builder<S> {
    /// Adds one route.
    #[expect(clippy::should_implement_trait, reason = "not a sum; reads well in a list of routes")]
    pub fn add(mut self, route: Route<S>) -> Self {
        self.routes.push(route);
        self
    }

    /// Adds many routes.
    pub fn add_all(mut self, routes: impl IntoIterator<Item = Route<S>>) -> Self {
        self.routes.extend(routes);
        self
    }

    /// The router with these routes.
    ///
    /// # Errors
    /// When two of them answer to the same method and path.
    pub fn build(self) -> Result<Router<S>, Clash> {
        let mut root = Node::default();
        for (index, route) in self.routes.iter().enumerate() {
            for path in route.paths.iter().flat_map(|path| variants(path)) {
                let end = root.insert(&path)?;
                match end.iter().find(|(method, _)| *method == route.info.method) {
                    None => end.push((route.info.method.clone(), index)),
                    // Old and new path of one operation may be the same in the variants.
                    Some((_, first)) if *first == index => {}
                    Some((_, first)) => {
                        return Err(Clash::Taken {
                            method: route.info.method.clone(),
                            path,
                            first: self.routes.get(*first).map_or("", |route| route.info.operation),
                            second: route.info.operation,
                        });
                    }
                }
            }
        }
        Ok(Router { routes: self.routes, root, held: Held::default() })
    }
}

/// A path, and the forms in which older clients write it.
fn variants(path: &str) -> Vec<String> {
    let mut all = vec![path.to_owned()];
    // "r0" was the name of the version before Matrix 1.1; what came later is harmless under it.
    for api in ["/_matrix/client/", "/_matrix/media/"] {
        if let Some(rest) = path.strip_prefix(api).and_then(|rest| rest.strip_prefix("v3/")) {
            all.push(format!("{api}r0/{rest}"));
        }
    }
    // Spec: "the trailing slash and the state key may be omitted if the key is empty". A path that ends in a slash by
    // itself (push rules) is asked for without it too.
    let shorter: Vec<_> = all
        .iter()
        .filter_map(|path| path.strip_suffix("/{state_key}").or_else(|| path.strip_suffix('/')))
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    all.extend(shorter);
    all
}

impl Node {
    /// The routes that end at `path`, whose nodes are made if need be.
    fn insert(&mut self, path: &str) -> Result<&mut Vec<(Method, usize)>, Clash> {
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let variables = segments.iter().filter(|segment| segment.starts_with('{')).count();
        if segments.len() > MAX_SEGMENTS || variables > MAX_VARIABLES {
            return Err(Clash::TooLong(path.to_owned()));
        }
        Ok(&mut segments.into_iter().fold(self, Node::child).ends)
    }

    fn child<'n>(&'n mut self, segment: &str) -> &'n mut Node {
        if segment.starts_with('{') {
            return self.variable.get_or_insert_default();
        }
        let at = match self.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment)) {
            Ok(at) => at,
            Err(at) => {
                self.literals.insert(at, (segment.into(), Node::default()));
                at
            }
        };
        &mut self.literals[at].1
    }

    /// The route for `method` below this node; `args` gets the values of the variables on the way, from `depth` on, and
    /// `others` the methods of routes that fit but for theirs.
    fn find<'n, 'p>(
        &'n self,
        method: &Method,
        segments: &'p [Cow<'p, str>],
        args: &mut Args<'p>,
        others: &mut BTreeSet<&'n str>,
    ) -> Option<usize> {
        let Some((segment, rest)) = segments.split_first() else {
            let found = self.end(method);
            if found.is_none() {
                others.extend(self.ends.iter().map(|(method, _)| method.as_str()));
            }
            return found;
        };
        if let Ok(at) = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment))
            && let Some((_, child)) = self.literals.get(at)
            && let Some(found) = child.find(method, rest, args, others)
        {
            return Some(found);
        }
        let child = self.variable.as_deref()?;
        args.push(segment);
        let found = child.find(method, rest, args, others);
        if found.is_none() {
            args.count -= 1;
        }
        found
    }

    fn end(&self, method: &Method) -> Option<usize> {
        let end = |wanted: &Method| self.ends.iter().find(|(method, _)| method == wanted).map(|(_, index)| *index);
        end(method).or_else(|| if *method == Method::HEAD { end(&Method::GET) } else { None })
    }
}

/// The decoded segments of a path; most paths need no allocation.
struct Segments<'p> {
    all: [Cow<'p, str>; MAX_SEGMENTS],
    count: usize,
}

impl<'p> Segments<'p> {
    /// `None` if there are more than any route has, or if the path does not begin with a slash.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` if a segment does not decode to UTF-8.
    fn of(path: &'p str) -> Result<Option<Self>> {
        let mut segments = Self { all: Default::default(), count: 0 };
        let Some(path) = path.strip_prefix('/') else { return Ok(None) };
        for segment in path.split('/') {
            let Some(place) = segments.all.get_mut(segments.count) else { return Ok(None) };
            *place = percent_decode(segment)?;
            segments.count += 1;
        }
        Ok(Some(segments))
    }

    fn as_slice(&self) -> &[Cow<'p, str>] {
        self.all.get(..self.count).unwrap_or_default()
    }
}

/// The values of a path's variables, in order.
#[derive(Default)]
struct Args<'p> {
    all: [&'p str; MAX_VARIABLES],
    count: usize,
}

impl<'p> Args<'p> {
    fn push(&mut self, value: &'p str) {
        // `Node::insert` keeps `count` below the array's length.
        if let Some(place) = self.all.get_mut(self.count) {
            *place = value;
        }
        self.count += 1;
    }

    fn as_slice(&self) -> &[&'p str] {
        self.all.get(..self.count).unwrap_or_default()
    }
}

/// A segment of a path with the byte for each `%XX`. What only looks like it stays, as in the URL standard.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when that is no UTF-8.
pub fn percent_decode(segment: &str) -> Result<Cow<'_, str>> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let digit = |byte: u8| (byte as char).to_digit(16);
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => digit(*high).zip(digit(*low)).map(|(high, low)| (high * 16 + low, tail)),
            _ => None,
        };
        let (byte, tail) = escape.map_or((byte, tail), |(code, tail)| (code as u8, tail));
        decoded.push(byte);
        rest = tail;
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| Error::invalid_param("A part of the path is not UTF-8 after percent-decoding."))
}

impl<S> Router<S> {
    /// A router without routes yet.
    pub fn builder() -> Builder<S> {
        Builder { routes: Vec::new() }
    }

    /// What is known of each route, in the order in which they were added, and the paths that it answers at.
    pub fn routes(&self) -> impl Iterator<Item = (&Info, &[&'static str])> {
        self.routes.iter().map(|route| (&route.info, &*route.paths))
    }

    fn find<'r, 'p>(&'r self, method: &Method, segments: &'p Segments<'p>, args: &mut Args<'p>) -> Found<'r, S> {
        let mut others = BTreeSet::new();
        let found = self.root.find(method, segments.as_slice(), args, &mut others);
        match found.and_then(|index| self.routes.get(index)) {
            Some(route) => Found::Route(route),
            None if others.is_empty() => Found::Unknown,
            None => Found::WrongMethod(others),
        }
    }

    /// Answers `request`, which came from `address`. Never fails, and is ready only when everything that the answer
    /// acknowledges is durable.
    pub async fn answer(&self, state: &S, request: Request<Body>, address: IpAddr) -> Response<Body>
    where
        S: State,
    {
        if *request.method() == Method::OPTIONS {
            return cors::preflight();
        }
        let mut response = self.dispatch(state, request, address).await;
        cors::add(response.headers_mut());
        response
    }

    async fn dispatch(&self, state: &S, request: Request<Body>, address: IpAddr) -> Response<Body>
    where
        S: State,
    {
        // A second handle on the bytes of the address, which outlives the request that the handler consumes.
        let uri = request.uri().clone();
        let segments = match Segments::of(uri.path()) {
            Ok(Some(segments)) => segments,
            Ok(None) => return unrecognized(StatusCode::NOT_FOUND),
            Err(error) => return error_response(&error, "router"),
        };
        let mut args = Args::default();
        let route = match self.find(request.method(), &segments, &mut args) {
            Found::Route(route) => route,
            Found::Unknown => return unrecognized(StatusCode::NOT_FOUND),
            Found::WrongMethod(methods) => {
                let mut response = unrecognized(StatusCode::METHOD_NOT_ALLOWED);
                let methods: Vec<_> = methods.into_iter().collect();
                if let Ok(methods) = HeaderValue::try_from(methods.join(", ")) {
                    response.headers_mut().insert(header::ALLOW, methods);
                }
                return response;
            }
        };
        if !tracing::enabled!(Level::DEBUG) {
            return run(route, state, request, args.as_slice(), address, &self.held).await;
        }
        let Info { operation, method, path, .. } = &route.info;
        let span = debug_span!("request", %method, path, operation, user = field::Empty);
        let start = clock::instant();
        let response = run(route, state, request, args.as_slice(), address, &self.held).instrument(span.clone()).await;
        log(&span, response.status(), start);
        response
    }
}

fn log(span: &Span, status: StatusCode, start: std::time::Instant) {
    debug!(parent: span, status = status.as_u16(), time = ?start.elapsed(), "answered");
}

/// Calls the handler, and waits until what it stored is durable. Errors too: one may tell that something is stored.
async fn run<S: State>(
    route: &Route<S>,
    state: &S,
    request: Request<Body>,
    args: &[&str],
    address: IpAddr,
    held: &Held,
) -> Response<Body> {
    let result = route.call(state, request, args, address, held).await;
    let result = match state.durable().await {
        Ok(()) => result,
        Err(error) => Err(error),
    };
    result.unwrap_or_else(|error| error_response(&error, route.info.operation))
}

fn unrecognized(status: StatusCode) -> Response<Body> {
    let message = match status {
        StatusCode::METHOD_NOT_ALLOWED => "This path exists, but not for this method.",
        _ => "There is nothing at this path.",
    };
    error_response(&Error::new(status, ErrorKind::Unrecognized, message), "router")
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clash::Taken { method, path, first, second } => {
                write!(f, "{method} {path} is claimed by both {first} and {second}")
            }
            Clash::TooLong(path) => write!(f, "the path {path} has too many segments or variables"),
        }
    }
}

impl std::error::Error for Clash {}
