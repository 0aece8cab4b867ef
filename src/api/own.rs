//! Request and response types of our own, for where ruma's cannot hold what the specification or clients need.
//!
//! Such a type stands beside its handler. It takes method, paths, authentication and rate limit from the ruma type that
//! it stands in for ([`stands_in_for`](crate::stands_in_for)), says how it is read ([`reads`](crate::reads)), and often
//! answers with [`Json`] ([`answers_json`](crate::answers_json)).

use http::{HeaderValue, Request, Response, StatusCode};
use ruma::{
    api::{
        OutgoingBody, OutgoingResponse,
        error::{DeserializationError, IntoHttpError},
    },
    exports::{bytes::BufMut, serde_html_form},
};
use serde::{
    Serialize,
    de::{DeserializeOwned, value::SeqDeserializer},
};

/// A response with status 200 whose body is `T` as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// The same with another status.
#[derive(Debug, Clone)]
pub struct JsonWith<T>(pub StatusCode, pub T);

impl<T: Serialize> OutgoingResponse for JsonWith<T> {
    type Body = JsonBody<T>;

    fn try_into_http_response_inner(self) -> Result<Response<Self::Body>, IntoHttpError> {
        let mut response = Response::new(JsonBody(self.1));
        *response.status_mut() = self.0;
        Ok(response)
    }
}

/// The body of a [`Json`] response.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(T);

impl<T: Serialize> OutgoingResponse for Json<T> {
    type Body = JsonBody<T>;

    fn try_into_http_response_inner(self) -> Result<Response<Self::Body>, IntoHttpError> {
        Ok(Response::new(JsonBody(self.0)))
    }
}

impl<T: Serialize> OutgoingBody for JsonBody<T> {
    type Error = serde_json::Error;

    fn content_type(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static("application/json"))
    }

    fn try_into_buf<B: Default + BufMut + AsRef<[u8]>>(self) -> Result<B, Self::Error> {
        let mut buffer = B::default().writer();
        serde_json::to_writer(&mut buffer, &self.0)?;
        Ok(buffer.into_inner())
    }
}

/// The variables of a request's path.
///
/// # Errors
/// When one is not of its type.
pub fn path<T: DeserializeOwned>(path_args: &[&str]) -> Result<T, DeserializationError> {
    let args = SeqDeserializer::<_, serde::de::value::Error>::new(path_args.iter().copied());
    Ok(T::deserialize(args)?)
}

/// The query of a request.
///
/// # Errors
/// When a parameter is missing or not of its type.
pub fn query<T: DeserializeOwned>(request: &Request<&[u8]>) -> Result<T, DeserializationError> {
    Ok(serde_html_form::from_str(request.uri().query().unwrap_or_default())?)
}

/// The JSON body of a request; that of a `GET` is an empty object.
///
/// # Errors
/// When it is not JSON, or not of its type.
pub fn body<T: DeserializeOwned>(request: &Request<&[u8]>) -> Result<T, DeserializationError> {
    let body = *request.body();
    Ok(serde_json::from_slice(if body.is_empty() { b"{}" } else { body })?)
}

/// Gives the request type `$ours` the metadata of ruma's request type `$theirs`, or all of it but the authentication
/// scheme.
#[macro_export]
macro_rules! stands_in_for {
    ($ours:ty, $theirs:ty) => {
        $crate::stands_in_for!($ours, $theirs, <$theirs as ruma::api::Metadata>::Authentication);
    };
    ($ours:ty, $theirs:ty, $authentication:ty) => {
        impl ruma::api::Metadata for $ours {
            const METHOD: ruma::exports::http::Method = <$theirs as ruma::api::Metadata>::METHOD;
            const RATE_LIMITED: bool = <$theirs as ruma::api::Metadata>::RATE_LIMITED;
            type Authentication = $authentication;
            type PathBuilder = <$theirs as ruma::api::Metadata>::PathBuilder;
            const PATH_BUILDER: Self::PathBuilder = <$theirs as ruma::api::Metadata>::PATH_BUILDER;
        }
    };
}

/// Declares how a request type of our own is read from the HTTP request and the variables of its path, and what it is
/// answered with.
#[macro_export]
macro_rules! reads {
    ($request:ty => $response:ty, |$http:ident, $args:ident| $read:expr) => {
        impl ruma::api::IncomingRequest for $request {
            type EndpointError = ruma::api::error::Error;
            type OutgoingResponse = $response;

            fn try_from_http_request_inner(
                $http: http::Request<&[u8]>,
                $args: &[&str],
            ) -> Result<Self, ruma::api::error::DeserializationError> {
                Ok($read)
            }
        }
    };
}

/// Declares a request type that is ruma's in all but its response, which is [`Json`] of a type of our own.
#[macro_export]
macro_rules! answers_json {
    ($(#[$doc:meta])* pub struct $ours:ident($theirs:ty $(, $authentication:ty)?) => $answer:ty;) => {
        $(#[$doc])*
        pub struct $ours(pub $theirs);

        $crate::stands_in_for!($ours, $theirs $(, $authentication)?);

        $crate::reads!(
            $ours => $crate::api::own::Json<$answer>,
            |request, path_args| {
                Self(<$theirs as ruma::api::IncomingRequest>::try_from_http_request_inner(request, path_args)?)
            }
        );
    };
}

/// Declares the operation that a request type of our own asks for, where ruma knows none: method and path, by what its
/// sender is known, what it is answered with, and how it is read from the HTTP request and the variables of its path.
#[macro_export]
macro_rules! operation {
    ($method:ident $path:literal, $authentication:ty: $request:ty => $response:ty, |$http:ident, $args:ident| $read:expr) => {
        impl ruma::api::Metadata for $request {
            const METHOD: http::Method = http::Method::$method;
            const RATE_LIMITED: bool = false;
            type Authentication = $authentication;
            type PathBuilder = ruma::api::path_builder::SinglePath;
            const PATH_BUILDER: Self::PathBuilder = ruma::api::path_builder::SinglePath::new($path);
        }

        $crate::reads!($request => $response, |$http, $args| $read);
    };
}
