//! Signed requests to other servers
//! ([Request authentication](https://spec.matrix.org/latest/server-server-api/#request-authentication)).

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use ruma::{
    ServerName,
    api::{
        EndpointError, IncomingResponse, OutgoingBody, OutgoingRequest,
        error::{Error as MatrixError, ErrorBody, ErrorKind, StandardErrorBody},
        federation::authentication::XMatrix,
        path_builder::PathBuilder,
    },
};
use tokio::time::timeout;

use super::{Federation, shares::Share};
pub use crate::outgoing::Limits;
use crate::{clock, error::Error, http::Body, outgoing::Reach};

/// How much of an error is read.
const MAX_ERROR: u64 = 64 * 1024;

/// When a client is to ask again, if we ask others for too much.
const RETRY: Duration = Duration::from_secs(10);

/// Why a request to another server brought nothing.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The administrator does not let us ask it.
    Denied,
    /// We ask others for as much as we can at the moment.
    Busy,
    /// It did not answer, for the given reason.
    Unreachable(String),
    /// It refused.
    Status {
        /// With this HTTP status.
        status: StatusCode,
        /// With this error code, if its answer was an error of the specification.
        kind: Option<ErrorKind>,
        /// In these words, if it used any.
        message: String,
    },
    /// It answered something else than it was asked for.
    Malformed(String),
}

impl Federation {
    /// Asks `destination`; gives its answer.
    ///
    /// # Errors
    /// See [`Failure`]. The usual limits are 30 seconds and 1 MiB.
    pub async fn send<R>(&self, destination: &ServerName, request: R) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        self.send_with(destination, request, Limits::default()).await
    }

    /// [`send`](Self::send) with other limits. That of time is also for the wait until there are few enough requests under
    /// way, which gets half of it.
    ///
    /// # Errors
    /// As there.
    pub async fn send_with<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let (_share, left) = self.turn_to_ask(destination, limits).await?;
        self.exchange(destination, request, left).await
    }

    /// Waits until `destination` may be asked, for half of the time at most: a server that our own crowd leaves no time to
    /// answer would seem to be gone. Gives what the limits leave for the question.
    pub(super) async fn turn_to_ask(
        &self,
        destination: &ServerName,
        limits: Limits,
    ) -> Result<(Share<'_>, Limits), Failure> {
        let began = clock::instant();
        let share = timeout(limits.timeout / 2, self.requests.of(destination)).await.ok().flatten();
        let timeout = limits.timeout.saturating_sub(began.elapsed());
        Ok((share.ok_or(Failure::Busy)?, Limits { timeout, ..limits }))
    }

    /// [`send_with`](Self::send_with) at once, however many requests are under way; for those who count theirs.
    ///
    /// # Errors
    /// As there.
    pub async fn exchange<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let (parts, body) = self.send_streamed(destination, request, limits).await?.into_parts();
        let body = whole(body).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
        R::IncomingResponse::try_from_http_response_inner(Response::from_parts(parts, &*body))
            .map_err(|error| Failure::Malformed(error.to_string()))
    }

    /// [`send`](Self::send) for large answers: gives it as a stream as soon as it begins. The limit of time is for that
    /// beginning; the stream fails when it stalls, or becomes longer than its limit.
    ///
    /// # Errors
    /// As there.
    pub async fn send_streamed<R>(
        &self,
        destination: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Response<Body>, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: for<'a> PathBuilder<Input<'a> = ()>,
    {
        let request = self.signed(destination, encoded(request, ())?)?;
        let response = self.ask(destination, request, limits).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        // What cannot be read of an error says nothing.
        let error = match body.limited(MAX_ERROR) {
            Ok(body) => whole(body).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        Err(refusal(Response::from_parts(parts, error)))
    }

    /// Asks `destination` something, signed or not; gives the answer, whatever its status, as soon as it begins. If no
    /// connection comes about where the server said some time ago that it is, it is looked for again.
    ///
    /// # Errors
    /// As [`send`](Self::send), but for the status.
    pub(super) async fn ask(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Body>, Failure> {
        if !self.admits(destination) || destination == self.server_name() {
            return Err(Failure::Denied);
        }
        // What we say must not be lost afterwards.
        self.rooms.store.durable().await.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let mut again = true;
        loop {
            let authority = self.delegations.of(&self.outgoing, destination).await;
            let mut request = request.clone();
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = format!("https://{authority}{path}").parse::<Uri>();
            *request.uri_mut() = uri.map_err(|error| Failure::Unreachable(error.to_string()))?;
            // With the port as the name has it, also where HTTP would leave it out.
            if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
                request.headers_mut().insert(header::HOST, host);
            }
            match self.outgoing.stream(Reach::Servers, request, limits).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.unconnected && again && self.delegations.forget(destination) => again = false,
                Err(error) => {
                    tracing::debug!(%destination, %error, "a server cannot be reached");
                    return Err(Failure::Unreachable(error.why));
                }
            }
        }
    }

    /// Whether `destination` was looked for not long ago. To find another may take a while.
    pub fn knows_way_to(&self, destination: &ServerName) -> bool {
        self.delegations.has(destination)
    }

    /// The request with our signature for `destination`.
    pub(super) fn signed(
        &self,
        destination: &ServerName,
        mut request: Request<Bytes>,
    ) -> Result<Request<Bytes>, Failure> {
        let keys = &self.rooms.keys;
        let origin = keys.server_name();
        let object = XMatrix::request_object(&request, origin, destination).map_err(|error| malformed(&error))?;
        let text = serde_json::to_string(&object).map_err(|error| malformed(&error))?;
        // Every value in quotation marks and no spaces: what the oldest servers understand too.
        let header = format!(
            "X-Matrix origin=\"{origin}\",destination=\"{destination}\",key=\"{}\",sig=\"{}\"",
            keys.id(),
            keys.sign(text.as_bytes()),
        );
        let header = HeaderValue::try_from(header).map_err(|error| malformed(&error))?;
        request.headers_mut().insert(header::AUTHORIZATION, header);
        Ok(request)
    }
}

/// All of an answer.
async fn whole(mut body: Body) -> crate::error::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// The failure to make a request at all.
pub(super) fn malformed(error: &dyn fmt::Display) -> Failure {
    Failure::Malformed(format!("our own request: {error}"))
}

/// A request of ruma's as HTTP, with a path only; which of several is decided by `path`.
pub(super) fn encoded<R: OutgoingRequest>(
    request: R,
    path: <R::PathBuilder as PathBuilder>::Input<'_>,
) -> Result<Request<Bytes>, Failure> {
    let (mut parts, body) =
        request.try_into_http_request_inner("", path).map_err(|error| malformed(&error))?.into_parts();
    if let Some(content_type) = body.content_type() {
        parts.headers.entry(header::CONTENT_TYPE).or_insert(content_type);
    }
    let body: Vec<u8> = body.try_into_buf().map_err(|error| malformed(&Into::into(error)))?;
    Ok(Request::from_parts(parts, body.into()))
}

/// What a server that refuses says.
pub(super) fn refusal(response: Response<impl AsRef<[u8]>>) -> Failure {
    let status = response.status();
    let (parts, body) = response.into_parts();
    let error = MatrixError::from_http_response(Response::from_parts(parts, body.as_ref()));
    match error.body {
        ErrorBody::Standard(StandardErrorBody { kind, message, .. }) => {
            Failure::Status { status, kind: Some(kind), message }
        }
        _ => Failure::Status { status, kind: None, message: String::new() },
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("this server does not exchange messages with it"),
            Self::Busy => f.write_str("this server asks others for as much as it can at the moment"),
            Self::Unreachable(why) => write!(f, "it cannot be reached: {why}"),
            Self::Status { status, kind: Some(kind), message } => write!(f, "{status}, {}: {message}", kind.errcode()),
            Self::Status { status, .. } => write!(f, "it answered {status}"),
            Self::Malformed(why) => write!(f, "its answer cannot be understood: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    /// What a client is told: the other server's error as it stands, unless that is about our own request there (401, a
    /// fault of that server); else 502 or 504 `M_UNKNOWN`, 403 `M_FORBIDDEN` for a server that we do not ask, or 429
    /// `M_LIMIT_EXCEEDED` if we ask others for too much.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Denied => Self::forbidden("This server does not exchange messages with that one."),
            Failure::Busy => Self::limit_exceeded(RETRY),
            Failure::Status { status, kind: Some(kind), message }
                if status.is_client_error() && status != StatusCode::UNAUTHORIZED =>
            {
                Self::new(status, kind, message)
            }
            Failure::Unreachable(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, format!("The other server: {failure}."))
            }
            _ => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, format!("The other server: {failure}.")),
        }
    }
}
