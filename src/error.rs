//! The one error type.
//!
//! An [`Error`] is what a request ends in when it does not end in its response: a Matrix error code with a sentence
//! a person understands, a demand for more user-interactive authentication, or a fault of ours. Faults (a corrupt row,
//! a full disk, a bug) are told to the client as `M_UNKNOWN` only; their cause goes to the log, once, where the answer
//! is written (`http/endpoint.rs`).
//!
//! Deliberately absent: error types per module. A caller that must tell cases apart returns its own enum.

use std::{fmt, time::Duration};

use http::StatusCode;
use ruma::{
    UserId,
    api::error::{
        ErrorKind, LimitExceededErrorData, RetryAfter, StandardErrorBody, UnknownTokenErrorData,
        UserLimitExceededErrorData, WrongRoomKeysVersionErrorData,
    },
};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not succeed. One pointer wide, since nearly every function returns it.
#[derive(Debug)]
pub struct Error(Box<Reason>);

/// What an [`Error`] says.
#[derive(Debug)]
pub enum Reason {
    /// An error of the specification, told to the caller as it stands.
    Matrix {
        /// The HTTP status.
        status: StatusCode,
        /// `errcode` and its extra fields.
        kind: ErrorKind,
        /// `error`: what is wrong and, where possible, what to do.
        message: String,
    },
    /// 401 with the flows, session and parameters of user-interactive authentication; the body as it stands.
    Uiaa(serde_json::Value),
    /// The row at `key` of tree `tree` is not what the schema says.
    Corrupt {
        /// Name of the tree.
        tree: &'static str,
        /// The encoded key.
        key: Vec<u8>,
    },
    /// The database refused a read or a write.
    Database(rocksdb::Error),
    /// Something else of ours failed; the text is for the log only.
    Internal(String),
}

impl Error {
    /// An error of the specification with the given status, kind and sentence.
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Reason::Matrix { status, kind, message: message.into() }))
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
    }

    /// 400 `M_BAD_JSON`: JSON, but not of the shape that the operation wants.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::BadJson, message)
    }

    /// 400 `M_NOT_JSON`: not JSON at all.
    pub fn not_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::NotJson, message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam, message)
    }

    /// 400 `M_MISSING_PARAM`.
    pub fn missing_param(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::MissingParam, message)
    }

    /// 400 with another kind.
    pub fn bad_request(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, message)
    }

    /// 403 `M_USER_LIMIT_EXCEEDED`: the user has as much of something as anybody can have here. Whom to ask about it is told
    /// by the server's support file.
    pub fn user_limit(user: &UserId, message: impl Into<String>) -> Self {
        let whom_to_ask = format!("https://{}/.well-known/matrix/support", user.server_name());
        let kind = ErrorKind::UserLimitExceeded(UserLimitExceededErrorData::new(whom_to_ask));
        Self::new(StatusCode::FORBIDDEN, kind, message)
    }

    /// An error whose code is of a proposal that ruma does not know.
    pub fn custom(status: StatusCode, errcode: &str, message: impl Into<String>) -> Self {
        let body = serde_json::json!({ "errcode": errcode, "error": "" });
        let kind = serde_json::from_value::<StandardErrorBody>(body).map_or(ErrorKind::Unknown, |body| body.kind);
        Self::new(status, kind, message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    /// 401 `M_UNKNOWN_TOKEN`; `soft_logout` asks the client to log in again and keep its data.
    pub fn unknown_token(soft_logout: bool, message: impl Into<String>) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::UnknownToken(data), message)
    }

    /// 429 `M_LIMIT_EXCEEDED` with `retry_after_ms`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        Self::limit_exceeded_since(retry_after, "Too many requests. Wait a moment and try again.")
    }

    /// The same, saying of what there was too much.
    pub fn limit_exceeded_since(retry_after: Duration, message: impl Into<String>) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorKind::LimitExceeded(data), message)
    }

    /// 403 `M_WRONG_ROOM_KEYS_VERSION`, naming the version that is current.
    pub fn wrong_room_keys_version(current: Option<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorKind::WrongRoomKeysVersion(WrongRoomKeysVersionErrorData::new(current.unwrap_or_default())),
            "This is not the current version of the key backup.",
        )
    }

    /// 401 with a user-interactive authentication challenge as its body.
    pub fn uiaa(body: serde_json::Value) -> Self {
        Self(Box::new(Reason::Uiaa(body)))
    }

    /// A row that the schema cannot explain.
    pub fn corrupt(tree: &'static str, key: impl Into<Vec<u8>>) -> Self {
        Self(Box::new(Reason::Corrupt { tree, key: key.into() }))
    }

    /// A fault of ours; `message` is for the log only.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self(Box::new(Reason::Internal(message.to_string())))
    }

    /// What the error says.
    pub fn reason(&self) -> &Reason {
        &self.0
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        match self.reason() {
            Reason::Matrix { status, .. } => *status,
            Reason::Uiaa(_) => StatusCode::UNAUTHORIZED,
            Reason::Corrupt { .. } | Reason::Database(_) | Reason::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What a client is told: `errcode` and `error`.
    pub fn told(&self) -> (String, String) {
        match self.reason() {
            Reason::Matrix { kind, message, .. } => (kind.errcode().to_string(), message.clone()),
            _ => (ErrorKind::Unknown.errcode().to_string(), "Something went wrong on the server.".to_owned()),
        }
    }

    /// Whether the error is `M_NOT_FOUND` (for operations in which absence is a normal answer).
    pub fn is_not_found(&self) -> bool {
        matches!(self.reason(), Reason::Matrix { kind: ErrorKind::NotFound, .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Reason::Matrix { kind, message, .. } => write!(f, "{}: {message}", kind.errcode()),
            Reason::Uiaa(_) => f.write_str("user-interactive authentication required"),
            Reason::Corrupt { tree, key } => {
                write!(f, "the database row {} of tree {tree} is damaged", key.escape_ascii())
            }
            Reason::Database(error) => write!(f, "the database failed: {error}"),
            Reason::Internal(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        Self(Box::new(Reason::Database(error)))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}

impl From<serde_json::Error> for Error {
    /// For JSON of our own making; what comes from outside is `M_BAD_JSON` where it is read.
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format_args!("JSON of our own making: {error}"))
    }
}
